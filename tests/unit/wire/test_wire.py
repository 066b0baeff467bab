"""The wire's format: what stands on the line, what is read back, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.wire import (
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
    Update,
    decode_event,
    encode_event,
)

BUTTON = Button(label="Stop", data="stop:4")
GOLDEN: list[tuple[Event, bytes]] = [
    (
        Hello(epoch=3, undelivered=(4,)),
        b'{"type":"hello","epoch":3,"undelivered":[4],"guests":[],"invitations":[],"admins":[],'
        b'"former_admins":[]}',
    ),
    (Guests(users=(8,)), b'{"type":"guests","users":[8],"invitations":[]}'),
    (
        Opened(reply=Reply(id=4, chat_id=7, reply_to=9, text="x", buttons=(BUTTON,), parts=(5,))),
        b'{"type":"opened","reply":{"id":4,"chat_id":7,"thread_id":0,"reply_to":9,"text":"x",'
        b'"status":"","closed":false,"buttons":[{"label":"Stop","data":"stop:4"}],"parts":[5],'
        b'"markup":"plain","file":"","document":"","is_photo":false}}',
    ),
    (
        Grown(reply_id=4, at=1, text="\u0436\n\n"),
        '{"type":"grown","reply_id":4,"at":1,"text":"\u0436\\n\\n"}'.encode(),
    ),
    (Status(reply_id=4, status="2"), b'{"type":"status","reply_id":4,"status":"2"}'),
    (Closed(reply_id=4, text="all"), b'{"type":"closed","reply_id":4,"text":"all","buttons":[]}'),
    (Superseded(), b'{"type":"superseded"}'),
]


@pytest.mark.parametrize(("event", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_events_have_one_form(event: Event, golden: bytes) -> None:
    """Each event is written as the current version of the wire says, and read back as it was."""
    assert encode_event(event) == b"data: " + golden + b"\n\n"
    assert decode_event(b"data: " + golden) == event


@given(st.text(), st.integers(min_value=0, max_value=10**6))
def test_any_text_survives(text: str, at: int) -> None:
    """No text breaks the framing: an event is one frame, whatever it carries."""
    frame = encode_event(Grown(reply_id=1, at=at, text=text))

    assert frame.count(b"\n\n") == 1
    assert decode_event(frame[:-2]) == Grown(reply_id=1, at=at, text=text)


def test_unknown_events_and_comments_are_skipped() -> None:
    """A newer gateway may say more than this version knows; a comment is a sign of life."""
    assert decode_event(b'data: {"type":"kind of tomorrow","x":1}') is None
    assert decode_event(b": alive") is None


@pytest.mark.parametrize("frame", [b"data: nonsense", b'data: {"type":"grown"}', b"data: []"])
def test_malformed_events_are_errors(frame: bytes) -> None:
    """A broken event is never taken for a good one."""
    with pytest.raises(ValidationError):
        decode_event(frame)


def test_fields_of_tomorrow_are_ignored() -> None:
    """A newer relay may tell more about an update."""
    fields = {
        "update_id": 1, "kind": "message", "chat_id": 7, "chat_kind": "private", "user_id": 7,
        "message_id": 5, "sent_at": 1, "text": "x", "mood": "good",
    }  # fmt: skip

    assert Update.model_validate(fields).text == "x"


def test_identity_tells_updates_apart() -> None:
    """Chat, message, edit and press make an update what it is; its text does not."""

    def update(**changes: object) -> Update:
        fields = {
            "update_id": 1, "kind": "message", "chat_id": 7, "chat_kind": "private",
            "user_id": 7, "message_id": 5, "sent_at": 1, "text": "x",
        }  # fmt: skip
        return Update.model_validate(fields | changes)

    same = [update(), update(text="y"), update(sent_at=2)]
    others = [update(chat_id=8), update(message_id=6), update(edited_at=9), update(press_id="p")]

    assert len({one.identity() for one in same}) == 1
    assert len({one.identity() for one in same + others}) == 5
