"""The stub engine of the benchmark: OpenAI's protocol as a bare ASGI program, as fast as can be.

    python -m tests.bench.engine --socket PATH --port PORT --slots 16

It does what each question says (tests/bench/program.py). `--slots` answers at once, the others wait
in the order of their arrival, as in an engine that is full. GET /bench/tokens says how many tokens
it has sent since it was started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import orjson

from tests.bench.asgi import (
    Receive,
    Scope,
    Send,
    answer,
    begin,
    read_body,
    serving,
    wait_until_gone,
    write,
)
from tests.bench.program import Program, first_token, last_token, read_program

YIELD_TOKENS = 16
"""An answer without a pace lets the others speak after so many tokens."""

SLACK_SECONDS = 0.001
"""A token that is due within this time is sent now: a fast answer need not sleep for each."""

WORDS = [f" word{number}" for number in range(100)]
"""LiteLLM takes an answer that says the same word all the time for a model that has gone mad."""


class BenchEngine:
    """The ASGI application."""

    def __init__(self, name: str = "stub", slots: int = 1024) -> None:
        self._name = name
        self._slots = asyncio.Semaphore(slots)  # first come, first served
        self.tokens = 0
        head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 0}
        self._head = b"data: " + orjson.dumps({**head, "model": name})[:-1]
        self._before = self._head + b',"choices":[{"index":0,"delta":{"content":"'
        self._after = b'"},"logprobs":null,"finish_reason":null}]}\n\n'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        match scope["path"]:
            case "/v1/chat/completions":
                await self._complete(time.monotonic(), await read_body(receive), receive, send)
            case "/v1/models":
                model = {"id": self._name, "object": "model", "created": 0, "owned_by": "bench"}
                await answer(send, orjson.dumps({"object": "list", "data": [model]}))
            case "/v1/messages/count_tokens":
                await answer(send, orjson.dumps({"input_tokens": _count(await read_body(receive))}))
            case "/bench/tokens":
                await answer(send, orjson.dumps({"tokens": self.tokens}))
            case _:
                await answer(send, orjson.dumps({}))

    async def _complete(self, received: float, body: bytes, receive: Receive, send: Send) -> None:
        asked = orjson.loads(body)
        program = read_program(_text(asked["messages"][-1]))
        limit = asked.get("max_tokens") or asked.get("max_completion_tokens") or program.tokens
        count = min(program.tokens, limit)
        gone = asyncio.create_task(wait_until_gone(receive))
        try:
            async with self._slots:
                await begin(send, kind=b"text/event-stream; charset=utf-8")
                await self._speak(send, program, count, received, gone)
                usage = {
                    "prompt_tokens": _count(body),
                    "completion_tokens": count,
                    "total_tokens": _count(body) + count,
                }
                end = self._head + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"
                await write(send, end + b"data: [DONE]\n\n", more=False)
        finally:
            gone.cancel()

    async def _speak(
        self,
        send: Send,
        program: Program,
        count: int,
        received: float,
        gone: asyncio.Task[None],
    ) -> None:
        chance = random.Random(program.seed)
        clock = asyncio.get_running_loop().time
        begin = clock() + program.first_seconds
        for token in range(count):
            due = begin
            if program.rate:
                shift = program.jitter * (chance.random() - 0.5) if token else 0.0
                due += max(0.0, token + shift) / program.rate
            if (delay := due - clock()) > (SLACK_SECONDS if token else 0):
                await asyncio.sleep(delay)
            elif token % YIELD_TOKENS == 0:
                await asyncio.sleep(0)
            if gone.done():
                return  # nobody reads it any more: a real engine stops, too
            if token == 0:
                text = first_token(received, time.monotonic())
            elif token == count - 1:
                text = last_token(time.monotonic())
            else:
                text = WORDS[token % len(WORDS)]
            await write(send, self._before + text.encode() + self._after)
            self.tokens += 1


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _count(body: bytes) -> int:
    """Count as engines do, roughly: four bytes a token."""
    return len(body) // 4


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--slots", type=int, default=1024)
    parser.add_argument("--name", default="stub")
    arguments = parser.parse_args()
    os.umask(0o117)

    async def serve() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        app = BenchEngine(arguments.name, arguments.slots)
        async with serving(app, arguments.socket, arguments.port):
            await stopped.wait()

    run = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    run(serve())


if __name__ == "__main__":
    main()
