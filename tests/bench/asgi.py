"""What the stub servers of the benchmark share: reading, answering, and where they listen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import uvicorn

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def begin(send: Send, status: int = 200, kind: bytes = b"application/json") -> None:
    """Send the head of an answer."""
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def write(send: Send, body: bytes, *, more: bool = True) -> None:
    """Send a piece of the body."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    """Answer with JSON."""
    await begin(send, status)
    await write(send, body, more=False)


async def read_body(receive: Receive) -> bytes:
    """Read a whole request."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def wait_until_gone(receive: Receive) -> None:
    """Wait until nobody reads the answer any more."""
    while (await receive())["type"] != "http.disconnect":
        pass


def listen(path: Path | None = None, port: int | None = None) -> list[socket.socket]:
    """Open the sockets to serve on."""
    sockets = []
    if path:
        path.unlink(missing_ok=True)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(str(path))
        sockets.append(one)
    if port is not None:
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        sockets.append(one)
    return sockets


def _ending_quietly(app: App) -> App:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):  # the benchmark is over with this server
            await app(scope, receive, send)

    return call


class Server(uvicorn.Server):
    """Logs nothing, needs no lifespan, and leaves signals to others."""

    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(
                _ending_quietly(app),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=1,
                backlog=4096,
            )
        )

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def serving(
    app: App, path: Path | None = None, port: int | None = None
) -> AsyncIterator[None]:
    """Serve in this process while the block lasts."""
    server = Server(app)
    task = asyncio.create_task(server.serve(listen(path, port)))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = server.force_exit = True
        await task
