"""What a batch of updates brings about, once it is on the disk and not before."""

from dataclasses import dataclass
from typing import TypeAlias

from services.gateway.store import Ask
from services.wire import Reply


@dataclass(frozen=True)
class Opened:
    """There is a new reply."""

    reply: Reply


@dataclass(frozen=True)
class Replaced:
    """Another reply stands in the messages of this one, which needs to be shown no more."""

    reply_id: int


@dataclass(frozen=True)
class Asked:
    """An ask waits; or one that waits has become longer, and its delay begins anew."""

    ask: Ask
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """A reply waits for this document now, and shows this meanwhile."""

    reply_id: int
    document: str
    status: str


@dataclass(frozen=True)
class Completed:
    """An ask has the documents that it lacked."""

    ask: Ask


@dataclass(frozen=True)
class Withdrawn:
    """An ask is closed with these words, whether it waited or was being answered."""

    ask: Ask
    shown: str


@dataclass(frozen=True)
class Stopped:
    """An ask that is being answered shall be answered no further."""

    ask_id: int


@dataclass(frozen=True)
class GuestsChanged:
    """Admins have let somebody in, shown them out, or invited somebody."""

    guests: tuple[int, ...]
    invitations: tuple[str, ...]


@dataclass(frozen=True)
class Paused:
    """Admins let asks wait, or let them be answered again."""

    is_paused: bool


@dataclass(frozen=True)
class Moved:
    """A group is a supergroup now; these of its replies go on there."""

    old_chat_id: int
    new_chat_id: int
    replies: list[Reply]


@dataclass(frozen=True)
class Forgotten:
    """Something was deleted that must leave the journal, too."""


Effect: TypeAlias = (
    Opened
    | Replaced
    | Asked
    | Wanted
    | Completed
    | Withdrawn
    | Stopped
    | GuestsChanged
    | Paused
    | Moved
    | Forgotten
)
