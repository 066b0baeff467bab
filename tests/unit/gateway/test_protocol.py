"""The gateway's end of HTTP takes what the relay sends, and keeps nothing that never ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import uvicorn

from services.gateway.app import MOST_BYTES, build_app
from services.gateway.protocol import MOST_AROUND_BODY, Protocol
from services.wire import VERSION, VERSION_HEADER
from tests.unit.fakes import until
from tests.unit.gateway.served import LINK, serve

HEAD = (
    f"POST /chat HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {LINK}\r\n"
    f"{VERSION_HEADER}: {VERSION}\r\nContent-Type: application/json\r\n"
).encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BATCH = b'{"bot_id": 1, "updates": []}'


@pytest.fixture
async def port(tmp_path: Path) -> AsyncGenerator[int]:
    """Serve a gateway as its own process does."""
    async with serve(tmp_path) as gateway:
        app = build_app(gateway.inbox, gateway.outbox, LINK)
        server = uvicorn.Server(
            uvicorn.Config(
                app, host="127.0.0.1", port=0, http=Protocol, log_config=None, access_log=False
            )
        )
        serving = asyncio.create_task(server._serve())
        await until(lambda: server.started, "the gateway listens")
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = server.force_exit = True
        await serving


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"POST /", b"x" * 1000),
        (HEAD + b"X-Name: ", b"x" * 1000),
        (HEAD, b"X-Name: value\r\n" * 100),
        (CHUNKED + b"1\r\n \r\n0\r\n", b"X-Name: value\r\n" * 100),
        (CHUNKED + b"1;", b"x" * 1000),
        (CHUNKED, b"1;" + b"x" * 998 + b"\r\n \r\n"),
        (HEAD + b"Content-Length: 2\r\n\r\n{}GET /chat HTTP/1.1\r\nX-Name: ", b"x" * 1000),
    ],
)
async def test_request_that_never_ends_is_refused(port: int, begin: bytes, more: bytes) -> None:
    """Be it in its head, its trailers or its chunks: the connection is closed."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof() and sent < 100 * MOST_AROUND_BODY:
                writer.write(more)
                sent += len(more)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    assert sent < 100 * MOST_AROUND_BODY


async def test_what_is_no_http_is_refused(port: int) -> None:
    """As ever: with a sentence, and the end of the connection."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"Invalid HTTP request received.")


async def test_whatever_the_relay_sends_is_taken(port: int) -> None:
    """Large batches, small chunks, one request after the other on one connection."""
    padded = BATCH + b" " * (MOST_BYTES - len(BATCH))
    spaces = BATCH + b" " * 20_000
    requests = [
        HEAD + b"Content-Length: %d\r\n\r\n" % len(padded) + padded,
        CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in spaces) + b"0\r\n\r\n",
        HEAD + b"Content-Length: %d\r\n\r\n" % len(BATCH) + BATCH,
    ]
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in [*requests, b"".join(requests)]:
            writer.write(request)
            for _ in range(request.count(b"POST /chat")):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(15) == b'{"receipts":[]}'
        writer.close()
