"""Turns what Telegram delivers into what the gateway is told, and drops what nobody may say."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from aiogram.enums import ContentType
from aiogram.types import CallbackQuery, Message
from aiogram.types import Update as TelegramUpdate
from pydantic import ValidationError

from services.relay.telegram import RawUpdate
from services.wire import Update

log = logging.getLogger(__name__)

CONTENT = frozenset(
    {
        ContentType.TEXT,
        ContentType.ANIMATION,
        ContentType.AUDIO,
        ContentType.CONTACT,
        ContentType.DICE,
        ContentType.DOCUMENT,
        ContentType.LOCATION,
        ContentType.PAID_MEDIA,
        ContentType.PHOTO,
        ContentType.POLL,
        ContentType.STICKER,
        ContentType.STORY,
        ContentType.VENUE,
        ContentType.VIDEO,
        ContentType.VIDEO_NOTE,
        ContentType.VOICE,
    }
)
"""What a user sends on purpose. The rest are Telegram's notes, such as of a pinned message."""

ALLOWED_UPDATES = ["message", "edited_message", "callback_query"]
"""What Telegram is asked to deliver. Everything else never leaves Telegram."""


@dataclass
class Doorman:
    """Lets the updates of allowed users through; everybody else gets silence and is counted."""

    allowed_users: frozenset[int]

    def __post_init__(self) -> None:
        self.turned_away: Counter[str] = Counter()

    def admit(self, raw: RawUpdate) -> Update | None:
        """Translate one update. None: it is dropped, whatever it was; its text is not logged."""
        try:
            update = TelegramUpdate.model_validate(raw)
        except ValidationError:
            return self._turn_away("unreadable")
        kind: Literal["message", "edit"]
        match update:
            case TelegramUpdate(message=Message() as message):
                kind = "message"
            case TelegramUpdate(edited_message=Message() as message):
                kind = "edit"
            case TelegramUpdate(callback_query=CallbackQuery() as press):
                return self._admit_press(update.update_id, press)
            case _:
                return self._turn_away("kind")
        if not message.from_user or message.from_user.id not in self.allowed_users:
            return self._turn_away("stranger")
        if message.chat.type != "private" or message.from_user.is_bot:
            return self._turn_away("chat")
        if message.content_type not in CONTENT:
            return self._turn_away("note")
        return Update(
            update_id=update.update_id,
            kind=kind,
            chat_id=message.chat.id,
            thread_id=_thread(message),
            chat_kind="private",
            user_id=message.from_user.id,
            language=message.from_user.language_code or "",
            message_id=message.message_id,
            sent_at=int(message.date.timestamp()),
            edited_at=message.edit_date or 0,
            text=message.text or message.caption,
        )

    def _admit_press(self, update_id: int, press: CallbackQuery) -> Update | None:
        if press.from_user.id not in self.allowed_users:
            return self._turn_away("stranger")
        if not press.message or press.message.chat.type != "private":
            return self._turn_away("chat")
        return Update(
            update_id=update_id,
            kind="press",
            chat_id=press.message.chat.id,
            thread_id=_thread(press.message) if isinstance(press.message, Message) else 0,
            chat_kind="private",
            user_id=press.from_user.id,
            language=press.from_user.language_code or "",
            message_id=press.message.message_id,
            sent_at=0,
            press_id=press.id,
            press_data=press.data or "",
        )

    def _turn_away(self, why: str) -> Update | None:
        self.turned_away[why] += 1
        log.debug("turned away", extra={"why": why, "count": self.turned_away[why]})
        return None


def _thread(message: Message) -> int:
    return (message.message_thread_id or 0) if message.is_topic_message else 0
