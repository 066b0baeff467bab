"""Turns what Telegram delivers into what the gateway is told, and drops what nobody may say.

Only the few fields that matter are read, so that what Telegram adds tomorrow spoils no message.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from services.relay.telegram import RawUpdate
from services.wire import Update

log = logging.getLogger(__name__)

ALLOWED_UPDATES = ["message", "edited_message", "callback_query"]
"""What Telegram is asked to deliver. Everything else never leaves Telegram."""

CONTENT = frozenset(
    {
        "text", "animation", "audio", "checklist", "contact", "dice", "document", "game",
        "live_photo", "location", "paid_media", "photo", "poll", "rich_message", "sticker",
        "story", "venue", "video", "video_note", "voice",
    }
)  # fmt: skip
"""What a user sends on purpose. The rest are Telegram's notes, such as of a pinned message."""


class _User(BaseModel):
    id: int
    is_bot: bool = False
    language_code: str | None = None

    @property
    def language(self) -> str:
        return (self.language_code or "")[:35]


class _Chat(BaseModel):
    id: int
    type: str


class _Message(BaseModel):
    message_id: int
    date: int
    chat: _Chat
    sender: _User | None = Field(default=None, alias="from")
    text: str | None = None
    caption: str | None = None
    edit_date: int = 0
    is_topic_message: bool = False
    message_thread_id: int = 0

    @property
    def thread_id(self) -> int:
        return self.message_thread_id if self.is_topic_message else 0


class _Press(BaseModel):
    id: str
    sender: _User = Field(alias="from")
    message: _Message | None = None
    data: str = ""


@dataclass
class Doorman:
    """Lets the updates of allowed users through; everybody else gets silence and is counted."""

    allowed_users: frozenset[int]

    def __post_init__(self) -> None:
        self.turned_away: Counter[str] = Counter()

    def admit(self, raw: RawUpdate) -> Update | None:
        """Translate one update. None: it is dropped, whatever it was; its text is not logged."""
        try:
            if "message" in raw:
                return self._admit_message(raw["update_id"], "message", raw["message"])
            if "edited_message" in raw:
                return self._admit_message(raw["update_id"], "edit", raw["edited_message"])
            if "callback_query" in raw:
                return self._admit_press(raw["update_id"], raw["callback_query"])
        except ValidationError:
            return self._turn_away("unreadable")
        return self._turn_away("kind")

    def _admit_message(
        self, update_id: int, kind: Literal["message", "edit"], raw: object
    ) -> Update | None:
        message = _Message.model_validate(raw)
        if not message.sender or message.sender.id not in self.allowed_users:
            return self._turn_away("stranger")
        if message.chat.type != "private" or message.sender.is_bot:
            return self._turn_away("chat")
        if not isinstance(raw, dict) or CONTENT.isdisjoint(raw):
            return self._turn_away("note")
        text = message.text or message.caption
        return Update(
            update_id=update_id,
            kind=kind,
            chat_id=message.chat.id,
            thread_id=message.thread_id,
            chat_kind="private",
            user_id=message.sender.id,
            language=message.sender.language,
            message_id=message.message_id,
            sent_at=message.date,
            edited_at=message.edit_date,
            text=text,
        )

    def _admit_press(self, update_id: int, raw: object) -> Update | None:
        press = _Press.model_validate(raw)
        if press.sender.id not in self.allowed_users:
            return self._turn_away("stranger")
        if not press.message or press.message.chat.type != "private":
            return self._turn_away("chat")
        return Update(
            update_id=update_id,
            kind="press",
            chat_id=press.message.chat.id,
            thread_id=press.message.thread_id,
            chat_kind="private",
            user_id=press.sender.id,
            language=press.sender.language,
            message_id=press.message.message_id,
            sent_at=0,
            press_id=press.id,
            press_data=press.data,
        )

    def _turn_away(self, why: str) -> Update | None:
        self.turned_away[why] += 1
        level = logging.WARNING if why == "unreadable" else logging.DEBUG
        log.log(level, "turned away", extra={"why": why, "count": self.turned_away[why]})
        return None
