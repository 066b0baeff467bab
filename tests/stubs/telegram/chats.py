"""Owns chats, their messages and the users in them: what a person would see on the screen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.stubs.telegram.errors import ControlError
from tests.stubs.telegram.text import Entity, FormattedText

TYPES = frozenset({"private", "group", "supergroup", "channel"})


@dataclass
class Message:
    """One message with its history.

    `history` holds every text it ever showed, oldest first; `extra` is its media, whose caption
    the text then is; `added` are raw fields that a test put into a user's message.
    """

    message_id: int
    chat: Chat
    sender: dict[str, Any]
    is_from_bot: bool
    date: float
    content: FormattedText
    reply_markup: dict[str, Any] | None = None
    reply_to: int | None = None
    thread: int | None = None
    edit_date: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    added: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    reactions: list[dict[str, Any]] = field(default_factory=list)

    def remember(self, when: float) -> None:
        """Append what is shown now to the history."""
        self.history.append({"time": when, "text": self.content.text})

    def as_json(self, with_reply: bool = True) -> dict[str, Any]:
        """Shape as the Bot API's Message."""
        shown: dict[str, Any] = {
            "message_id": self.message_id,
            "from": self.sender,
            "chat": self.chat.as_json(),
            "date": int(self.date),
        }
        if self.edit_date is not None:
            shown["edit_date"] = int(self.edit_date)
        if self.thread is not None:
            shown["message_thread_id"] = self.thread
        if with_reply and self.reply_to is not None:
            replied = self.chat.messages.get(self.reply_to)
            if replied is not None:
                shown["reply_to_message"] = replied.as_json(with_reply=False)
        is_caption = bool(self.extra)
        if self.content.text:
            shown["caption" if is_caption else "text"] = self.content.text
        if self.content.entities:
            name = "caption_entities" if is_caption else "entities"
            shown[name] = entities_as_json(self.content.entities)
        shown.update(self.extra)
        if self.reply_markup is not None:
            shown["reply_markup"] = self.reply_markup
        shown.update(self.added)
        return shown

    def for_checker(self) -> dict[str, Any]:
        """Shape for GET /chat: what is visible, and how it came about."""
        return {
            "message_id": self.message_id,
            "from": self.sender,
            "from_bot": self.is_from_bot,
            "date": self.date,
            "edit_date": self.edit_date,
            "text": self.content.text,
            "entities": entities_as_json(self.content.entities),
            "reply_markup": self.reply_markup,
            "reply_to_message_id": self.reply_to,
            "message_thread_id": self.thread,
            "extra": {**self.extra, **self.added},
            "reactions": self.reactions,
            "edits": self.history,
        }


@dataclass
class Chat:
    """A private chat, group, supergroup or channel."""

    chat_id: int
    type: str
    described: dict[str, Any]
    messages: dict[int, Message] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)
    is_blocked: bool = False
    last_number: int = 0
    moved_to: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Shape as the Bot API's Chat."""
        return self.described


class Chats:
    """All chats the bot could know, by id."""

    def __init__(self) -> None:
        self._chats: dict[int, Chat] = {}
        self._last_number = 0

    def find(self, chat_id: int) -> Chat | None:
        """Return the chat if the bot has ever seen it."""
        return self._chats.get(chat_id)

    def ids(self) -> list[int]:
        """Ids of all chats."""
        return list(self._chats)

    def meet(self, described: dict[str, Any]) -> Chat:
        """Return the chat described as in the Bot API, making it known if it is new."""
        chat_id = described.get("id")
        kind = described.get("type")
        if not isinstance(chat_id, int) or kind not in TYPES:
            raise ControlError(f"chat needs an integer id and a type of {', '.join(sorted(TYPES))}")
        if (kind == "private") != (chat_id > 0):
            raise ControlError(f"chat id {chat_id}: private chats are positive, others negative")
        chat = self._chats.get(chat_id)
        if chat is None:
            chat = self._chats[chat_id] = Chat(chat_id, kind, described)
        else:
            chat.described = {**chat.described, **described}
        return chat

    def next_number(self, chat: Chat) -> int:
        """Return a new message id: one row for all private chats and groups, else per chat."""
        if chat.type in {"supergroup", "channel"}:
            chat.last_number += 1
            return chat.last_number
        self._last_number += 1
        return self._last_number

    def add(
        self,
        chat: Chat,
        sender: dict[str, Any],
        content: FormattedText,
        *,
        is_from_bot: bool,
        reply_markup: dict[str, Any] | None = None,
        reply_to: int | None = None,
        thread: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Message:
        """Append a message to the chat."""
        message = Message(
            message_id=self.next_number(chat),
            chat=chat,
            sender=sender,
            is_from_bot=is_from_bot,
            date=time.time(),
            content=content,
            reply_markup=reply_markup,
            reply_to=reply_to,
            thread=thread,
            extra=extra or {},
        )
        message.remember(message.date)
        chat.messages[message.message_id] = message
        return message


def private_chat(user: dict[str, Any]) -> dict[str, Any]:
    """Describe the private chat of a user."""
    names = ("first_name", "last_name", "username")
    known = {name: user[name] for name in names if name in user}
    return {"id": user["id"], **known, "type": "private"}


def entities_as_json(entities: tuple[Entity, ...]) -> list[dict[str, Any]]:
    """Shape entities as in the Bot API."""
    return [entity.as_json() for entity in entities]
