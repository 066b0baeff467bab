"""What the gateway streams to the relay: replies, how they grow, and which relay is current.

On the line an event is one server-sent event whose data is a JSON object with a `type`.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Button(BaseModel):
    """An inline button under a reply."""

    model_config = ConfigDict(frozen=True)

    label: str
    data: str = Field(max_length=64)


class Reply(BaseModel):
    """Something the bot says in a chat: an answer, help, a refusal. It may still be growing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    chat_id: int
    thread_id: int = 0
    reply_to: int = 0
    """The message that it replies to; 0 for none."""
    text: str = ""
    status: str = ""
    """Shown while there is no text yet: the place in the queue, for example."""
    closed: bool = False
    buttons: tuple[Button, ...] = ()
    parts: tuple[int, ...] = ()
    """Telegram's ids of the messages that carry it so far, first part first."""
    markup: Literal["plain", "markdown"] = "plain"
    """Since version 2: how the text is written. The bot's own sentences are plain."""
    file: str = ""
    """Since version 2: the name of the file whose caption the text is; its content is asked for
    by itself. Such a reply is closed from the start."""
    document: str = ""
    """Since version 2: the user's document that must be brought here before the reply can go on,
    by its `Update.document_id`; of several the first, and `opened` says the next."""
    is_photo: bool = False
    """Since version 2: whether the file is to be shown as a photo."""


class Hello(BaseModel):
    """First on every stream: the replies that are not delivered, each `opened` in what follows."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["hello"] = "hello"
    epoch: int
    """Names this stream. Writes that carry an older epoch are rejected."""
    undelivered: tuple[int, ...]
    guests: tuple[int, ...] = ()
    """Since version 2: users whom the gateway serves beyond the configured list."""
    invitations: tuple[str, ...] = ()
    """Since version 2: SHA-256, in hexadecimal digits, of the codes that let somebody in, once."""
    admins: tuple[int, ...] = ()
    """Since version 2: users whose menus name the commands of admins, too."""
    former_admins: tuple[int, ...] = ()
    """Since version 2: users whose menus did, and shall not any more."""


class Guests(BaseModel):
    """The users whom the gateway serves beyond the configured list are these now; invitations too.

    Since version 2.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["guests"] = "guests"
    users: tuple[int, ...]
    invitations: tuple[str, ...] = ()


class Opened(BaseModel):
    """A reply that the relay does not know yet, as it stands now."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["opened"] = "opened"
    reply: Reply


class Grown(BaseModel):
    """The reply's text from character `at` on is now `text`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["grown"] = "grown"
    reply_id: int
    at: int = Field(ge=0)
    text: str


class Status(BaseModel):
    """What to show while the reply has no text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["status"] = "status"
    reply_id: int
    status: str


class Closed(BaseModel):
    """The reply is complete: this is its whole text, and these are its last buttons."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["closed"] = "closed"
    reply_id: int
    text: str
    buttons: tuple[Button, ...] = ()


class Superseded(BaseModel):
    """Another relay has connected; this stream ends."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["superseded"] = "superseded"


Event: TypeAlias = Hello | Guests | Opened | Grown | Status | Closed | Superseded

_EVENT: TypeAdapter[Event] = TypeAdapter(
    Annotated[
        Hello | Guests | Opened | Grown | Status | Closed | Superseded,
        Field(discriminator="type"),
    ]
)


def encode_event(event: Event) -> bytes:
    """Write one server-sent event, its closing empty line included."""
    return b"data: " + event.model_dump_json().encode() + b"\n\n"


def decode_event(frame: bytes) -> Event | None:
    """Read one server-sent event without its closing empty line.

    Returns None for a comment (the stream's sign of life) and for an event type that this
    version does not know. Raises pydantic.ValidationError for a malformed event.
    """
    if not frame.startswith(b"data: "):
        return None
    try:
        return _EVENT.validate_json(frame[6:])
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] == "union_tag_invalid":
            return None
        raise
