"""The relay lets allowed users through and gives everybody else silence, whatever arrives."""

import hashlib
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.relay.addressing import Identity
from services.relay.presence import Presence
from services.relay.translation import MOST_ALBUMS, Doorman, TurnedAway, Undecided
from services.wire import Update

OTHER = {"id": 8, "is_bot": False, "first_name": "B"}
USER = {"id": 7, "is_bot": False, "first_name": "A", "language_code": "ru"}
BOT = {"id": 99, "is_bot": True, "first_name": "Bot", "username": "Oracle_Bot"}
CHAT = {"id": 7, "type": "private", "first_name": "A"}
GROUP = {"id": -5, "type": "supergroup", "title": "G"}
CANARY = "canary in a private message"


def telegram_message(**fields: Any) -> dict[str, Any]:
    return {"message_id": 5, "date": 1_700_000_000, "chat": CHAT, "from": USER} | fields


def group_message(text: str, *entities: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return telegram_message(text=text, entities=list(entities), chat=GROUP) | fields


def entity(kind: str, offset: int, length: int, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "offset": offset, "length": length} | fields


def press(sender: dict[str, Any], **message: Any) -> dict[str, Any]:
    return {
        "callback_query": {
            "id": "77",
            "from": sender,
            "chat_instance": "x",
            "data": "stop:4",
            "message": telegram_message(text="…") | message,
        }
    }


def admitted(doorman: Doorman, raw: dict[str, Any]) -> Update:
    verdict = doorman.admit({"update_id": 1} | raw)
    assert isinstance(verdict, Update), verdict
    return verdict


def build_doorman(*guests: int) -> Doorman:
    presence = Presence()
    presence.come(guests)
    return Doorman(frozenset({7}), presence, Identity(99, "Oracle_Bot"))


@pytest.fixture
def doorman() -> Doorman:
    return build_doorman()


def test_message_of_an_allowed_user(doorman: Doorman) -> None:
    """A text message keeps its text, its ids and the user's language."""
    update = admitted(doorman, {"message": telegram_message(text="hi")})

    assert (update.kind, update.text, update.chat_id, update.message_id, update.language) == (
        "message", "hi", 7, 5, "ru",
    )  # fmt: skip
    assert update.chat_kind == "private"


OLD = {"message_id": 3, "text": "an old answer", "from": BOT}


def size(file_id: str, width: int, height: int) -> dict[str, Any]:
    """One of the sizes that Telegram keeps of a photo."""
    return {"file_id": file_id, "width": width, "height": height, "file_size": width}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, (0, "", False)),
        ({"reply_to_message": OLD}, (3, "an old answer", False)),
        ({"reply_to_message": {"message_id": 3, "caption": "below"}}, (3, "below", False)),
        ({"reply_to_message": {"message_id": 3, "photo": []}}, (3, "", False)),
        ({"reply_to_message": OLD, "quote": {"text": "old", "position": 3}}, (3, "old", True)),
        ({"quote": {"text": "from another chat"}}, (0, "from another chat", True)),
        ({"reply_to_message": OLD, "quote": {}}, (3, "an old answer", False)),
        ({"reply_to_message": OLD | {"text": "я" * 5000}}, (3, "я" * 4096, False)),
        ({"reply_to_message": "odd", "quote": 7}, (0, "", False)),
        ({"reply_to_message": {"message_id": 2**70, "text": ["odd"]}}, (0, "", False)),
    ],
)
def test_message_says_what_it_replies_to(
    doorman: Doorman, fields: dict[str, Any], wanted: tuple[int, str, bool]
) -> None:
    """The text of that message, or what the user has chosen of it; an odd one costs nothing."""
    update = admitted(doorman, {"message": telegram_message(text="hi") | fields})

    assert (update.reply_to, update.quoted, update.is_excerpt) == wanted


@pytest.mark.parametrize(
    ("fields", "attachment"),
    [
        ({"text": "hi"}, ""),
        ({"photo": [{}], "caption": "what is it?"}, "photo"),
        ({"animation": {}, "document": {}}, "animation"),
        ({"venue": {}, "location": {}}, "venue"),
        ({"document": {}}, "document"),
        ({"voice": {}}, "voice"),
    ],
)
def test_message_says_what_it_carries(
    doorman: Doorman, fields: dict[str, Any], attachment: str
) -> None:
    """By its own name, where Telegram gives older readers another one as well."""
    update = admitted(doorman, {"message": telegram_message(**fields)})

    assert (update.attachment, update.text) == (
        attachment, fields.get("text") or fields.get("caption"),
    )  # fmt: skip


def test_edit_and_press_of_an_allowed_user(doorman: Doorman) -> None:
    """Edits carry their date, presses their id and data."""
    edited = telegram_message(text="hi!", edit_date=1_700_000_100)
    edit = admitted(doorman, {"edited_message": edited})
    pressed = admitted(doorman, press(USER))

    assert (edit.kind, edit.edited_at) == ("edit", 1_700_000_100)
    assert (pressed.kind, pressed.press_id, pressed.press_data) == ("press", "77", "stop:4")


def test_message_without_text_is_passed_on_without_text(doorman: Doorman) -> None:
    """The gateway decides what to say to a picture or a sticker."""
    contact = {"phone_number": "1", "first_name": "B"}
    update = admitted(doorman, {"message": telegram_message(contact=contact)})

    assert update.text is None


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"message": telegram_message(text=CANARY, **{"from": OTHER})}, "stranger"),
        ({"edited_message": telegram_message(text=CANARY, **{"from": OTHER})}, "stranger"),
        ({"callback_query": {"id": "1", "from": OTHER, "chat_instance": "x"}}, "stranger"),
        (press(OTHER, chat=GROUP), "stranger"),
        ({"message": telegram_message(text=CANARY, **{"from": {**USER, "is_bot": True}})},
         "stranger"),
        ({"message": telegram_message(text=CANARY, chat={"id": -5, "type": "group"})}, "chat"),
        ({"message": telegram_message(text=CANARY, chat={"id": -5, "type": "channel"})}, "chat"),
        ({"message": telegram_message(text=CANARY, chat={"id": -5, "type": "of_tomorrow"})},
         "chat"),
        ({"message": group_message(f"/ask {CANARY}", entity("bot_command", 0, 4),
                                   **{"from": OTHER})}, "stranger"),
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
    """Strangers, channels, unknown kinds and broken updates are counted; no text is logged."""
    caplog.set_level(logging.DEBUG)

    verdict = doorman.admit({"update_id": 9} | raw)

    assert verdict == TurnedAway(why)
    doorman.count(verdict)
    assert doorman.turned_away == {why: 1}
    assert CANARY not in caplog.text


# Guests of the gateway


def test_guests_are_served_as_soon_as_the_gateway_names_them() -> None:
    """Whom the gateway serves beyond the configured list is let in, and let go with the list."""
    doorman = build_doorman(8)
    raw = {"update_id": 1, "message": telegram_message(text="hi", **{"from": OTHER})}

    assert isinstance(doorman.admit(raw), Update)

    doorman.presence.guests = frozenset()
    assert doorman.admit(raw) == TurnedAway("stranger")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"message": telegram_message(text="hi", **{"from": OTHER})}, Undecided()),
        (press(OTHER), Undecided()),
        (
            {"message": group_message("/x", entity("bot_command", 0, 2), **{"from": OTHER})},
            Undecided(),
        ),
        ({"message": group_message("just talking", **{"from": OTHER})}, TurnedAway("chat")),
        ({"message": telegram_message(text="", **{"from": BOT})}, TurnedAway("stranger")),
    ],
)
def test_nobody_is_a_stranger_before_the_guests_are_known(
    raw: dict[str, Any], expected: object
) -> None:
    """Until the first Hello an unknown user may be a guest: nothing is decided that need not be."""
    doorman = Doorman(frozenset({7}), Presence(), Identity(99, "Oracle_Bot"))

    assert doorman.admit({"update_id": 1} | raw) == expected
    assert isinstance(
        doorman.admit({"update_id": 2, "message": telegram_message(text="a")}), Update
    )


# Groups


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (group_message("@oracle_bot what now?", entity("mention", 0, 11)), "what now?"),
        (group_message("tell me @Oracle_Bot now", entity("mention", 8, 11)), "tell me now"),
        (group_message("what now, @oracle_bot", entity("mention", 10, 11)), "what now,"),
        (group_message("😴 @oracle_bot hi", entity("mention", 3, 11)), "😴 hi"),
        (group_message("Bot, hi", entity("text_mention", 0, 3, user=BOT)), ", hi"),
        (group_message("/new", entity("bot_command", 0, 4)), "/new"),
        (group_message("/ask@Oracle_Bot x", entity("bot_command", 0, 15)), "/ask x"),
        (group_message("and you?", reply_to_message={"message_id": 3, "from": BOT}), "and you?"),
        (group_message("@oracle_bot", entity("mention", 0, 11)), None),
        (
            telegram_message(
                photo=[], caption="@oracle_bot look", caption_entities=[entity("mention", 0, 11)],
                chat={"id": -6, "type": "group"},
            ),
            "look",
        ),
        (
            group_message("@oracle_bot hi", entity("mention", 0, 11), {"type": 5}, {"x": 1}),
            "hi",
        ),
    ],
)  # fmt: skip
def test_group_message_that_addresses_the_bot(
    doorman: Doorman, message: dict[str, Any], text: str | None
) -> None:
    """A mention, a command or a reply to the bot is passed on, without the bot's name."""
    update = admitted(doorman, {"message": message})

    assert update.text == text
    assert (update.chat_kind, update.chat_id) == (message["chat"]["type"], message["chat"]["id"])


@pytest.mark.parametrize(
    "message",
    [
        group_message("what now?"),
        group_message("@other_bot hi", entity("mention", 0, 10)),
        group_message("I like @oracle_bot", entity("url", 7, 11)),
        group_message("/new@other_bot", entity("bot_command", 0, 14)),
        group_message("see /new", entity("bot_command", 4, 4)),
        group_message("A, hi", entity("text_mention", 0, 1, user=USER)),
        group_message("and you?", reply_to_message={"message_id": 3, "from": USER}),
        group_message(
            "first in a topic",
            reply_to_message={"message_id": 3, "from": BOT, "forum_topic_created": {}},
        ),
        group_message("x", entities="nonsense", reply_to_message="nonsense"),
        telegram_message(new_chat_title="G2", chat=GROUP),
    ],
)
def test_group_talk_that_is_none_of_the_bots_business(
    doorman: Doorman, message: dict[str, Any]
) -> None:
    """What does not address the bot is turned away, even if an allowed user says it."""
    assert doorman.admit({"update_id": 1, "message": message}) == TurnedAway("chat")


def test_press_in_a_group(doorman: Doorman) -> None:
    """An allowed user may press a button in a group."""
    update = admitted(doorman, press(USER, chat=GROUP))

    assert (update.kind, update.chat_id, update.chat_kind) == ("press", -5, "supergroup")


@pytest.mark.parametrize("sender", [{"from": OTHER}, {"from": BOT}, {}])
def test_group_that_moves_is_reported_whoever_moves_it(sender: dict[str, Any]) -> None:
    """The note that a group has a new id is passed on, with ids only; its twin there is not."""
    doorman = Doorman(frozenset({7}), Presence(), Identity(99, "Oracle_Bot"))
    note = {"message_id": 5, "date": 1, "chat": {"id": -5, "type": "group"}} | sender
    update = admitted(doorman, {"message": note | {"migrate_to_chat_id": -1005}})

    assert (update.kind, update.chat_id, update.moved_to) == ("move", -5, -1005)
    assert update.user_id == (sender["from"]["id"] if sender else 0)
    assert update.text is None

    twin = note | {"chat": {"id": -1005, "type": "supergroup"}, "migrate_from_chat_id": -5}
    assert doorman.admit({"update_id": 2, "message": twin}) == TurnedAway("chat")


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
    build_doorman().admit({"update_id": 1, kind: content})


@given(st.text(max_size=12), st.lists(st.dictionaries(
    st.sampled_from(["type", "offset", "length", "user"]),
    st.sampled_from(["mention", "bot_command", "text_mention", -1, 0, 3, 10**9, None]),
), max_size=3))  # fmt: skip
def test_no_entity_stops_the_relay(text: str, entities: list[dict[str, Any]]) -> None:
    """Whatever entities a group's message claims to have, the doorman answers and goes on."""
    build_doorman().admit({"update_id": 1, "message": group_message(text, *entities)})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"document": {"file_id": "BQAC1", "file_name": "a.pdf", "file_size": 9}},
            ("document", "BQAC1", "a.pdf", 9),
        ),
        ({"document": {"file_id": "BQAC1"}}, ("document", "BQAC1", "", 0)),
        ({"document": {"file_id": "B" * 257, "file_name": "a"}}, ("document", "", "", 0)),
        ({"document": {"file_id": 5, "file_name": 6}}, ("document", "", "", 0)),
        (
            {"document": {"file_id": "B", "file_name": "a" * 300 + ".pdf", "file_size": -1}},
            ("document", "B", "a" * 251 + ".pdf", 0),
        ),
        (
            {"animation": {"file_id": "A"}, "document": {"file_id": "B", "file_name": "c.mp4"}},
            ("animation", "", "", 0),
        ),
        ({"document": "odd"}, ("document", "", "", 0)),
        ({"photo": [{"file_id": "A"}]}, ("photo", "", "", 0)),
        ({"photo": "odd"}, ("photo", "", "", 0)),
        ({"photo": []}, ("photo", "", "", 0)),
        ({"photo": ["odd", size("A", 9, 9), {"width": "odd"}]}, ("photo", "A", "", 9)),
        (
            {"photo": [size("S", 90, 67), size("M", 320, 240), size("L", 800, 600)]},
            ("photo", "L", "", 800),
        ),
        (
            {"photo": [size("S", 90, 67), size("X", 960, 1280), size("Y", 1920, 2560)]},
            ("photo", "X", "", 960),
        ),
        (
            {"photo": [size("Y", 2560, 1920), size("X", 1024, 768), size("S", 1023, 768)]},
            ("photo", "X", "", 1024),
        ),
    ],
)
def test_documents_are_named(
    doorman: Doorman, fields: dict[str, Any], expected: tuple[str, str, str, int]
) -> None:
    """What the other end needs to have one brought; an odd one costs no message."""
    update = admitted(doorman, {"message": telegram_message(**fields)})

    seen = (update.attachment, update.document_id, update.document_name, update.document_bytes)
    assert seen == expected


@pytest.mark.parametrize(
    ("given", "album"), [("13579", "13579"), ("1" * 65, ""), (5, ""), (None, "")]
)
def test_album_is_named(doorman: Doorman, given: object, album: str) -> None:
    """By what its messages have in common; an odd name costs no message."""
    raw = telegram_message(photo=[size("A", 9, 9)], media_group_id=given)

    assert admitted(doorman, {"message": raw}).album == album


def test_forwarded_message_says_so(doorman: Doorman) -> None:
    """Of whom it comes is nobody's business."""
    origin = {"type": "user", "date": 1, "sender_user": OTHER}

    forwarded = admitted(doorman, {"message": telegram_message(text="x", forward_origin=origin)})
    own = admitted(doorman, {"message": telegram_message(text="x")})

    assert (forwarded.is_forwarded, own.is_forwarded) == (True, False)
    assert forwarded == own.model_copy(update={"is_forwarded": True})


@pytest.mark.parametrize("kind", ["voice", "audio", "video_note"])
def test_recordings_are_named(doorman: Doorman, kind: str) -> None:
    """As documents are."""
    raw = telegram_message(**{kind: {"file_id": "A1", "file_size": 5, "duration": 1}})

    update = admitted(doorman, {"message": raw})

    assert (update.attachment, update.document_id, update.document_bytes) == (kind, "A1", 5)


@pytest.mark.parametrize(
    ("chat", "text", "is_admitted"),
    [
        (CHAT, "/start abc", True),
        (CHAT, "/start ABC", False),
        (CHAT, "/start abc ", True),
        (CHAT, "abc", False),
        (GROUP, "/start abc", False),
        (GROUP, "/start@Oracle_Bot abc", False),
    ],
)
def test_invitation_is_for_private_chats(
    doorman: Doorman, chat: dict[str, Any], text: str, is_admitted: bool
) -> None:
    """A stranger who begins with its code is heard, once the other end has named the codes."""
    doorman.presence.let_in((), {hashlib.sha256(b"abc").hexdigest()})
    command = [entity("bot_command", 0, len(text.split()[0]))] if text.startswith("/") else []
    raw = telegram_message(text=text, entities=command, chat=chat, **{"from": OTHER})

    verdict = doorman.admit({"update_id": 1, "message": raw})

    assert isinstance(verdict, Update) == is_admitted
    edited = doorman.admit({"update_id": 2, "edited_message": raw})
    assert isinstance(edited, TurnedAway)


def test_album_of_a_group_belongs_to_who_has_spoken_in_it(doorman: Doorman) -> None:
    """One of its messages has the caption; the others say nothing, and mean the bot as well."""
    photo = [{"file_id": "p", "width": 9, "height": 9}]
    mention = entity("mention", 0, 11)
    bare = telegram_message(chat=GROUP, photo=photo, media_group_id="1")
    spoken = bare | {"caption": "@Oracle_Bot which?", "caption_entities": [mention]}

    assert doorman.admit({"update_id": 1, "message": bare}) == TurnedAway("chat")
    assert admitted(doorman, {"message": spoken}).text == "which?"
    assert admitted(doorman, {"message": bare}).text is None
    assert admitted(doorman, {"message": bare | {"caption": "and this"}}).text == "and this"
    for other in (
        bare | {"media_group_id": "2"},
        bare | {"chat": GROUP | {"id": -6}},
        telegram_message(chat=GROUP, photo=photo),
    ):
        assert doorman.admit({"update_id": 1, "message": other}) == TurnedAway("chat")


def test_long_album_of_a_group_takes_one_place(doorman: Doorman) -> None:
    """However many its messages are, as many albums are remembered."""
    photo = [{"file_id": "p", "width": 9, "height": 9}]
    mention = entity("mention", 0, 11)
    for number in range(MOST_ALBUMS):
        bare = telegram_message(chat=GROUP, photo=photo, media_group_id=str(number))
        admitted(
            doorman, {"message": bare | {"caption": "@Oracle_Bot", "caption_entities": [mention]}}
        )
        admitted(doorman, {"message": bare})

    first = telegram_message(chat=GROUP, photo=photo, media_group_id="0")
    assert admitted(doorman, {"message": first}).album == "0"


def test_albums_of_strangers_open_no_door(doorman: Doorman) -> None:
    """What a stranger says to the bot makes nothing of the stranger's heard."""
    photo = [{"file_id": "p", "width": 9, "height": 9}]
    bare = telegram_message(chat=GROUP, photo=photo, media_group_id="1")
    spoken = bare | {"caption": "@Oracle_Bot", "caption_entities": [entity("mention", 0, 11)]}

    assert isinstance(
        doorman.admit({"update_id": 1, "message": spoken | {"from": OTHER}}), TurnedAway
    )

    assert doorman.admit({"update_id": 1, "message": bare}) == TurnedAway("chat")
