"""The workers answer what was accepted, and neither an ask nor an odd engine ends them."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
from aiohttp import web

from services.gateway.access import Access
from services.gateway.answering import PLACES_REST, Answering
from services.gateway.documents import Documents
from services.gateway.engine import (
    Engine,
    EngineFailed,
    Finished,
    Piece,
    Thought,
    open_engine,
)
from services.gateway.history import History
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue, Running
from services.gateway.store import Ask, Store
from services.wire import Batch
from tests.unit.fakes import USER, FakeEngine, message, open_store, until


@dataclass
class Parts:
    """A gateway without its HTTP side, and with one worker."""

    store: Store
    queue: Queue
    inbox: Inbox
    answering: Answering
    engine: FakeEngine
    tasks: list[asyncio.Task[object]] = field(default_factory=list)

    def start(self) -> None:
        self.tasks.append(asyncio.create_task(self.answering.run()))

    async def accept(self, *updates: dict[str, object]) -> list[str]:
        receipts = await self.inbox.accept(Batch(bot_id=1, updates=list(updates)))
        return [receipt.outcome for receipt in receipts.receipts]

    async def wait_for_replies(self, wanted: list[str]) -> None:
        """Wait until the replies stand in the store, complete; fail early if the workers end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 5
        while (seen := await self.closed_replies()) != wanted:
            assert not any(task.done() for task in self.tasks), self.tasks
            assert loop.time() < deadline, f"{seen} instead of {wanted}"

    async def closed_replies(self) -> list[str]:
        replies = await self.store.run(self.store.undelivered_replies)
        return [reply.text for reply in replies if reply.closed]

    def asked(self) -> list[str]:
        return [request[-1]["content"] for request in self.engine.requests]

    @asynccontextmanager
    async def busy_store(self) -> AsyncGenerator[None]:
        """Let the store's thread be at something long: what is asked of it meanwhile lines up."""
        done = threading.Event()
        work = asyncio.create_task(self.store.run(done.wait))
        await asyncio.sleep(0)  # it is in line now
        try:
            yield
        finally:
            done.set()
            await work

    async def take_before(self, update: dict[str, Any]) -> None:
        """Let a worker take the only ask while an update is accepted, but not on the disk yet."""
        async with self.busy_store():
            accepting = asyncio.create_task(self.accept(update))
            await asyncio.sleep(0)  # it is in line
            self.start()
            await until(lambda: not self.queue.waiting(), "a worker takes the ask")
        assert await accepting == ["accepted"]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncGenerator[Parts]:
    async with open_store(tmp_path) as store:
        outbox, queue, fake = Outbox(store, []), Queue(), FakeEngine()
        engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
        answering = Answering(
            store, queue, outbox, History(store, engine, 4000), engine, 1, House(256, 0.0)
        )
        access = Access(store, frozenset({USER}))
        documents = Documents(1000)
        inbox = Inbox(store, queue, outbox, access, Limits(9, 9, 3000), documents=documents)
        parts = Parts(store, queue, inbox, answering, fake)
        yield parts
        for task in parts.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, BaseExceptionGroup):
                await task


async def test_ask_that_breaks_its_worker_ends_alone(parts: Parts) -> None:
    """Its user is told, the next ask is answered, and no later start takes it up again."""
    parts.engine.scripts.extend([[KeyError("nobody thought of this")], ["fine"]])
    parts.start()

    await parts.accept(message(1, "breaks"), message(2, "hello"))

    await parts.wait_for_replies(["I could not finish this answer.", "fine"])
    assert await parts.store.run(parts.store.asks) == []


async def test_free_slot_waits_for_the_store_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the ask with all that its user has chosen, and the conversation: each trip costs the
    engine the commit that is on its way."""
    await parts.accept(message(1, "hello"))
    trips = []
    hand_over = parts.store._hand_over

    async def count(order: str, *work: Any) -> Any:
        if not parts.engine.requests:
            trips.append(order)
        return await hand_over(order, *work)  # type: ignore[arg-type]  # one of its orders

    monkeypatch.setattr(parts.store, "_hand_over", count)
    parts.start()
    await until(lambda: bool(parts.engine.requests), "the engine is asked")

    assert trips == ["first"]


async def test_slot_is_free_before_the_answer_is_on_the_disk(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next ask is taken before its answer goes there; in the same chat, after that."""
    steps: list[str] = []
    take, finish = parts.store.take_ask, parts.store.finish_ask

    def note_take(ask_id: int) -> Any:
        taken = take(ask_id)
        steps.append(f"take {taken[0].text}" if taken else "nothing")
        return taken

    def note_finish(ask: Ask, *arguments: Any, **keywords: Any) -> Any:
        steps.append(f"finish {ask.text}")
        return finish(ask, *arguments, **keywords)

    monkeypatch.setattr(parts.store, "take_ask", note_take)
    monkeypatch.setattr(parts.store, "finish_ask", note_finish)
    await parts.accept(message(1, "a"), message(2, "b"), message(3, "c", thread_id=9))
    parts.start()
    await parts.wait_for_replies(["fine", "fine", "fine"])

    assert steps == ["take a", "take c", "finish a", "take b", "finish c", "finish b"]


async def test_answers_do_not_pile_up_before_a_bad_disk(tmp_path: Path) -> None:
    """With as many answers as slots on their way to a disk that takes none, no ask is begun."""
    async with open_store(tmp_path) as store:
        queue, fake, waits = Queue(), FakeEngine(), asyncio.Event()
        engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
        failing = asyncio.Event()

        def refuse(*_: Any, **__: Any) -> None:
            raise apsw.FullError

        async def wait(_: float) -> None:
            failing.set()
            await waits.wait()

        workers = Answering(
            *(store, queue, Outbox(store, []), History(store, engine, 4000), engine, 1),
            House(256, 0.0),
            sleep=wait,
        )
        store.finish_ask = refuse  # type: ignore[method-assign]  # of the disk, full for this alone
        access = Access(store, frozenset({USER}))
        inbox = Inbox(store, queue, Outbox(store, []), access, Limits(9, 9, 3000))
        updates = [message(number, "x", thread_id=number) for number in range(1, 5)]
        await inbox.accept(Batch(bot_id=1, updates=updates))
        running = asyncio.create_task(workers.run())
        await failing.wait()
        await until(lambda: len(fake.requests) == 2, "the next one is answered meanwhile")
        await until(lambda: not workers._progress, "it has come to its end")
        await store.run(lambda: None)

        assert len(fake.requests) == 2
        assert len(queue.waiting()) == 2
        running.cancel()
        await asyncio.wait({running})


async def test_accepted_edit_of_a_waiting_ask_is_what_the_engine_is_asked(parts: Parts) -> None:
    """Even if a worker takes the ask while the edit is on its way to the disk."""
    await parts.accept(message(1, "teh questoin"))
    edit = message(2, "the question", kind="edit", edited_at=5, message_id=1001)

    await parts.take_before(edit)

    await parts.wait_for_replies(["fine"])
    assert parts.asked() == ["the question"]


async def test_ask_stopped_on_its_way_to_a_worker_is_not_asked(parts: Parts) -> None:
    """Even if /stop is still on its way to the disk when a worker takes the ask."""
    await parts.accept(message(1, "tell me"))

    await parts.take_before(message(2, "/stop"))

    await parts.accept(message(3, "next"))
    await parts.wait_for_replies(["(stopped)", "fine"])
    assert parts.asked() == ["next"]


async def test_album_that_grows_on_its_way_to_a_worker_waits_for_its_document(
    parts: Parts, tmp_path: Path
) -> None:
    """Even if the worker has taken it while one more is on its way to the disk."""
    await parts.accept(message(1, "read", attachment="photo", album="5"))
    more = message(2, None, attachment="document", document_id="B", album="5")
    (waiting,) = await parts.store.run(parts.store.asks)
    parts.queue.put(waiting)  # its second of waiting is over

    await parts.take_before(more)

    await until(lambda: parts.queue._waiting, "it waits again")
    assert parts.asked() == []
    await parts.inbox.bring(waiting.reply_id, b"words", "B")
    await parts.wait_for_replies(["fine"])
    (asked,) = parts.asked()
    assert "words" in asked
    assert asked.endswith("read")


# Engines that are not what they were, or not what they should be


@dataclass
class OddEngine:
    """Serves one model, and any line instead of an answer."""

    model: str = "one"
    line: bytes = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'

    async def name(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": self.model}]})

    async def answer(self, request: web.Request) -> web.Response:
        if (await request.json())["model"] != self.model:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        body = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
        body += b"data: " + self.line + b"\n\ndata: [DONE]\n\n"
        return web.Response(body=body, content_type="text/event-stream")


@pytest.fixture
async def odd(tmp_path: Path) -> AsyncGenerator[tuple[OddEngine, Engine]]:
    odd = OddEngine()
    app = web.Application()
    app.router.add_get("/v1/models", odd.name)
    app.router.add_post("/v1/chat/completions", odd.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "engine.sock").start()
    async with open_engine(tmp_path / "engine.sock", 1) as engine:
        yield odd, engine
    await runner.cleanup()


async def speak(engine: Engine) -> list[Piece | Thought | Finished]:
    return [item async for item in engine.stream([], 9, 0.0)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"choices":[],"usage":{"total_tokens":1}}',
        b'{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":1}}',
        b'{"choices":[],"usage":{"prompt_tokens":"many","completion_tokens":1}}',
        b'{"choices":[],"usage":7}',
        b'{"choices":[],"usage":["prompt_tokens"]}',
        b'{"choices":[]}',
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
    ],
)
async def test_odd_line_is_a_failure_of_the_engine(
    odd: tuple[OddEngine, Engine], line: bytes
) -> None:
    """Whatever stands where the cost or text should stand, only errors with a name come of it."""
    odd_engine, engine = odd
    odd_engine.line = line

    with pytest.raises(EngineFailed):
        await speak(engine)


@pytest.mark.parametrize("name", [b"reasoning_content", b"reasoning"])
async def test_thoughts_are_told_from_the_answer(
    odd: tuple[OddEngine, Engine], name: bytes
) -> None:
    """Both names that engines give them are known; what is no text under them is left out."""
    odd_engine, engine = odd
    cost = b'"usage":{"prompt_tokens":1,"completion_tokens":2}'
    odd_engine.line = b'{"choices":[{"delta":{"' + name + b'":"hm"}}],' + cost + b"}"
    assert await speak(engine) == [Piece("hi"), Thought("hm"), Finished("", 1, 2)]

    odd_engine.line = b'{"choices":[{"delta":{"' + name + b'":{"a":1}}}],' + cost + b"}"
    assert await speak(engine) == [Piece("hi"), Finished("", 1, 2)]


async def test_resumed_words_are_no_thoughts(odd: tuple[OddEngine, Engine]) -> None:
    """vLLM takes what follows the beginning of an answer for a thought: it is the answer."""
    odd_engine, engine = odd
    cost = b'"usage":{"prompt_tokens":1,"completion_tokens":2}'
    odd_engine.line = b'{"choices":[{"delta":{"reasoning":" there"}}],' + cost + b"}"

    said = [item async for item in engine.stream([], 9, 0.0, resume=True)]

    assert said == [Piece("hi"), Piece(" there"), Finished("", 1, 2)]


async def test_renamed_model_is_asked_for_by_its_new_name(odd: tuple[OddEngine, Engine]) -> None:
    """An engine that was restarted with another model costs one try, not every later answer."""
    odd_engine, engine = odd
    answer = [Piece("hi"), Finished("", 1, 1)]
    assert await speak(engine) == answer

    odd_engine.model = "two"

    with pytest.raises(EngineFailed):
        await speak(engine)
    assert await speak(engine) == answer


async def test_many_who_wait_do_not_hold_up_the_gateway(parts: Parts) -> None:
    """A batch of asks behind thousands is put in line at once: places are told once for all."""
    asks = [
        Ask(number, number, number % 50, number, 0, 1, 0, "en", "waiting", 0.0)
        for number in range(1, 2102)
    ]
    parts.queue.on_change, show = (lambda: None), parts.queue.on_change
    for ask in asks[:2001]:
        parts.queue.put(ask)
    await parts.queue.next()  # the only slot is busy
    parts.queue.on_change = show
    began = time.process_time()

    for ask in asks[2001:]:
        parts.queue.put(ask)
    await asyncio.sleep(0.01)

    assert time.process_time() - began < 1.0


async def test_free_slots_cost_nothing_when_the_queue_changes(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One waits for the next ask, not each free slot; what leaves its slot twice frees one."""
    queue, waits = parts.queue, [0]
    take, most = queue.next, 0

    async def take_next() -> Running:
        nonlocal most
        waits[0] += 1
        most = max(most, waits[0])
        try:
            return await take()
        finally:
            waits[0] -= 1

    monkeypatch.setattr(queue, "next", take_next)
    parts.answering._free = asyncio.Semaphore(8)
    parts.start()

    for number in range(1, 4):
        assert await parts.accept(message(number, text=f"question {number}")) == ["accepted"]
        await parts.wait_for_replies(["fine"] * number)
    await until(lambda: waits == [1], "the next ask is waited for")

    assert most == 1
    assert parts.answering._free._value == 7  # one is kept for whoever comes next


async def test_engine_hears_which_conversation_it_is(parts: Parts) -> None:
    """The same for all that is asked in it, so that it can stay where it was read before."""
    parts.start()

    for number, thread in enumerate((0, 7, 0, 7), 1):
        update = message(number, text=f"question {number}")
        assert await parts.accept(update | {"thread_id": thread}) == ["accepted"]
        await parts.wait_for_replies(["fine"] * number)

    first, topic, *later = parts.engine.chats
    assert later == [first, topic]
    assert len({first, topic, ""}) == 3


async def test_places_leave_the_loop_to_other_work(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the queue changes: after each look at all that wait there is a rest."""
    looks: list[float] = []
    clock = asyncio.get_running_loop().time

    def look() -> None:
        looks.append(clock())
        time.sleep(0.01)  # so many wait

    monkeypatch.setattr(parts.answering, "_show_places", look)
    while len(looks) < 3:
        parts.answering._show_places_soon()
        await asyncio.sleep(0)

    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert min(pauses) >= PLACES_REST * 0.01
