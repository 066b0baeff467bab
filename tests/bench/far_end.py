"""The stub gateway of the benchmark: it takes everything, and streams what it is told to."""

from __future__ import annotations

import asyncio

import orjson

from tests.bench.asgi import Receive, Scope, Send, answer, begin, read_body, wait_until_gone, write


class FarEnd:
    """The ASGI application: the gateway's side of the wire."""

    def __init__(self) -> None:
        self._epoch = 0
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
        self.taken = 0
        """Updates so far."""
        self.connected = asyncio.Event()
        self.calls = 0
        self.outcome = "accepted"
        """What becomes of each update."""

    def say(self, event: bytes) -> None:
        """Put events on the stream, each complete with its empty line."""
        self._events.put_nowait(event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of the relay."""
        if scope["path"] == "/events":
            await self._stream(receive, send)
            return
        body = await read_body(receive)
        if scope["path"] == "/chat":
            updates = orjson.loads(body)["updates"]
            self.taken += len(updates)
            receipts = [
                {"update_id": update["update_id"], "outcome": self.outcome, "notice": ""}
                for update in updates
            ]
            await answer(send, orjson.dumps({"receipts": receipts}))
            return
        self.calls += 1
        await answer(send, b"", 204)

    async def _stream(self, receive: Receive, send: Send) -> None:
        self._epoch += 1
        await begin(send, kind=b"text/event-stream")
        hello = {"type": "hello", "epoch": self._epoch, "undelivered": [], "guests": []}
        await write(send, frame(hello))
        self.connected.set()
        gone = asyncio.create_task(wait_until_gone(receive))
        while not gone.done():
            try:
                async with asyncio.timeout(5):
                    event = await self._events.get()
            except TimeoutError:
                event = b": alive\n\n"
            await write(send, event)


def frame(event: dict[str, object]) -> bytes:
    """Write one server-sent event."""
    return b"data: " + orjson.dumps(event) + b"\n\n"
