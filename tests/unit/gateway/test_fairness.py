"""Nobody is starved: measured on the gateway's own workers with the stub engine on its socket."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.engine import open_engine
from services.gateway.history import History, estimate_tokens
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.queue import OUTPUT_WEIGHT, Queue
from services.gateway.store import Store
from services.wire import Batch
from tests.stubs.engine.server import build_app as build_engine
from tests.unit.fakes import KEY, message

SLOTS = 9
FLOODER = 1
OTHERS = tuple(range(2, 11))
USERS = (FLOODER, *OTHERS)


@dataclass
class Gateway:
    inbox: Inbox
    engine: aiohttp.ClientSession
    updates: "itertools.count[int]"
    workers: Answering
    running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Let the workers begin."""
        self.running = asyncio.create_task(self.workers.run())

    async def ask(self, *asks: tuple[int, int, str]) -> None:
        """Let users ask: (user, topic, text), in one batch."""
        updates = [
            message(next(self.updates), text, user_id=user, chat_id=user, thread_id=topic)
            for user, topic, text in asks
        ]
        receipts = await self.inbox.accept(Batch(bot_id=1, updates=updates))
        assert {receipt.outcome for receipt in receipts.receipts} == {"accepted"}

    async def script(self, **script: Any) -> None:
        async with self.engine.post("http://engine/control/script", json=script) as response:
            assert response.status == 200

    async def requests(self) -> list[dict[str, Any]]:
        async with self.engine.get("http://engine/control/record") as response:
            return list(await response.json())

    async def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many requests are finished; returns all, in the order of their start."""
        async with asyncio.timeout(60):
            while True:
                requests = await self.requests()
                if sum(request["outcome"] == "finished" for request in requests) >= count:
                    return requests
                await asyncio.sleep(0.02)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    runner = web.AppRunner(build_engine(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "engine.sock").start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        store = Store(tmp_path / "store.db", KEY)
        stack.callback(store.close)
        engine = await stack.enter_async_context(open_engine(tmp_path / "engine.sock", SLOTS))
        control = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "engine.sock")))
        )
        outbox, queue = Outbox(store, []), Queue()
        history = History(store, engine, 4000)
        workers = Answering(store, queue, outbox, history, engine, SLOTS, House(512, 0.0))
        access = Access(store, frozenset(USERS))
        inbox = Inbox(store, queue, outbox, access, Limits(999, 9999, 9000))
        gateway = Gateway(inbox, control, itertools.count(1), workers)
        yield gateway
        if gateway.running:
            gateway.running.cancel()
            await asyncio.wait({gateway.running})


def user_of(request: dict[str, Any]) -> int:
    return int(request["messages"][-1]["content"].split()[1])


@pytest.mark.parametrize("topics", [1, 50], ids=["one chat", "fifty topics"])
async def test_flood_of_one_user_delays_nobody_by_more_than_a_batch(
    gateway: Gateway, topics: int, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """One user has 50 asks waiting; nine ask one each: all nine start within one batch's time."""
    await gateway.script(speed=50, content={"words": 40})
    gateway.start()
    flood = [(FLOODER, number % topics, f"user {FLOODER} ask {number}") for number in range(50)]
    await gateway.ask(*flood)
    batch = min(SLOTS, topics)
    async with asyncio.timeout(10):
        while len(await gateway.requests()) < batch:
            await asyncio.sleep(0.01)
    asked_at = time.time()

    await gateway.ask(*((user, 0, f"user {user} ask") for user in OTHERS))
    requests = await gateway.wait_for(SLOTS + len(OTHERS))

    starts = {user_of(r): r["started"] for r in requests if user_of(r) != FLOODER}
    batch_ended = max(request["ended"] for request in requests[:batch])
    batch_seconds = batch_ended - min(request["started"] for request in requests[:batch])
    record_testsuite_property("slowest_start_seconds", round(max(starts.values()) - asked_at, 3))
    following = requests[batch : batch + len(OTHERS)]
    assert {user_of(request) for request in following} == set(OTHERS), "the flood went first"
    assert max(starts.values()) < batch_ended + batch_seconds / 2  # the time to take the next


async def test_equal_users_are_given_equal_tokens(
    gateway: Gateway, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """While all have asks waiting, tokens differ little: Jain's index is 0.95 or more."""
    words = {user: 10 * (1 + user % 4) for user in USERS}
    rules = [
        {"contains": f"user {user} ", "content": {"words": count}} for user, count in words.items()
    ]
    await gateway.script(speed=400, rules=rules)
    asks = [(user, topic, f"user {user} ask {topic}") for topic in range(120) for user in USERS]

    for start in range(0, len(asks), 100):
        await gateway.ask(*asks[start : start + 100])
    gateway.start()  # when all have asked: who has nothing waiting yet is owed nothing
    tokens = dict.fromkeys(USERS, 0)
    served = dict.fromkeys(USERS, 0)
    async with asyncio.timeout(60):
        while sum(tokens.values()) < 6000:
            await asyncio.sleep(0.1)
            tokens = dict.fromkeys(USERS, 0)
            served = dict.fromkeys(USERS, 0)
            for request in await gateway.requests():
                prompt = estimate_tokens(request["messages"][-1]["content"])
                tokens[user_of(request)] += request["tokens"]
                served[user_of(request)] += prompt + OUTPUT_WEIGHT * request["tokens"]

    assert all(tokens[user] < 120 * words[user] for user in USERS), "somebody had nothing waiting"
    index = sum(served.values()) ** 2 / (len(served) * sum(n * n for n in served.values()))
    record_testsuite_property("jain_index", round(index, 4))
    assert index >= 0.95, served
