"""The engine's stream, cut anywhere: lines, characters; all that is malformed; and when it is read.

What is read is compared with a reference that sees all of it at once and takes one bit at a time.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from aiohttp import web

from services.gateway.engine import (
    Engine,
    EngineFailed,
    Finished,
    Piece,
    Thought,
    _Answer,
    open_engine,
)
from services.gateway.thinking import Thinking
from tests.unit.fakes import until

Item = Piece | Thought | Finished
Deltas = list[tuple[str, str]]
"""What a delta is called, and its text."""

USAGE = {"prompt_tokens": 7, "completion_tokens": 9}
WORDS = ["да", " ", "\n\n", "\U0001f600", "<", "think>", "<think>", "</th", "ink>", "</think>", "x"]
DONE = b"data: [DONE]\n\n"
SEEDS = range(60)


def line(name: str, text: str) -> bytes:
    delta = {"role": "assistant", name: text}
    # Some engines escape what is not ASCII, and others do not.
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=len(text) % 2 == 0).encode() + b"\n\n"


def choose(chance: random.Random) -> Deltas:
    names = ["content"] * 5 + ["reasoning", "reasoning_content"]
    return [
        (chance.choice(names), "".join(chance.choices(WORDS, k=chance.randrange(4))))
        for _ in range(chance.randrange(40))
    ]


def write(deltas: Deltas, chance: random.Random) -> bytes:
    """Write a whole stream, with what engines put between the lines."""
    between = [b"", b"", b": ping\n\n", b"\r\n", b"event: message\n"]
    lines = [line(*delta) + chance.choice(between) for delta in deltas]
    end = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    return b"".join([*lines, end, DONE])


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut it anywhere: within a line, a character, an escape."""
    longest = chance.choice([1, 3, 40, 400, 5000])
    pieces = []
    while data:
        size = chance.randint(1, longest)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def expect(deltas: Deltas, *, is_resumed: bool) -> list[Item]:
    """Take one delta after the other."""
    thinking = Thinking()
    items: list[Item] = []
    for name, text in deltas:
        if text and is_resumed:
            items.append(Piece(text))
        elif text and name != "content":
            items.append(Thought(text))
        elif text:
            thought, answer = thinking.split(text)
            items += [Thought(thought)] * bool(thought) + [Piece(answer)] * bool(answer)
    thought, answer = ("", "") if is_resumed else thinking.end()
    items += [Thought(thought)] * bool(thought) + [Piece(answer)] * bool(answer)
    return [*items, Finished("", *USAGE.values())]


def together(items: list[Item]) -> list[Item]:
    """Join neighbours of one kind: where the stream was cut must make no other difference."""
    joined: list[Item] = []
    for kind, group in groupby(items, type):
        same = list(group)
        if kind is Finished:
            joined += same
        else:
            bits = [item for item in same if not isinstance(item, Finished)]
            text, tokens = "".join(bit.text for bit in bits), sum(bit.tokens for bit in bits)
            joined.append(replace(bits[0], text=text, tokens=tokens))
    return joined


@pytest.mark.parametrize("is_resumed", [False, True], ids=["new", "resumed"])
def test_where_a_stream_is_cut_makes_no_difference(is_resumed: bool) -> None:
    """Text, thoughts, their order and how many tokens they count as: as with one at a time."""
    for seed in SEEDS:
        chance = random.Random(seed)
        deltas = choose(chance)
        answer = _Answer(is_resumed=is_resumed)

        pieces = cut(write(deltas, chance), chance)
        items = [item for piece in pieces for item in answer.read(piece)]

        assert together(items) == together(expect(deltas, is_resumed=is_resumed)), seed
        assert isinstance(items[-1], Finished)


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {\n",
        b"data:\n",
        b'data: "text"\n',
        b"data: 7\n",
        b"data: [1]\n",
        b"data: {}\n",
        b'data: {"choices":[{}]}\n',
        b'data: {"choices":[{"delta":null}]}\n',
        b'data: {"choices":[{"delta":{"content":7}}]}\n',
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n',
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n',
        b'data: {"error":{"message":"out of memory"}}\n',
        b"data: [DONE]\n",
    ],
)
def test_what_stands_before_a_malformed_line_is_told(bad: bytes) -> None:
    """Then the answer has failed: nothing that follows is taken for it."""
    for seed in range(10):
        chance = random.Random(seed)
        data = line("content", "Привет") + line("content", ", you") + bad + line("content", "?")
        answer = _Answer(is_resumed=False)
        told: list[Item] = []

        with pytest.raises(EngineFailed):
            read(answer, cut(data, chance), told)

        assert together(told) == [Piece("Привет, you", 2)]


def read(answer: _Answer, pieces: list[bytes], told: list[Item]) -> None:
    for piece in pieces:
        told.extend(answer.read(piece))


def test_huge_line_is_read_in_linear_time() -> None:
    """A line of some megabytes that comes in small bits is joined once."""
    text = "я" * 1_500_000
    answer = _Answer(is_resumed=False)
    data = line("content", text)

    items = [
        item
        for start in range(0, len(data), 1000)
        for item in answer.read(data[start : start + 1000])
    ]

    assert items == [Piece(text)]


# When it is read


async def test_first_bit_is_told_at_once_and_the_rest_together_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end waits for no moment."""
    monkeypatch.setattr("services.gateway.engine.GATHER_SECONDS", 1e9)
    begun = asyncio.Event()

    async def answer(response: web.StreamResponse) -> None:
        await response.write(line("content", "\n") + line("content", "one"))
        await begun.wait()
        for _ in range(5):
            await response.write(line("content", " more"))
            await asyncio.sleep(0.005)
        usage = json.dumps({"choices": [], "usage": USAGE}).encode()
        await response.write(b"data: " + usage + b"\n\n" + DONE)

    async with engine_that(answer, tmp_path / "engine.sock") as engine, asyncio.timeout(20):
        stream = engine.stream([], 9, 0.0, model="one")
        assert await anext(stream) == Piece("\none", 2)
        begun.set()

        rest = [item async for item in stream]

    assert rest == [Piece(" more" * 5, 5), Finished("", *USAGE.values())]


async def test_what_comes_is_told_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the stream while it gathers closes the connection, so that the engine stops."""
    monkeypatch.setattr("services.gateway.engine.GATHER_SECONDS", 0.05)
    left = asyncio.Event()

    async def answer(response: web.StreamResponse) -> None:
        try:
            for word in ("one", " two"):
                await response.write(line("content", word))
            await asyncio.Event().wait()
        finally:
            left.set()

    async with engine_that(answer, tmp_path / "engine.sock") as engine, asyncio.timeout(20):
        stream = engine.stream([], 9, 0.0, model="one")
        text = ""
        while text != "one two":
            item = await anext(stream)
            assert isinstance(item, Piece)
            text += item.text
        assert not left.is_set()
        monkeypatch.setattr("services.gateway.engine.GATHER_SECONDS", 1e9)
        waits = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.1)

        waits.cancel()

        await until(left.is_set, "the engine notices")


@asynccontextmanager
async def engine_that(
    answer: Callable[[web.StreamResponse], Awaitable[None]], path: Path
) -> AsyncGenerator[Engine]:
    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await answer(response)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", serve)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    async with open_engine(path, 1) as engine:
        yield engine
    await runner.cleanup()
