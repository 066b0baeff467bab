"""The bot's side of Telegram. Whatever of it is imported first, aiogram comes lean."""

from services.relay.lean import import_aiogram

import_aiogram()
