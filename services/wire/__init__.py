"""The messages between the relay and the gateway, and their version; it knows neither side."""

from services.wire.calls import Claim, Outcome, PartRecord
from services.wire.events import (
    Button,
    Closed,
    Event,
    Grown,
    Guests,
    Hello,
    Opened,
    Reply,
    Status,
    Superseded,
    decode_event,
    encode_event,
)
from services.wire.invitations import digest_of, invitation_in
from services.wire.updates import (
    MAX_ALBUM,
    MAX_BATCH,
    MAX_FILE_ID,
    MAX_FILE_NAME,
    MAX_QUOTED,
    Batch,
    Receipt,
    Receipts,
    Update,
)

VERSION = 2
"""Travels in the header `Wire-Version` of every request, and of every refusal for its sake."""

SPOKEN = frozenset({VERSION - 1, VERSION})
"""The nodes are upgraded one after the other, so each also speaks the version before its own."""

VERSION_HEADER = "Wire-Version"

__all__ = [
    "MAX_ALBUM",
    "MAX_BATCH",
    "MAX_FILE_ID",
    "MAX_FILE_NAME",
    "MAX_QUOTED",
    "SPOKEN",
    "VERSION",
    "VERSION_HEADER",
    "Batch",
    "Button",
    "Claim",
    "Closed",
    "Event",
    "Grown",
    "Guests",
    "Hello",
    "Opened",
    "Outcome",
    "PartRecord",
    "Receipt",
    "Receipts",
    "Reply",
    "Status",
    "Superseded",
    "Update",
    "decode_event",
    "digest_of",
    "encode_event",
    "invitation_in",
]
