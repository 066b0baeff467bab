"""The inbox decides on each update by itself, and commits before it answers."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import Preferences
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.wire import Batch
from tests.unit.fakes import USER, message, open_store


@dataclass
class Parts:
    inbox: Inbox
    store: Store
    queue: Queue

    async def accept(self, *updates: dict[str, object], bot_id: int = 1) -> list[str]:
        receipts = await self.inbox.accept(Batch(bot_id=bot_id, updates=list(updates)))
        return [receipt.outcome for receipt in receipts.receipts]

    async def replies(self) -> list[str]:
        return [reply.text for reply in await self.store.run(self.store.undelivered_replies)]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncGenerator[Parts]:
    async with open_store(tmp_path) as store:
        queue = Queue()
        limits = Limits(user_asks=3, total_asks=5, ask_tokens=500)
        allowed = frozenset({USER, 8, 9})
        yield Parts(
            Inbox(store, queue, Outbox(store, []), Access(store, allowed), limits), store, queue
        )


async def test_message_becomes_a_waiting_ask(parts: Parts) -> None:
    """An accepted message waits in the queue and in the store."""
    outcomes = await parts.accept(message(1, "hello"))

    assert outcomes == ["accepted"]
    assert [ask.text for ask in parts.queue.waiting()] == ["hello"]
    assert [ask.text for ask in await parts.store.run(parts.store.asks)] == ["hello"]


@pytest.mark.parametrize("text", ["/new", "/allow 5", "/nonsense"])
async def test_forwarded_command_is_a_question(parts: Parts, text: str) -> None:
    """Whoever forwards it asks about it; its first author may have wanted it to be carried out."""
    assert await parts.accept(message(1, text, is_forwarded=True)) == ["accepted"]

    assert [ask.text for ask in parts.queue.waiting()] == [text]


async def test_steering_ends_what_is_being_answered_alone(parts: Parts) -> None:
    """What still waits keeps its turn, and nobody else's answer is touched."""
    await parts.store.run(parts.store.save_preferences, USER, Preferences(steering=True))
    await parts.accept(message(1, "first"), message(2, "second", chat_id=-5, user_id=8))
    running = [await parts.queue.next(), await parts.queue.next()]
    for one in running:
        await parts.store.run(parts.store.take_ask, one.ask.id)

    await parts.accept(message(3, "third"), message(4, "fourth"))

    assert [one.stopped.is_set() for one in running] == [True, False]
    assert [ask.text for ask in parts.queue.waiting()] == ["third", "fourth"]


async def test_redelivered_update_is_a_duplicate(parts: Parts) -> None:
    """Telegram may deliver an update again; it is asked once."""
    await parts.accept(message(1, "hello"))

    outcomes = await parts.accept(message(1, "hello"), message(2, "again"))

    assert outcomes == ["duplicate", "accepted"]
    assert [ask.text for ask in parts.queue.waiting()] == ["hello", "again"]


async def test_same_id_with_another_identity_is_another_update(parts: Parts) -> None:
    """Telegram's ids restart: the same number for another message, or another bot, is new."""
    await parts.accept(message(1, "hello"))

    assert await parts.accept(message(1, "other", message_id=77)) == ["accepted"]
    assert await parts.accept(message(1, "hello"), bot_id=2) == ["accepted"]


async def test_one_bad_update_blocks_no_other(parts: Parts) -> None:
    """Each update of a batch is accepted, duplicate or refused on its own."""
    bad_type = message(2, "x") | {"chat_id": "not a number"}

    outcomes = await parts.accept(
        message(1, "first"), bad_type, {}, message(3, "stranger", user_id=666), message(4, "last")
    )

    assert outcomes == ["accepted", "refused", "refused", "refused", "accepted"]
    assert [ask.text for ask in parts.queue.waiting()] == ["first", "last"]


async def test_stranger_gets_silence(parts: Parts) -> None:
    """Whoever is not on the list gets no reply, whatever they send."""
    press = message(2, None, user_id=666, kind="press", press_id="p", press_data="stop:1")

    outcomes = await parts.accept(message(1, "/start", user_id=666), press)

    assert outcomes == ["refused", "refused"]
    assert await parts.replies() == []


async def test_stop_acts_on_earlier_asks_only(parts: Parts) -> None:
    """In one batch of [question, /stop, question] the stop touches the first question alone."""
    await parts.accept(message(1, "one"), message(2, "/stop"), message(3, "two"))

    assert [ask.text for ask in parts.queue.waiting()] == ["two"]
    assert await parts.replies() == ["(stopped)", ""]


async def test_stop_button_stops_its_own_ask_only(parts: Parts) -> None:
    """A press stops the ask it belongs to, if the presser asked it; the presser is told."""
    await parts.accept(message(1, "one"), message(2, "two"))
    first = parts.queue.waiting()[0]
    data = f"stop:{first.id}"
    by_other = message(3, None, user_id=8, kind="press", press_id="a", press_data=data)
    by_owner = message(4, None, kind="press", press_id="b", press_data=data)
    late = message(5, None, kind="press", press_id="c", press_data="stop:99999")

    receipts = await parts.inbox.accept(Batch(bot_id=1, updates=[by_other, by_owner, late]))

    assert [receipt.notice for receipt in receipts.receipts] == [
        "It is finished already.",
        "Stopping.",
        "It is finished already.",
    ]
    assert [ask.text for ask in parts.queue.waiting()] == ["two"]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("/start", "en", "Hello!"),
        ("/start", "ru-RU", "Здравствуйте!"),
        ("/help@some_bot", "en", "/new — start"),
        ("/new", "ru", "Новый разговор"),
        ("/stop", "en", "nothing to stop"),
        ("/frobnicate", "en", "I do not know this command"),
        (None, "en", "text only"),
        ("x" * 16_000, "en", "too long"),
    ],
)
async def test_replies_without_the_engine(
    parts: Parts, text: str | None, language: str, expected: str
) -> None:
    """Commands, and messages that cannot be asked, get a sentence in the user's language."""
    await parts.accept(message(1, text, language=language))

    (reply,) = await parts.replies()
    assert expected in reply
    assert parts.queue.waiting() == []


async def test_limits_are_said_at_once(parts: Parts) -> None:
    """Beyond the limits, per user and in all, an ask is refused with a sentence."""
    of_one = await parts.accept(*(message(n, f"ask {n}") for n in range(1, 5)))
    of_all = await parts.accept(*(message(n, "x", user_id=8, chat_id=8) for n in range(11, 14)))

    assert of_one == ["accepted"] * 3 + ["refused"]
    assert of_all == ["accepted"] * 2 + ["refused"]
    replies = await parts.replies()
    assert any("3 messages waiting" in reply for reply in replies)
    assert any("Too many people" in reply for reply in replies)


async def test_edit_of_a_waiting_message_rewords_it(parts: Parts) -> None:
    """Correcting a message before its turn asks the corrected text, once."""
    await parts.accept(message(1, "helo"))

    outcome = await parts.accept(message(2, "hello", kind="edit", edited_at=5, message_id=1001))

    assert outcome == ["accepted"]
    (taken,) = parts.queue.waiting()
    reworded = await parts.store.run(parts.store.take_ask, taken.id)
    assert reworded
    ask, said = reworded
    assert (ask.text, ask.state, said) == ("hello", "running", "")


async def test_edit_of_a_running_message_is_asked_anew(parts: Parts) -> None:
    """What the engine is already answering cannot be reworded: the new text is a new ask."""
    await parts.accept(message(1, "helo"))
    await parts.store.run(parts.store.take_ask, parts.queue.waiting()[0].id)

    await parts.accept(message(2, "hello", kind="edit", edited_at=5, message_id=1001))

    assert [ask.text for ask in parts.queue.waiting()] == ["helo", "hello"]


async def test_edit_that_changes_no_text_is_no_news(parts: Parts) -> None:
    """Telegram reports edits of fields that nobody sees; they are not answered again."""
    await parts.accept(message(1, "hello"))

    outcome = await parts.accept(message(2, "hello", kind="edit", edited_at=5, message_id=1001))

    assert outcome == ["accepted"]
    assert len(parts.queue.waiting()) == 1


async def test_chat_that_floods_commands_is_not_answered_for_ever(parts: Parts) -> None:
    """Beyond thirty replies that a chat has not been shown, commands get none."""
    for number in range(40):
        await parts.accept(message(number + 1, "/help"))

    assert len(await parts.replies()) == 30


@pytest.mark.parametrize("field", ["chat_id", "message_id", "update_id", "user_id"])
async def test_absurd_number_spoils_one_update_only(parts: Parts, field: str) -> None:
    """A number that the store cannot hold refuses its own update and no other."""
    absurd = message(1, "x") | {field: 2**63}

    assert await parts.accept(absurd, message(2, "hello")) == ["refused", "accepted"]


@pytest.mark.parametrize("text", [None, "/new", "/stop now"])
async def test_edit_that_asks_nothing_is_taken_in_silence(parts: Parts, text: str | None) -> None:
    """A moving location, or a corrected command, gets no reply and does nothing."""
    await parts.accept(message(1, "one"))

    outcome = await parts.accept(message(2, text, kind="edit", edited_at=5, message_id=900))

    assert outcome == ["accepted"]
    assert await parts.replies() == [""]
    assert [ask.state for ask in parts.queue.waiting()] == ["waiting"]


async def test_concurrent_batches_are_committed_one_by_one(parts: Parts) -> None:
    """The same update in two batches at once is accepted once."""
    outcomes = await asyncio.gather(*(parts.accept(message(1, "hello")) for _ in range(5)))

    assert sorted(outcome for (outcome,) in outcomes) == ["accepted"] + ["duplicate"] * 4


@pytest.mark.parametrize(
    ("language", "days", "kept"),
    [("en", 0, "until you erase it"), ("en", 30, "for 30 days"), ("ru", 30, "дней: 30")],
)
async def test_privacy_tells_what_the_settings_say(
    tmp_path: Path, language: str, days: int, kept: str
) -> None:
    """How long conversations are kept, in the user's language; of groups only in groups."""
    limits = Limits(user_asks=3, total_asks=5, ask_tokens=500)
    async with open_store(tmp_path) as store:
        access = Access(store, frozenset({USER}))
        inbox = Inbox(store, Queue(), Outbox(store, []), access, limits, history_days=days)
        alone = message(1, "/privacy", language=language)
        in_group = message(2, "/privacy", language=language, chat_kind="group", chat_id=-5)

        await inbox.accept(Batch(bot_id=1, updates=[alone, in_group]))

        said = [reply.text for reply in await store.run(store.undelivered_replies)]
    assert [kept in text for text in said] == [True, True]
    assert ["group" in text or "групп" in text for text in said] == [False, True]
