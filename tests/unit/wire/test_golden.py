"""What stands on the line is fixed, version by version: the nodes are upgraded one by one.

golden/v1 was written by the code of version 1, golden/v2 by that of version 2. A file that changes
is a new version of the wire.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from services.relay.versions import complete_receipts, write_batch, write_outcome, write_part
from services.wire import (
    SPOKEN,
    VERSION,
    Batch,
    Claim,
    Hello,
    Opened,
    Outcome,
    PartRecord,
    Receipt,
    Receipts,
    Update,
    decode_event,
    encode_event,
)

GOLDEN = Path(__file__).parent / "golden"
MODELS: dict[str, type[BaseModel]] = {
    "request_chat": Batch,
    "request_claim": Claim,
    "request_part": PartRecord,
    "request_outcome_delivered": Outcome,
    "request_outcome_undeliverable": Outcome,
    "request_outcome_moved": Outcome,
    "response_receipts": Receipts,
}
NEWS = {"request_outcome_moved", "event_guests"}
"""What version 1 does not know."""


def golden(version: int, name: str) -> bytes:
    return (GOLDEN / f"v{version}" / f"{name}.json").read_bytes().removesuffix(b"\n")


def names(version: int) -> set[str]:
    return {file.stem for file in (GOLDEN / f"v{version}").glob("*.json")}


def of_tomorrow(value: Any) -> Any:
    """Add to every object a field that nobody knows yet."""
    match value:
        case dict():
            return {key: of_tomorrow(inner) for key, inner in value.items()} | {"mood": "good"}
        case list():
            return [of_tomorrow(inner) for inner in value]
    return value


def read(name: str, line: bytes) -> BaseModel:
    if name.startswith("event_"):
        event = decode_event(b"data: " + line)
        assert event is not None
        return event
    return MODELS[name].model_validate_json(line)


def test_every_message_of_each_spoken_version_is_fixed() -> None:
    """There is a file for each message and version, and none for what is not spoken any more."""
    events = {
        "hello", "guests", "opened", "grown", "status", "closed", "superseded",
    }  # fmt: skip
    known = set(MODELS) | {f"event_{kind}" for kind in events}

    assert {file.name for file in GOLDEN.iterdir()} == {f"v{version}" for version in SPOKEN}
    assert names(VERSION) == known
    assert names(VERSION - 1) == known - NEWS


@pytest.mark.parametrize("name", sorted(names(VERSION)))
def test_current_version_is_written_as_it_was_fixed(name: str) -> None:
    """What is read is written again to the letter."""
    line = golden(VERSION, name)
    message = read(name, line)

    if name.startswith("event_"):
        assert encode_event(message) == b"data: " + line + b"\n\n"  # type: ignore[arg-type]  # an event
    else:
        assert message.model_dump_json().encode() == line
    if isinstance(message, Batch):
        updates = [Update.model_validate(raw).model_dump() for raw in message.updates]
        assert updates == message.updates


@pytest.mark.parametrize("name", sorted(names(VERSION - 1)))
def test_version_before_is_read(name: str) -> None:
    """A node of the version before is understood: it says the same, less what is new."""
    before, now = read(name, golden(VERSION - 1, name)), read(name, golden(VERSION, name))

    if isinstance(before, Batch) and isinstance(now, Batch):
        known = [Update.model_validate(raw) for raw in now.updates]
        news = {"attachment": "", "reply_to": 0, "quoted": "", "is_excerpt": False}
        news |= {"is_forwarded": False, "document_id": "", "document_name": "", "document_bytes": 0}
        news |= {"album": ""}
        expected = [u.model_copy(update=news) for u in known if u.kind != "move"]
        assert [Update.model_validate(raw) for raw in before.updates] == expected
    elif isinstance(before, Receipts) and isinstance(now, Receipts):
        assert before.receipts == [it for it in now.receipts if it.update_id != 14]
    elif isinstance(before, Hello) and isinstance(now, Hello):
        news = {"guests": (), "invitations": (), "admins": (), "former_admins": ()}
        assert before == now.model_copy(update=news)
    elif isinstance(before, PartRecord) and isinstance(now, PartRecord):
        assert before == now.model_copy(update={"chat_id": 0})
    elif isinstance(before, Outcome) and isinstance(now, Outcome):
        assert before == now.model_copy(update={"parts": None})
    elif isinstance(before, Opened) and isinstance(now, Opened):
        assert before.reply == now.reply.model_copy(
            update={"markup": "plain", "file": "", "document": "", "is_photo": False}
        )
    else:
        assert before == now


@pytest.mark.parametrize("name", sorted(names(VERSION)))
def test_fields_of_the_next_version_are_ignored(name: str) -> None:
    """A newer node may say more, anywhere: what is known of it is read."""
    line = golden(VERSION, name)
    newer = json.dumps(of_tomorrow(json.loads(line))).encode()

    message, expected = read(name, newer), read(name, line)

    if isinstance(message, Batch) and isinstance(expected, Batch):
        assert [Update.model_validate(raw) for raw in message.updates] == [
            Update.model_validate(raw) for raw in expected.updates
        ]
    else:
        assert message == expected


def test_requests_for_a_gateway_of_version_1_are_as_version_1_wrote_them() -> None:
    """Groups that move are left out, and so are the fields that version 1 does not know."""
    batch = Batch.model_validate_json(golden(2, "request_chat"))
    part = PartRecord.model_validate_json(golden(2, "request_part"))
    delivered = Outcome.model_validate_json(golden(2, "request_outcome_delivered"))
    moved = Outcome.model_validate_json(golden(2, "request_outcome_moved"))

    assert write_batch(batch, 1) == golden(1, "request_chat")
    assert write_part(part, 1) == golden(1, "request_part")
    assert write_outcome(delivered, 1) == golden(1, "request_outcome_delivered")
    assert write_outcome(moved, 1) == golden(1, "request_outcome_undeliverable")


def test_each_update_has_its_receipt_also_from_version_1() -> None:
    """What was left out counts as refused, and shifts no other receipt."""
    batch = Batch.model_validate_json(golden(2, "request_chat"))
    batch = batch.model_copy(update={"updates": [batch.updates[3], *batch.updates[:3]]})
    accepted = [Receipt(update_id=number, outcome="accepted") for number in (11, 12, 13)]

    receipts = complete_receipts(batch, Receipts(receipts=accepted)).receipts

    assert [receipt.outcome for receipt in receipts] == ["refused", *["accepted"] * 3]
    assert receipts[1:] == accepted
