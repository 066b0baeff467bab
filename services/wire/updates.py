"""What a user did, on its way from the relay to the gateway, and the gateway's receipt for it."""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What the store can hold, and far more than Telegram uses."""

MAX_QUOTED = 4096

MAX_FILE_ID = 256

MAX_FILE_NAME = 255

MAX_ALBUM = 64

MAX_BATCH = 100
"""Updates in one batch: as many as one getUpdates call returns at most."""


class Update(BaseModel):
    """One act of one user: a message, an edit, a press of a button; or a group that has moved."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    update_id: Annotated[Number, Field(ge=0)]
    kind: Literal["message", "edit", "press", "move"]
    """`move`: Telegram has made a supergroup of the group; the chat has a new id."""
    chat_id: Number
    thread_id: Number = 0
    """The forum topic; 0 outside of topics."""
    chat_kind: Literal["private", "group", "supergroup", "channel"]
    user_id: Number
    language: str = Field(default="", max_length=35)
    """The IETF tag that the user's client reports; empty when it reports none."""
    message_id: Number
    """The message itself, or the one whose button was pressed."""
    sent_at: Annotated[Number, Field(ge=0)]
    """Unix time in seconds, by Telegram's clock."""
    edited_at: Number = 0
    text: str | None = Field(default=None, max_length=16_384)
    """None: the message carries something else than text."""
    attachment: str = Field(default="", max_length=32)
    """What it carries beside or instead of text, by Telegram's name: `photo`. Since version 2."""
    reply_to: Number = 0
    """The message that it replies to; 0 for none. Since version 2."""
    quoted: str = Field(default="", max_length=MAX_QUOTED)
    """What that message says, from its beginning, or the excerpt that was quoted of it. Since
    version 2."""
    is_excerpt: bool = False
    """Whether the user has chosen what is quoted. Since version 2."""
    is_forwarded: bool = False
    """Whether somebody has said it elsewhere before. Since version 2."""
    document_id: str = Field(default="", max_length=MAX_FILE_ID)
    """What Telegram calls the file of a document or recording, for `Reply.document`. Since
    version 2."""
    document_name: str = Field(default="", max_length=MAX_FILE_NAME)
    document_bytes: Annotated[Number, Field(ge=0)] = 0
    """Its size; 0: Telegram does not say."""
    album: str = Field(default="", max_length=MAX_ALBUM)
    """What Telegram calls the album that the message is one of; empty: it stands alone. Since
    version 2."""
    press_id: str = Field(default="", max_length=128)
    press_data: str = Field(default="", max_length=64)
    moved_to: Number = 0
    """For `move`: the chat's new id. Since version 2."""

    def identity(self) -> bytes:
        """Tell this update from another that has the same id.

        Telegram's update ids restart at random after a quiet week
        (https://core.telegram.org/bots/api#update), so the id alone does not name an update.
        """
        parts = (self.chat_id, self.message_id, self.edited_at, self.press_id)
        return hashlib.sha256(repr(parts).encode()).digest()[:16]


class Batch(BaseModel):
    """What one getUpdates call brought, less what is not on the allow-list.

    The updates are left unparsed here: a bad one must not spoil the others.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    bot_id: Annotated[Number, Field(gt=0)]
    updates: list[dict[str, Any]] = Field(max_length=MAX_BATCH)
    bot_name: str = Field(default="", max_length=64)
    """The bot's username, for links that lead to it. Since version 2."""
    strangers: int = Field(default=0, ge=0)
    """So many updates of others were turned away since this was last said. Since version 2."""
    refused: tuple[Number, Number] | None = None
    """Packets that the rules around the relay have refused so far, inbound and outbound, as far as
    it knows. Since version 2."""


class Receipt(BaseModel):
    """What became of one update, in the batch's order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    update_id: int | None
    """None where the update was too malformed to name its id."""
    outcome: Literal["accepted", "duplicate", "refused"]
    notice: str = ""
    """Shown to the user who pressed a button."""


class Receipts(BaseModel):
    """The gateway's reply to a batch: by then every accepted update is on its disk."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    receipts: list[Receipt]
