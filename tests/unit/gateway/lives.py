"""Everything behind a gateway's HTTP side, in processes that die."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.engine import Engine
from services.gateway.history import History
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store, Usage
from services.gateway.summaries import Summaries
from services.wire import Batch, Reply
from tests.unit.fakes import KEY, USER, FakeEngine

CHAT = (USER, 0)


class Gateway:
    """Everything behind the HTTP side, in one process that can die."""

    def __init__(
        self,
        directory: Path,
        engine: FakeEngine,
        prompt_tokens: int = 4000,
        slots: int = 1,
        has_summaries: bool = False,
    ) -> None:
        self.directory = directory
        self.engine = engine
        self.prompt_tokens = prompt_tokens
        self.slots = slots
        self.has_summaries = has_summaries

    @asynccontextmanager
    async def life(self) -> AsyncGenerator["Gateway"]:
        """From a start to a sudden end."""
        self.store = Store(self.directory / "store.db", KEY)
        self.outbox = Outbox(self.store, await self.store.run(self.store.undelivered_replies))
        self.queue = Queue()
        engine: Engine = self.engine  # type: ignore[assignment]  # a fake of the same shape

        async def no_time(_seconds: float) -> None:
            await asyncio.sleep(0)

        house = House(256, 0.0)
        self.summaries = summaries = Summaries(
            self.store, self.queue, engine, self.prompt_tokens, self.slots, house
        )
        history = History(self.store, engine, self.prompt_tokens, has_summaries=self.has_summaries)
        self.workers = workers = Answering(
            self.store, self.queue, self.outbox, history, engine,
            self.slots, house, silence_seconds=0.2, file_characters=5000, sleep=no_time,
            note_answered=summaries.note if self.has_summaries else lambda _ask, _manner: None,
        )  # fmt: skip
        self.inbox = Inbox(
            self.store,
            self.queue,
            self.outbox,
            Access(self.store, frozenset({USER})),
            Limits(9, 9, 3000),
        )
        await self.store.run(self.store.requeue_asks)
        for ask in await self.store.run(self.store.asks):
            self.queue.put(ask)
        running = asyncio.create_task(workers.run())
        summing = asyncio.create_task(summaries.run())
        try:
            yield self
        finally:
            running.cancel()
            summing.cancel()
            await asyncio.wait({running, summing})
            self.store.close()

    async def save(self) -> None:
        """Save what the answers have gained, as the workers do every second."""
        found = [progress.checkpoint() for progress in self.workers._progress.values()]
        await self.store.run(self.store.save, [point for point in found if point])

    async def accept(self, *updates: dict[str, object]) -> str:
        receipts = await self.inbox.accept(Batch(bot_id=1, updates=list(updates)))
        return receipts.receipts[0].notice

    async def replies(self) -> list[Reply]:
        return await self.store.run(self.store.undelivered_replies)

    async def wait_for_end(self, count: int = 1) -> list[Reply]:
        async with asyncio.timeout(5):
            while True:
                closed = [reply for reply in await self.replies() if reply.closed]
                if len(closed) == count:
                    return closed

    async def usage(self) -> list[tuple[int, Usage]]:
        rows = await self.store.run(self.store.usage, 1)
        return [(row.asks, row.usage) for row in rows]

    def shown(self, reply_id: int) -> str:
        return self.outbox._entries[reply_id].text()
