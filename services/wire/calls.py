"""What the relay tells the gateway about a reply; each call carries the epoch of its stream."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from services.wire.updates import Number


class Claim(BaseModel):
    """Asks whether this relay is still the one that may write: before each final edit."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int


class PartRecord(BaseModel):
    """The Telegram message that carries part `position` of the reply."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int
    chat_id: Number = 0
    """Since version 2: where it stands. One in a group that has moved since is of no use."""
    position: int = Field(ge=0, le=999)
    message_id: int = Field(gt=0, lt=2**63)


class Outcome(BaseModel):
    """The end of a reply: all of it stands in the chat, or it can never stand there.

    `moved` (since version 2): the chat is a supergroup now; the reply goes on there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int
    outcome: Literal["delivered", "undeliverable", "moved"]
    moved_to: Number = 0
    parts: int | None = Field(default=None, ge=0)
    """Since version 2: how many messages carry it now; None: all that were recorded."""
