"""What is deleted is gone from the file, its free pages and its journal: read with the key."""

import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.pictures import MOST_PICTURES
from services.gateway.queue import Queue
from services.gateway.store import NOTHING, Ask, Piece, Store, Turn, WantedDocument
from services.wire import Batch, Button
from tests.unit.fakes import KEY, USER, open_store, press, put_menu
from tests.unit.gateway.raw import read_pages

CHAT = (USER, 0)
QUESTION = b"quetzalcoatlus question"
ANSWER = b"pterodactyl answer"
LONG = 12_000  # bytes: further pages of the file


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as store:
        yield store


def count(directory: Path, canary: bytes) -> int:
    """How many pages of the file and the journal hold it."""
    return sum(canary in page for page in read_pages(directory / "store.db", KEY))


async def converse(store: Store, chat: tuple[int, int] = CHAT) -> None:
    """One question and its answer, delivered."""
    reply = await store.run(store.add_reply, chat, 5)
    pieces = [Piece(5, QUESTION.decode() + "?" * LONG, 0)]
    ask = await store.run(store.add_ask, reply.id, USER, chat, "en", pieces)
    text = ANSWER.decode() + "!" * LONG
    await store.run(store.finish_ask, ask, text, text, NOTHING)
    await store.run(store.drop_reply, reply.id)


async def forget(store: Store) -> None:
    """Press the button under the question of /forget."""
    access = Access(store, frozenset({USER}))
    inbox = Inbox(store, Queue(), Outbox(store, []), access, Limits(9, 9, 9000))
    await store.run(put_menu, store)
    await inbox.accept(Batch(bot_id=1, updates=[press(1, "forget")]))


async def test_forget_erases_at_once(store: Store, tmp_path: Path) -> None:
    """When /forget is accepted, no page holds a word of the conversation; another chat's stays."""
    await converse(store)
    await converse(store, (8, 0))
    assert count(tmp_path, QUESTION) > 2
    assert count(tmp_path, ANSWER) > 2

    await forget(store)

    assert count(tmp_path, QUESTION) == count(tmp_path, ANSWER) == 1
    await store.run(store.forget_chat, (8, 0))
    await store.run(store.truncate_journal)
    assert count(tmp_path, QUESTION) == count(tmp_path, ANSWER) == 0


async def add_picture(store: Store, ask: Ask, content: bytes) -> None:
    """A picture that was brought for an ask."""
    document = WantedDocument(str(ask.id), "photo", "", 5)
    await store.run(store.want_another, ask, document)
    await store.run(store.add_document, ask, document, content)


@pytest.mark.parametrize("state", ["waits", "failed", "answered"])
async def test_forget_erases_pictures(store: Store, tmp_path: Path, state: str) -> None:
    """Whatever has become of their ask."""
    reply = await store.run(store.add_reply, CHAT, 5)
    ask = await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, "what", 0)])
    await add_picture(store, ask, QUESTION + bytes(LONG) + ANSWER)
    if state == "failed":
        retry = Button(label="Try again", data=f"retry:{ask.id}")
        await store.run(store.fail_ask, ask, "It failed.", retry, NOTHING)
    if state == "answered":
        await store.run(store.finish_ask, ask, "A bird.", "A bird.", NOTHING)
    assert count(tmp_path, QUESTION) > 0
    assert count(tmp_path, ANSWER) > 0

    await forget(store)

    assert count(tmp_path, QUESTION) == count(tmp_path, ANSWER) == 0
    assert list(store._db.execute("SELECT * FROM pictures")) == []
    assert list(store._db.execute("SELECT * FROM wanted")) == []


async def test_pictures_are_kept_as_long_as_their_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an ask that is answered without being remembered leaves none."""
    now = time.time()
    for age, answer in ((3600, "old"), (0, "new"), (0, "")):
        reply = await store.run(store.add_reply, CHAT, 5)
        ask = await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, "what", 0)])
        await add_picture(store, ask, answer.encode() or b"none")
        monkeypatch.setattr(time, "time", lambda age=age: now - age)
        await store.run(store.finish_ask, ask, answer, answer, NOTHING)

    def kept() -> list[bytes]:
        return [row[0] for row in store._db.execute("SELECT content FROM pictures ORDER BY id")]

    assert kept() == [b"old", b"new"]
    await store.run(store.forget_old, 10**6, 10**6, 1800)
    assert kept() == [b"new"]
    await store.run(store.start_conversation, CHAT)
    assert kept() == []


async def test_pictures_that_no_engine_is_shown_any_more_are_emptied(store: Store) -> None:
    """A conversation keeps the latest; of the others it knows that they were there."""
    for number in range(MOST_PICTURES + 2):
        await converse(store, (8, 0))
        reply = await store.run(store.add_reply, CHAT, 5)
        ask = await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, "what", 0)])
        await add_picture(store, ask, bytes([number + 1]))
        ask = (await store.run(store.asks, CHAT))[0]
        await store.run(store.finish_ask, ask, "answer", "answer", NOTHING)

    kept = [row[0] for row in store._db.execute("SELECT content FROM pictures ORDER BY id")]
    assert kept == [b"", b"", *(bytes([number + 3]) for number in range(MOST_PICTURES))]
    turns = await store.run(store.latest_turns, CHAT, 99)
    assert sum(len(turn.pictures) for turn in turns) == MOST_PICTURES + 2


async def test_pictures_of_a_question_that_was_tried_again_late_are_kept(store: Store) -> None:
    """They came before the others, but are of the latest question."""

    async def show(content: bytes) -> Ask:
        reply = await store.run(store.add_reply, CHAT, 5)
        ask = await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, "what", 0)])
        await add_picture(store, ask, content)
        return (await store.run(store.asks, CHAT))[-1]

    failed = await show(b"first")
    await store.run(store.fail_ask, failed, "", Button(label="x", data="retry:1"), NOTHING)
    for _ in range(MOST_PICTURES):
        await store.run(store.finish_ask, await show(b"x"), "answer", "answer", NOTHING)

    _, ask = await store.run(store.retry_ask, failed)
    await store.run(store.finish_ask, ask, "answer", "answer", NOTHING)

    kept = [row[0] for row in store._db.execute("SELECT content FROM pictures ORDER BY id")]
    assert kept == [b"first", b"", *([b"x"] * (MOST_PICTURES - 1))]


async def test_text_of_an_ask_goes_with_its_delivery(store: Store, tmp_path: Path) -> None:
    """After /new, nothing of a delivered answer is left once the journal is emptied."""
    await converse(store)
    await store.run(store.start_conversation, CHAT)

    await store.run(store.truncate_journal)

    assert count(tmp_path, QUESTION) == count(tmp_path, ANSWER) == 0


async def test_journal_that_is_being_read_is_emptied_later(store: Store, tmp_path: Path) -> None:
    """A report or backup that reads holds nothing up, and is told apart."""
    await converse(store)
    await store.run(store._db.set_busy_timeout, 0)
    reader = Store(tmp_path / "store.db", KEY)
    reader._db.execute("BEGIN")
    list(reader._db.execute("SELECT * FROM turns"))
    await store.run(store.start_conversation, CHAT)

    assert not await store.run(store.truncate_journal)
    reader._db.execute("COMMIT")
    assert await store.run(store.truncate_journal)
    reader.close()


async def test_history_is_kept_for_the_set_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns older than that go, younger ones stay; without a time all stay."""
    await converse(store)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    await converse(store)

    await store.run(store.forget_old, 10**6, 10**6, None)
    assert len(await store.run(store.latest_turns, CHAT, 9)) == 4
    await store.run(store.forget_old, 10**6, 10**6, 1800)

    turns: list[Turn] = await store.run(store.latest_turns, CHAT, 9)
    assert [turn.role for turn in turns] == ["user", "assistant"]


async def test_forget_leaves_no_trace_of_messages_of_failed_asks(store: Store) -> None:
    """The ids that were kept for another try go with the ask."""
    reply = await store.run(store.add_reply, CHAT, 5)
    ask = await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, "question", 0)])
    await store.run(store.record_part, reply.id, 0, 77)
    retry = Button(label="Try again", data=f"retry:{ask.id}")
    await store.run(store.fail_ask, ask, "It failed.", retry, NOTHING)
    await store.run(store.drop_reply, reply.id)

    await store.run(store.forget_chat, CHAT)

    assert list(store._db.execute("SELECT * FROM parts")) == []
