"""The load: concurrent chats against a gateway, an engine, or a proxy of the same protocol.

Each way to ask gives an Answer with the times at which its text came, by one clock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import orjson

from tests.bench.figures import percentile
from tests.bench.gateway import Answer
from tests.bench.http import Address, Broken, Connection, Frames, write_request
from tests.bench.program import Program

Ask = Callable[[int, Program], Awaitable[Answer]]
"""Asks as chat number so and so, and returns the whole answer; raises Exception if it failed."""


class Completions:
    """A client of OpenAI's streaming chat completions, straight at whatever speaks them."""

    def __init__(self, address: Address, model: str = "stub", key: str = "") -> None:
        self._address = address
        self._model = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open: set[Connection] = set()

    async def ask(self, _chat: int, program: Program) -> Answer:
        """Ask, on a connection of its own as the gateway does. Raises Broken, OSError."""
        body = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": program.question()},
            ],
            "max_tokens": 1024,
            "temperature": 0.7,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = "/v1/chat/completions"
        answer = Answer(program, time.monotonic())
        connection = await self._address.connect()
        self._open.add(connection)
        refusals: list[str] = []

        def take(data: bytes) -> None:
            if data == b"[DONE]":
                return
            chunk = orjson.loads(data)
            if "error" in chunk:
                refusals.append(str(chunk["error"]))
            for choice in chunk.get("choices", ()):
                if text := choice["delta"].get("content"):
                    answer.grow(text)

        try:
            request = write_request("POST", path, self._headers, orjson.dumps(body))
            status, _ = await connection.call(request, Frames(take))
            if status != 200 or refusals:
                raise Broken(f"status {status}: {' '.join(refusals)[:200]}")
        finally:
            self._open.discard(connection)
            connection.close()
        answer.ended = time.monotonic()
        return answer


@dataclass
class Round:
    """What one round of load has seen."""

    seconds: float
    """Of the window that counts."""
    answers: list[Answer] = field(default_factory=list)
    """Those that were asked for before the window's end and began in it, or later."""
    tokens: int = 0
    """That came within the window."""
    all_tokens: int = 0
    """That came at any time of the round."""
    failures: list[str] = field(default_factory=list)
    """Why asks failed, one for each."""
    incomplete: int = 0
    """Answers that were not all that the engine had said."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def first_milliseconds(self, share: float) -> float:
        """Time to first token."""
        return percentile([answer.first_seconds for answer in self.answers], share) * 1000

    def gap_milliseconds(self, share: float) -> float:
        """Time between one piece of text and the next of the same answer."""
        gaps = [
            later - earlier
            for answer in self.answers
            for (earlier, _), (later, _) in zip(answer.marks, answer.marks[1:], strict=False)
        ]
        return percentile(gaps, share) * 1000 if gaps else 0.0

    def total_seconds(self, share: float) -> float:
        return percentile([answer.ended - answer.sent for answer in self.answers], share)


async def run_round(
    ask: Ask, programs: Sequence[Sequence[Program]], seconds: float, warm_seconds: float = 0.5
) -> Round:
    """Let each chat ask one question after the other until the time is over, then wait for the end.

    `programs`: of each chat, taken in turn. The first moments do not count. Chats begin spread over
    the warm-up, so that they do not march in step.
    """
    seen: list[Answer] = []
    failures: list[str] = []
    begin = time.monotonic() + warm_seconds
    end = begin + seconds
    chance = random.Random(1)

    async def chat(number: int, mine: Sequence[Program]) -> None:
        await asyncio.sleep(chance.random() * warm_seconds)
        turn = 0
        while time.monotonic() < end:
            try:
                seen.append(await ask(number, mine[turn % len(mine)]))
            except Exception as error:
                # Whatever it is, it is a failure of what is measured, and is counted as one.
                failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
            turn += 1

    await asyncio.gather(*(chat(number, mine) for number, mine in enumerate(programs)))
    return collect(seen, begin, end, failures)


def collect(
    seen: Sequence[Answer], begin: float, end: float, failures: Sequence[str] = ()
) -> Round:
    """Take what falls into the window."""
    counted = [answer for answer in seen if answer.sent < end and answer.first >= begin]
    return Round(
        end - begin,
        counted,
        sum(count for one in seen for at, count in one.marks if begin <= at < end),
        sum(count for one in seen for _, count in one.marks),
        list(failures),
        sum(one.text.count(" ") != one.program.tokens for one in counted),
    )
