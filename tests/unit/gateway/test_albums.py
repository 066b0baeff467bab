"""The messages of an album are one ask, each with its file; what is no part of it stays apart."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.gateway import inbox as gateway_inbox
from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.documents import Documents
from services.gateway.history import History
from services.gateway.inbox import ALBUM_SECONDS, UNHEARD_SECONDS, Inbox, paste_delay
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import NOTHING, Ask, Store
from services.gateway.transcriber import TranscriberUnavailable
from services.wire import Batch, Reply
from tests.unit.fakes import USER, FakeEngine, message, open_store, until
from tests.unit.gateway.test_races import busy
from tests.unit.pictures import picture

ALBUM: dict[str, Any] = {"attachment": "photo", "album": "13579"}


@dataclass
class Talk:
    store: Store
    inbox: Inbox
    queue: Queue
    outbox: Outbox

    async def say(self, *updates: dict[str, Any]) -> list[str]:
        receipts = await self.inbox.accept(Batch(bot_id=1, updates=list(updates)))
        return [receipt.outcome for receipt in receipts.receipts]

    async def asks(self) -> list[Ask]:
        return await self.store.run(self.store.asks)

    async def replies(self) -> list[Reply]:
        return await self.store.run(self.store.undelivered_replies)


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncGenerator[Talk]:
    async with open_store(tmp_path) as store:
        access, queue, outbox = Access(store, frozenset({USER, 8})), Queue(), Outbox(store, [])
        documents = Documents(1000, sees=True)
        inbox = Inbox(store, queue, outbox, access, Limits(9, 9, 400), documents=documents)
        yield Talk(store, inbox, queue, outbox)


@asynccontextmanager
async def answered(talk: Talk, most_pictures: int = 9) -> AsyncGenerator[FakeEngine]:
    """Have the asks answered by one worker."""
    engine: Any = FakeEngine()
    history = History(talk.store, engine, 40_000, most_pictures)
    answering = Answering(talk.store, talk.queue, talk.outbox, history, engine, 1, House(256, 0.0))
    running = asyncio.create_task(answering.run())
    try:
        yield engine
    finally:
        running.cancel()
        await asyncio.wait({running})


def photo(number: int, text: str | None = None, **changes: Any) -> dict[str, Any]:
    return message(number, text, **(ALBUM | {"document_id": f"F{number}"} | changes))


@pytest.mark.parametrize("at_once", [True, False])
async def test_members_wait_for_their_files_in_order(talk: Talk, at_once: bool) -> None:
    """The reply names the first that is still to be brought; then the ask lacks nothing."""
    members = [photo(1, "Compare"), photo(2), photo(3)]
    for batch in [members] if at_once else [[member] for member in members]:
        assert set(await talk.say(*batch)) == {"accepted"}

    (ask,) = await talk.asks()
    wanted = []
    for _ in members:
        (reply,) = await talk.replies()
        wanted.append(reply.document)
        await talk.inbox.bring(reply.id, picture(), reply.document)
    (complete,) = await talk.asks()
    assert (len(ask.pieces), ask.lacks_document, ask.text) == (3, True, "Compare")
    assert wanted == ["F1", "F2", "F3"]
    assert (len(complete.pictures), complete.lacks_document) == (3, False)
    assert (await talk.replies())[0].document == ""


async def test_file_that_is_brought_twice_is_not_taken_for_the_next(talk: Talk) -> None:
    """The answer to the first time was lost on its way."""
    await talk.say(photo(1, "Compare"), photo(2))
    (reply,) = await talk.replies()

    for _ in range(2):
        await talk.inbox.bring(reply.id, picture(), "F1")

    (ask,) = await talk.asks()
    assert (len(ask.pictures), ask.lacks_document) == (1, True)
    assert (await talk.replies())[0].document == "F2"


async def test_relay_that_does_not_say_which_brings_the_first(talk: Talk) -> None:
    """One of the version before knows of one."""
    await talk.say(photo(1, "Compare"), photo(2))
    (reply,) = await talk.replies()

    await talk.inbox.bring(reply.id, picture())

    assert (await talk.replies())[0].document == "F2"


async def test_same_file_twice_is_brought_once(talk: Talk) -> None:
    """What is to be brought is told by the file's name alone."""
    await talk.say(photo(1, "Twice"), photo(2, document_id="F1"))
    (reply,) = await talk.replies()

    await talk.inbox.bring(reply.id, picture(), "F1")

    (ask,) = await talk.asks()
    assert (len(ask.pictures), ask.lacks_document) == (1, False)


@pytest.mark.parametrize(
    "other",
    [
        message(2, "more"),
        photo(2, album="24680"),
        photo(2, album=""),
        photo(2, user_id=8),
        photo(2, chat_id=8),
        photo(2, thread_id=4),
    ],
)
async def test_what_is_no_part_of_it_is_another_ask(talk: Talk, other: dict[str, Any]) -> None:
    """Of another album, user, chat or topic, or of none."""
    await talk.say(photo(1, "this"))
    await talk.say(other)

    assert [len(ask.pieces) for ask in await talk.asks()] == [1, 1]


async def test_ask_that_has_begun_takes_none_in(talk: Talk) -> None:
    """What comes late is asked by itself."""
    await talk.say(message(1, "this", **ALBUM))
    (ask,) = await talk.asks()
    await talk.store.run(talk.store.take_ask, ask.id)

    await talk.say(photo(2))

    assert [len(ask.pieces) for ask in await talk.asks()] == [1, 1]


async def test_member_that_is_delivered_again_is_a_duplicate(talk: Talk) -> None:
    """Telegram repeats what was not confirmed."""
    await talk.say(photo(1, "this"), photo(2))

    assert await talk.say(photo(1, "this"), photo(2)) == ["duplicate"] * 2
    assert [len(ask.pieces) for ask in await talk.asks()] == [2]


async def test_what_cannot_be_read_is_told_to_the_model(talk: Talk) -> None:
    """An album may hold videos as well."""
    await talk.say(photo(1, "Compare"), message(2, None, attachment="video", album="13579"))

    (ask,) = await talk.asks()
    assert ask.text == "[video attached that you cannot see or open]\n\nCompare"
    assert len(await talk.replies()) == 1


async def test_quotation_stands_once(talk: Talk) -> None:
    """All of an album reply to the same message."""
    reply_to: dict[str, Any] = {"reply_to": 3, "quoted": "old"}
    await talk.say(photo(1, "Compare", **reply_to), photo(2, **reply_to))

    assert [ask.text for ask in await talk.asks()] == ["> old\n\nCompare"]


async def test_file_that_cannot_be_read_ends_the_ask(talk: Talk) -> None:
    """Its user is told once; nothing more is fetched."""
    await talk.say(photo(1, "Compare"), photo(2))
    (reply,) = await talk.replies()

    await talk.inbox.bring(reply.id, b"", "F1")

    assert await talk.asks() == []
    (closed,) = await talk.replies()
    assert (closed.closed, closed.document) == (True, "")
    assert closed.text == "This file seems to be damaged: I could not read it."
    await talk.inbox.bring(reply.id, picture(), "F2")
    assert list(talk.store._db.execute("SELECT * FROM pictures")) == []


async def test_caption_is_reworded_while_it_waits(talk: Talk) -> None:
    """On whichever of its messages it stands."""
    await talk.say(photo(1), photo(2, "Comapre"))
    await talk.say(photo(3, "Compare", kind="edit", message_id=1002, edited_at=5))

    (ask,) = await talk.asks()
    assert (ask.text, ask.lacks_document) == ("Compare", True)


async def test_album_waits_a_moment_for_the_next_of_it(talk: Talk) -> None:
    """Also when its first file is there already; a single picture does not wait."""
    await talk.say(photo(1, "Compare"), photo(2, "this", album=""))
    for reply in reversed(await talk.replies()):
        await talk.inbox.bring(reply.id, picture(), reply.document)

    of_album, single = await talk.asks()
    assert (paste_delay(of_album), paste_delay(single)) == (ALBUM_SECONDS, 0)
    ripe = talk.queue._ripe_at
    assert ripe[of_album.id] - ripe[single.id] > ALBUM_SECONDS / 2


async def test_member_that_comes_as_its_ask_is_taken_is_waited_for(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is asked after it in its chat is answered after it."""
    monkeypatch.setattr(gateway_inbox, "ALBUM_SECONDS", 0.0)
    await talk.say(message(1, "Compare", album="13579"))
    async with AsyncExitStack() as stack:
        async with busy(talk.store):
            saying = asyncio.create_task(talk.say(photo(2), message(3, "later")))
            await asyncio.sleep(0)  # it is in line for the store
            engine = await stack.enter_async_context(answered(talk))
            await until(lambda: talk.queue.running_count, "the ask is taken")
        await saying
        reply, _ = await talk.replies()
        await talk.inbox.bring(reply.id, picture(), reply.document)
        await until(lambda: len(engine.requests) == 2, "both are answered")

    first, second = (messages[-1]["content"] for messages in engine.requests)
    assert [part["type"] for part in first] == ["image_url", "text"]
    assert (first[1]["text"], second) == ("Compare", "later")


@pytest.mark.parametrize("most_pictures", [0, 1])
async def test_user_knows_what_was_not_looked_at(talk: Talk, most_pictures: int) -> None:
    """Also where the operator has switched pictures off since they came."""
    await talk.say(photo(1, "Compare"), photo(2))
    (reply,) = await talk.replies()
    for name in ("F1", "F2"):
        await talk.inbox.bring(reply.id, picture(), name)

    async with answered(talk, most_pictures):
        entry = talk.outbox._entries[reply.id]
        await until(lambda: entry.reply.closed, "it is answered")

    sentence = "last 1 only" if most_pictures else "I cannot see pictures."
    assert sentence in entry.text()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("why", ["too big", "too many"])
async def test_album_that_is_not_taken_is_told_of_once(talk: Talk, why: str, at_once: bool) -> None:
    """And nothing is answered without its question, which stood under the first."""
    if why == "too many":
        for number in range(11, 20):
            await talk.say(message(number, "question"))
    before = len(await talk.replies())
    size = 10**9 if why == "too big" else 1
    members = [photo(1, "Compare", document_bytes=size), photo(2), photo(3, document_bytes=size)]

    outcomes = []
    for batch in [members] if at_once else [[member] for member in members]:
        outcomes += await talk.say(*batch)

    assert outcomes == ["refused"] * 3
    assert len(await talk.replies()) == before + 1
    assert all(ask.text == "question" for ask in await talk.asks())
    await talk.say(photo(4, "this", album="24680", document_bytes=10**9))
    assert len(await talk.replies()) == before + 2


async def test_member_that_is_too_big_keeps_no_other_from_its_album(talk: Talk) -> None:
    """Its user is told; the others are looked at."""
    await talk.say(photo(1, "Compare"), photo(2, document_bytes=10**9), photo(3))

    (ask,) = await talk.asks()
    assert [piece.message_id for piece in ask.pieces] == [1001, 1003]


async def test_member_that_comes_under_another_number_is_taken_once(talk: Talk) -> None:
    """As after the bot has got another token's updates."""
    await talk.say(photo(1, "Compare"), photo(2))

    await talk.say(photo(12, message_id=1002, document_id="F2"))

    first, *_ = await talk.asks()
    assert [piece.message_id for piece in first.pieces] == [1001, 1002]


@pytest.mark.parametrize(
    "first",
    [
        photo(1, "x" * 3000, album=""),
        message(1, "x" * 3000, attachment="video", album="13579"),
    ],
    ids=["picture", "album"],
)
async def test_long_caption_is_no_piece_of_a_paste(talk: Talk, first: dict[str, Any]) -> None:
    """What is written after it is another question."""
    await talk.say(first)
    for reply in await talk.replies():
        await talk.inbox.bring(reply.id, picture(), "F1")

    await talk.say(message(2, "later"))

    assert [len(ask.pieces) for ask in await talk.asks()] == [1, 1]


async def answer_all(talk: Talk) -> None:
    """Answer what waits, in message 77."""
    for ask in await talk.asks():
        await talk.store.run(talk.store.take_ask, ask.id)
        await talk.store.run(talk.store.finish_ask, ask, "answer", "answer", NOTHING)
        await talk.store.run(talk.store.record_part, ask.reply_id, 0, 77)
        await talk.store.run(talk.store.drop_reply, ask.reply_id)


@pytest.mark.parametrize("has_video", [True, False])
async def test_edited_caption_of_an_album(talk: Talk, has_video: bool) -> None:
    """It is answered in place where the store has all of the album but the caption."""
    await talk.say(photo(1, "Comapre"), photo(2))
    if has_video:
        await talk.say(message(3, None, attachment="video", album="13579"))
    (reply,) = await talk.replies()
    for name in ("F1", "F2"):
        await talk.inbox.bring(reply.id, picture(), name)
    await answer_all(talk)

    await talk.say(photo(4, "Compare", kind="edit", message_id=1001, edited_at=5))

    (reply,) = await talk.replies()
    (ask,) = await talk.asks()
    assert reply.parts == (() if has_video else (77,))
    assert len(ask.pictures) == (0 if has_video else 2)


async def test_reply_that_can_never_be_shown_wants_nothing(talk: Talk) -> None:
    """Its album is not brought any more, and nothing of it is left."""
    await talk.say(photo(1, "Compare"), photo(2))
    (reply,) = await talk.replies()
    await talk.inbox.bring(reply.id, picture(), "F1")

    await talk.store.run(talk.store.drop_reply, reply.id)

    for table in ("asks", "pieces", "pictures", "wanted"):
        assert list(talk.store._db.execute(f"SELECT * FROM {table}")) == []


async def test_transcriber_has_its_time_for_each_recording(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from the first that one has waited for it; another one has its own."""

    class Absent:
        async def write_down(self, _content: bytes, _name: str) -> str:
            raise TranscriberUnavailable

    transcriber: Any = Absent()
    talk.inbox._documents = Documents(1000, transcriber)
    now = [0.0]
    monkeypatch.setattr(gateway_inbox, "time", SimpleNamespace(monotonic=lambda: now[0]))
    await talk.say(photo(1, attachment="voice", album=""))
    await talk.say(photo(2, attachment="voice", album="", thread_id=4))
    first, second = await talk.replies()

    for at, reply in ((0, first), (UNHEARD_SECONDS - 1, first), (UNHEARD_SECONDS, second)):
        now[0] = at
        with pytest.raises(TranscriberUnavailable):
            await talk.inbox.bring(reply.id, b"sound")
    await talk.inbox.bring(first.id, b"sound")

    assert [reply.closed for reply in await talk.replies()] == [True, False]


async def test_album_whose_group_moves_is_still_one_ask(talk: Talk) -> None:
    """What was on its way is brought for the reply as before, and a late member joins it."""
    here: dict[str, Any] = {"chat_id": -5, "chat_kind": "group"}
    there: dict[str, Any] = {"chat_id": -1_000_000_000_005, "chat_kind": "supergroup"}
    await talk.say(photo(1, "Compare", **here), photo(2, **here))
    (reply,) = await talk.replies()
    await talk.inbox.bring(reply.id, picture(), "F1")

    await talk.inbox.move(-5, there["chat_id"])
    await talk.say(photo(3, **there))
    for name in ("F2", "F3"):
        await talk.inbox.bring(reply.id, picture(), name)

    (ask,) = await talk.asks()
    assert (ask.chat_id, len(ask.pictures), ask.lacks_document) == (there["chat_id"], 3, False)
    assert talk.queue.waiting() == [ask]
