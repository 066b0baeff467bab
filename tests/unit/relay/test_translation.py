"""The relay lets allowed users through and gives everybody else silence, whatever arrives."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.relay.translation import Doorman

OTHER = {"id": 8, "is_bot": False, "first_name": "B"}
USER = {"id": 7, "is_bot": False, "first_name": "A", "language_code": "ru"}
CHAT = {"id": 7, "type": "private", "first_name": "A"}
CANARY = "canary in a private message"


def telegram_message(**fields: Any) -> dict[str, Any]:
    return {"message_id": 5, "date": 1_700_000_000, "chat": CHAT, "from": USER} | fields


@pytest.fixture
def doorman() -> Doorman:
    return Doorman(frozenset({7}))


def test_message_of_an_allowed_user(doorman: Doorman) -> None:
    """A text message keeps its text, its ids and the user's language."""
    update = doorman.admit({"update_id": 1, "message": telegram_message(text="hi")})

    assert update
    assert (update.kind, update.text, update.chat_id, update.message_id, update.language) == (
        "message", "hi", 7, 5, "ru",
    )  # fmt: skip


def test_edit_and_press_of_an_allowed_user(doorman: Doorman) -> None:
    """Edits carry their date, presses their id and data."""
    edit = doorman.admit(
        {"update_id": 2, "edited_message": telegram_message(text="hi!", edit_date=1_700_000_100)}
    )
    press = doorman.admit(
        {
            "update_id": 3,
            "callback_query": {
                "id": "77",
                "from": USER,
                "chat_instance": "x",
                "data": "stop:4",
                "message": telegram_message(text="…"),
            },
        }
    )

    assert edit
    assert (edit.kind, edit.edited_at) == ("edit", 1_700_000_100)
    assert press
    assert (press.kind, press.press_id, press.press_data) == ("press", "77", "stop:4")


def test_message_without_text_is_passed_on_without_text(doorman: Doorman) -> None:
    """The gateway decides what to say to a picture or a sticker."""
    contact = {"phone_number": "1", "first_name": "B"}
    update = doorman.admit({"update_id": 4, "message": telegram_message(contact=contact)})

    assert update
    assert update.text is None


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"message": telegram_message(text=CANARY, **{"from": OTHER})}, "stranger"),
        ({"edited_message": telegram_message(text=CANARY, **{"from": OTHER})}, "stranger"),
        ({"callback_query": {"id": "1", "from": OTHER, "chat_instance": "x"}}, "stranger"),
        ({"message": telegram_message(text=CANARY, chat={"id": -5, "type": "group"})}, "chat"),
        ({"message": telegram_message(pinned_message=telegram_message(text=CANARY))}, "note"),
        ({"message": telegram_message(group_chat_created=True)}, "note"),
        ({"channel_post": telegram_message(text=CANARY)}, "kind"),
        ({"stopped_message_generation": {"chat": CHAT}}, "kind"),
        ({"a_kind_of_tomorrow": {"text": CANARY}}, "kind"),
        ({"message": {"text": CANARY}}, "unreadable"),
        ({"message": CANARY}, "unreadable"),
        ({}, "kind"),
    ],
)  # fmt: skip
def test_everything_else_is_dropped_in_silence(
    doorman: Doorman, caplog: pytest.LogCaptureFixture, raw: dict[str, Any], why: str
) -> None:
    """Strangers, groups, unknown kinds and broken updates are counted; their text is not logged."""
    caplog.set_level(logging.DEBUG)

    assert doorman.admit({"update_id": 9} | raw) is None

    assert doorman.turned_away == {why: 1}
    assert CANARY not in caplog.text


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["message", "from", "id", "chat", "text", "date", "data", "type"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(["message", "edited_message", "callback_query", "poll", "nonsense"]),
    JSON,
)
def test_no_update_stops_the_relay(kind: str, content: Any) -> None:
    """Whatever stands in an update, the doorman answers and goes on."""
    Doorman(frozenset({7})).admit({"update_id": 1, kind: content})
