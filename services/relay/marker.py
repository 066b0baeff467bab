"""Remembers at Telegram what a chat has been told: the relay may keep nothing, and may restart.

Telegram keeps a menu of commands for each chat and language. Nobody's client speaks Volapük, so
what stands in a chat's Volapük menu is seen by nobody; and it names the messages that it is about,
so it needs no clearing: in a later sleep other messages wait.
"""

import re
from dataclasses import dataclass

from aiogram import Bot
from aiogram.types import BotCommand, BotCommandScopeChat

from services.relay.telegram import GetRawCommands

LANGUAGE = "vo"
COMMAND = "asleep"


@dataclass(frozen=True)
class Marker:
    """What a chat has been told, and about which of its messages."""

    message_id: int
    """The oldest message that waited then."""
    stage: int
    """1: the answer comes later; 2: the message is about to be lost."""
    until: int
    """The Unix time, by Telegram's clock, of the newest message that waited then."""

    def covers(self, stage: int, happened_at: int) -> bool:
        """Tell whether this much has been said about a message of that time."""
        return self.stage >= stage and self.until >= happened_at


NOTHING = Marker(0, 0, 0)


async def read_marker(bot: Bot, chat_id: int) -> Marker:
    """Read a chat's marker; NOTHING if there is none. Raises AiogramError or OSError."""
    commands = await bot(GetRawCommands(scope=_scope(chat_id), language_code=LANGUAGE))
    for command in commands:
        if command.get("command") == COMMAND:
            parts = re.fullmatch(r"(\d{1,19}):(\d):(\d{1,19})", str(command.get("description")))
            if parts:
                return Marker(*map(int, parts.groups()))
    return NOTHING


async def write_marker(bot: Bot, chat_id: int, marker: Marker) -> None:
    """Replace a chat's marker. Raises AiogramError or OSError."""
    description = f"{marker.message_id}:{marker.stage}:{marker.until}"
    await bot.set_my_commands(
        [BotCommand(command=COMMAND, description=description)],
        scope=_scope(chat_id),
        language_code=LANGUAGE,
    )


def _scope(chat_id: int) -> BotCommandScopeChat:
    return BotCommandScopeChat(chat_id=chat_id)
