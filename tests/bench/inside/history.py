"""Measures what a turn costs the gateway, in its own environment, by what its store holds already.

    python -m tests.bench.inside.history DIRECTORY MESSAGES TURNS ROUNDS

A turn is all that the gateway does for a question but HTTP: accept it, compose the prompt, pass on
an answer of 20 tokens, commit it, and forget the reply when it is delivered. Prints
{place: [seconds]}, the places measured in turn.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.engine import Engine, Finished, Message, Piece, Thought
from services.gateway.history import History
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.wire import Batch, Button, Update

KEY = "0" * 63 + "1"
PROMPT_TOKENS = 8192 - 1024
ANSWER = [" word"] * 20
QUESTION = "What would you say to somebody who asks the same thing every day, number {n}? " * 2
LENGTHS = (0, 20, 100, 400, 2000)
"""Turns of chats beside the longest."""
OTHER_CHATS = 1000
FIRST_OTHER = 1_000_000
NEWCOMER = 10_000
"""Who has no past is somebody else each time."""
WARM_ROUNDS = 5


class QuickEngine:
    """Answers at once, and counts as roughly as engines' tokens are long."""

    async def count_prompt(self, messages: list[Message], _model: str = "") -> int | None:
        return sum(len(message["content"]) for message in messages) // 4

    async def stream(
        self, _messages: list[Message], *_: Any, **__: Any
    ) -> AsyncGenerator[Piece | Thought | Finished]:
        for piece in ANSWER:
            yield Piece(piece)
        yield Finished("stop", 100, len(ANSWER))


class WatchedOutbox(Outbox):
    """Tells when a reply is complete."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, [])
        self.closed: asyncio.Queue[int] = asyncio.Queue()

    def close(self, reply_id: int, text: str, *buttons: Button) -> None:
        super().close(reply_id, text, *buttons)
        self.closed.put_nowait(reply_id)


class SilentGateway:
    """One gateway without HTTP, over one store."""

    def __init__(self, file: Path, users: list[int]) -> None:
        engine: Engine = QuickEngine()  # type: ignore[assignment]  # of the same shape
        self.store = Store(file, KEY)
        self._outbox = WatchedOutbox(self.store)
        queue = Queue()
        self.answering = Answering(
            *(self.store, queue, self._outbox, History(self.store, engine, PROMPT_TOKENS), engine),
            *(1, House(1024, 0.7, "You are a helpful assistant.", {}, {})),
        )
        access = Access(self.store, frozenset(users))
        limits = Limits(20, 500, PROMPT_TOKENS)
        self._inbox = Inbox(self.store, queue, self._outbox, access, limits)
        self._number = 0

    async def turn(self, user: int) -> float:
        """Let a user ask in their chat; returns the seconds until all of it is committed."""
        self._number += 1
        update = Update(
            update_id=self._number,
            kind="message",
            chat_id=user,
            chat_kind="private",
            user_id=user,
            message_id=self._number,
            sent_at=int(time.time()),
            text=QUESTION.format(n=self._number),
        )
        batch = Batch(bot_id=1, updates=[update.model_dump()])
        began = time.perf_counter()
        receipts = await self._inbox.accept(batch)
        assert receipts.receipts[0].outcome == "accepted"
        reply_id = await self._outbox.closed.get()
        await self.store.run(self.store.drop_reply, reply_id, 1)
        took = time.perf_counter() - began
        self._outbox.forget(reply_id)
        return took


def fill(store: Store, chat: int, turns: int) -> None:
    """In the store's thread: give a chat a past of so many turns."""
    rows = (
        (chat, 0, ("user", "assistant")[n % 2], QUESTION.format(n=n), int(time.time()))
        for n in range(turns)
    )
    store._db.executemany(
        "INSERT INTO turns(chat_id, thread_id, role, text, created_at) VALUES(?, ?, ?, ?, ?)", rows
    )


async def prepare(store: Store, messages: int, longest: int, *, others: bool) -> None:
    """Give a store its past."""

    def write() -> None:
        with store.transaction():
            for place, length in enumerate((*LENGTHS, longest)):
                fill(store, 1 + place, length)
            if others:
                for chat in range(OTHER_CHATS):
                    fill(store, FIRST_OTHER + chat, messages // OTHER_CHATS)

    await store.run(write)
    await store.run(store.truncate_journal)


async def main() -> None:
    """Measure a small store and a full one, every place in each round."""
    directory, messages, longest, rounds = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    users = list(range(1, 2 + len(LENGTHS)))
    newcomers = list(range(NEWCOMER - WARM_ROUNDS, NEWCOMER + rounds))
    found: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        gateways = {}
        for name in ("small", "full"):
            gateway = gateways[name] = SilentGateway(directory / f"{name}.db", users + newcomers)
            stack.callback(gateway.store.close)
            task = asyncio.create_task(gateway.answering.run())
            stack.callback(task.cancel)
        await prepare(gateways["small"].store, messages, longest, others=False)
        await prepare(gateways["full"].store, messages, longest, others=True)
        for number in range(-WARM_ROUNDS, rounds):
            for place, length in enumerate((*LENGTHS, longest)):
                for name, gateway in gateways.items():
                    took = await gateway.turn(users[place] if length else NEWCOMER + number)
                    if number >= 0:
                        found.setdefault(f"{name} {length}", []).append(took)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
