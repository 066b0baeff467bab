"""Turns what Telegram delivers into what the gateway is told, and drops what nobody may say.

Only the few fields that matter are read, so that what Telegram adds tomorrow spoils no message.
"""

import logging
from collections import Counter, deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from services.relay.addressing import Identity
from services.relay.presence import Presence
from services.relay.telegram import RawUpdate
from services.wire import (
    MAX_ALBUM,
    MAX_FILE_ID,
    MAX_FILE_NAME,
    MAX_QUOTED,
    Update,
    invitation_in,
)

log = logging.getLogger(__name__)

ALLOWED_UPDATES = ["message", "edited_message", "callback_query"]
"""What Telegram is asked to deliver. Everything else never leaves Telegram."""

ATTACHMENTS = (
    "animation", "audio", "checklist", "contact", "dice", "document", "game", "live_photo",
    "venue", "location", "paid_media", "photo", "poll", "rich_message", "sticker", "story",
    "video", "video_note", "voice",
)  # fmt: skip
"""What a user sends beside or instead of text. For older readers Telegram adds to an animation a
document, and to a venue a location, so those stand behind."""

FILES = ("document", "voice", "audio", "video_note", "photo")
"""What can be brought on demand."""

PHOTO_SIDE = 1024
"""Pixels of the longer side that are enough of a photo, which Telegram keeps in several sizes."""

MOST_ALBUMS = 100
"""So many are remembered in which one message has spoken to the bot: the others belong to it."""

CONTENT = frozenset({"text", *ATTACHMENTS})
"""What a user sends on purpose. The rest are Telegram's notes, such as of a pinned message."""


ChatKind = Literal["private", "group", "supergroup"]


@dataclass(frozen=True)
class TurnedAway:
    """Nobody is told anything of this update, and Telegram may forget it."""

    why: str


@dataclass(frozen=True)
class Undecided:
    """Its sender may be a guest of the gateway, which has not named its guests yet."""


Verdict: TypeAlias = Update | TurnedAway | Undecided


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
    migrate_to_chat_id: int = 0

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
    """Lets the updates of allowed users and of guests through; everybody else gets silence."""

    allowed_users: Container[int]
    presence: Presence
    identity: Identity

    def __post_init__(self) -> None:
        self.turned_away: Counter[str] = Counter()
        self._albums: deque[tuple[int, str]] = deque(maxlen=MOST_ALBUMS)
        """Albums of groups in which a message has spoken to the bot, by their chats."""

    def admit(self, raw: RawUpdate) -> Verdict:
        """Translate one update, or say why not; its text is not logged."""
        try:
            if "message" in raw:
                return self._admit_message(raw["update_id"], "message", raw["message"])
            if "edited_message" in raw:
                return self._admit_message(raw["update_id"], "edit", raw["edited_message"])
            if "callback_query" in raw:
                return self._admit_press(raw["update_id"], raw["callback_query"])
        except ValidationError:
            return TurnedAway("unreadable")
        return TurnedAway("kind")

    def count(self, verdict: TurnedAway) -> None:
        """Note that Telegram forgets this update now."""
        self.turned_away[verdict.why] += 1
        level = logging.WARNING if verdict.why == "unreadable" else logging.DEBUG
        extra = {"why": verdict.why, "count": self.turned_away[verdict.why]}
        log.log(level, "turned away", extra=extra)

    def _admit_message(
        self, update_id: int, kind: Literal["message", "edit"], raw: dict[str, Any]
    ) -> Verdict:
        message = _Message.model_validate(raw)
        chat_kind = _kind_of(message.chat)
        if not chat_kind:
            return TurnedAway("chat")
        if message.migrate_to_chat_id and chat_kind == "group":
            return _move(update_id, message)
        text = message.text or message.caption
        album = message.chat.id, _album(raw)
        if chat_kind != "private":
            addressed = self.identity.text_for(raw)
            if addressed is None and album in self._albums:
                addressed = text or ""
            if addressed is None:
                return TurnedAway("chat")
            text = addressed or None
        if not message.sender:
            return TurnedAway("stranger")
        verdict = self._judge(message.sender)
        is_private = kind == "message" and chat_kind == "private"
        if verdict and not (is_private and invitation_in(text or "") in self.presence.invitations):
            return verdict
        if CONTENT.isdisjoint(raw):
            return TurnedAway("note")
        if album[1] and chat_kind != "private" and album not in self._albums:
            self._albums.append(album)
        return Update(
            update_id=update_id,
            kind=kind,
            chat_id=message.chat.id,
            thread_id=message.thread_id,
            chat_kind=chat_kind,
            user_id=message.sender.id,
            language=message.sender.language,
            message_id=message.message_id,
            sent_at=message.date,
            edited_at=message.edit_date,
            text=text,
            attachment=next((name for name in ATTACHMENTS if name in raw), ""),
            is_forwarded="forward_origin" in raw,
            **_document(raw),
            album=album[1],
            **_refers_to(raw),
        )

    def _admit_press(self, update_id: int, raw: object) -> Verdict:
        press = _Press.model_validate(raw)
        verdict = self._judge(press.sender)
        if verdict:
            return verdict
        chat_kind = _kind_of(press.message.chat) if press.message else None
        if not press.message or not chat_kind:
            return TurnedAway("chat")
        return Update(
            update_id=update_id,
            kind="press",
            chat_id=press.message.chat.id,
            thread_id=press.message.thread_id,
            chat_kind=chat_kind,
            user_id=press.sender.id,
            language=press.sender.language,
            message_id=press.message.message_id,
            sent_at=0,
            press_id=press.id,
            press_data=press.data,
        )

    def _judge(self, sender: _User) -> TurnedAway | Undecided | None:
        if sender.is_bot:
            return TurnedAway("stranger")
        if sender.id in self.allowed_users:
            return None
        if self.presence.guests is None:
            return Undecided()
        return None if sender.id in self.presence.guests else TurnedAway("stranger")


def _kind_of(chat: _Chat) -> ChatKind | None:
    match chat.type:
        case "private" | "group" | "supergroup" as kind:
            return kind
    return None


def _refers_to(raw: dict[str, Any]) -> dict[str, Any]:
    """Read leniently what a message replies to: an odd one must not cost the message."""
    replied_to, quote = _object(raw, "reply_to_message"), _object(raw, "quote")
    text = quote.get("text") or replied_to.get("text") or replied_to.get("caption")
    number = replied_to.get("message_id")
    return {
        "reply_to": number if isinstance(number, int) and 0 < number < 2**63 else 0,
        "quoted": text[:MAX_QUOTED] if isinstance(text, str) else "",
        "is_excerpt": bool(quote.get("text")),
    }


def _document(raw: dict[str, Any]) -> dict[str, Any]:
    """Read leniently which file a message carries; animations come as documents, too."""
    kind = next((kind for kind in FILES if kind in raw and "animation" not in raw), "")
    document = _photo(raw) if kind == "photo" else _object(raw, kind)
    file_id, name, size = (document.get(key) for key in ("file_id", "file_name", "file_size"))
    if not isinstance(file_id, str) or not 0 < len(file_id) <= MAX_FILE_ID:
        return {}
    return {
        "document_id": file_id,
        "document_name": name[-MAX_FILE_NAME:] if isinstance(name, str) else "",
        "document_bytes": size if isinstance(size, int) and 0 <= size < 2**63 else 0,
    }


def _photo(raw: dict[str, Any]) -> dict[str, Any]:
    """Choose the smallest size of a photo that is large enough, or else the largest."""
    listed = raw["photo"] if isinstance(raw["photo"], list) else []
    sizes = [(_side(size), size) for size in listed if isinstance(size, dict) and _side(size)]
    enough = [(side, size) for side, size in sizes if side >= PHOTO_SIDE]
    choice = min if enough else max
    _, size = choice(enough or sizes, key=lambda pair: pair[0], default=(0, {}))
    return size


def _side(size: dict[str, Any]) -> int:
    sides = [size.get("width"), size.get("height")]
    return max((side for side in sides if isinstance(side, int)), default=0)


def _album(raw: dict[str, Any]) -> str:
    album = raw.get("media_group_id")
    return album if isinstance(album, str) and len(album) <= MAX_ALBUM else ""


def _object(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _move(update_id: int, message: _Message) -> Update:
    """Say that a group has a new id: nothing but ids, so whoever has sent it."""
    return Update(
        update_id=update_id,
        kind="move",
        chat_id=message.chat.id,
        chat_kind="group",
        user_id=message.sender.id if message.sender else 0,
        message_id=message.message_id,
        sent_at=message.date,
        moved_to=message.migrate_to_chat_id,
    )
