"""Speaks HTTP/1.1 for the load: one connection, callbacks instead of tasks, as cheap as can be.

What it costs is taken from the machine that is measured, so it does no more than is needed: it
reads bodies with a length and chunked ones, and hands them on as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

Take = Callable[[bytes], None]


class Broken(Exception):
    """The other end closed the connection in the middle, or speaks something else."""


@dataclass(frozen=True)
class Address:
    """Where a server listens: a Unix socket, or a port of the loopback interface."""

    socket: Path | None = None
    port: int = 0

    async def connect(self) -> Connection:
        """Open a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.socket:
            _, connection = await loop.create_unix_connection(Connection, str(self.socket))
        else:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
        return connection


def write_request(
    method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """Write a whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._take: Take | None = None
        self._status = 0
        self._left = 0
        self._is_chunked = False
        self._is_in_body = False
        self._done: asyncio.Future[int] | None = None
        self.is_open = True

    async def call(self, request: bytes, take: Take | None = None) -> tuple[int, bytes]:
        """Send a request and wait for the end of its answer: status and body.

        `take` is given the body instead, as it comes. Raises Broken.
        """
        body: list[bytes] = []
        status = await self.begin(request, take or body.append)
        return status, b"".join(body)

    def begin(self, request: bytes, take: Take) -> asyncio.Future[int]:
        """Send a request; the future gives the status when the body is complete, or Broken."""
        assert self._transport
        assert self._done is None or self._done.done(), "one request at a time"
        self._done = asyncio.get_running_loop().create_future()
        if not self.is_open:
            self._done.set_exception(Broken("the connection is closed"))
            return self._done
        self._take, self._is_in_body, self._rest = take, False, b""
        self._transport.write(request)
        return self._done

    def close(self) -> None:
        """Close it, whatever is on its way."""
        self.is_open = False
        if self._transport:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        if self._done and not self._done.done():
            self._done.set_exception(Broken("the connection was closed before the answer's end"))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        self._rest = b""
        if not self._is_in_body:
            data = self._read_head(data)
        if self._is_in_body:
            if self._is_chunked:
                self._read_chunks(data)
            else:
                self._read_plain(data)

    def _read_head(self, data: bytes) -> bytes:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            self._rest = data
            return b""
        lines = head.lower().split(b"\r\n")
        self._status = int(lines[0].split(b" ", 2)[1])
        self._is_chunked, self._left = False, 0
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                self._left = int(value)
            elif name == b"transfer-encoding":
                self._is_chunked = b"chunked" in value
        self._is_in_body = True
        return rest

    def _read_plain(self, data: bytes) -> None:
        if data and self._take:
            self._take(data[: self._left])
        self._left -= min(len(data), self._left)
        if self._left == 0:
            self._finish()

    def _read_chunks(self, data: bytes) -> None:
        place = 0
        while True:
            end = data.find(b"\r\n", place)
            if end < 0:
                break
            size = int(data[place:end], 16)
            if len(data) < end + 2 + size + 2:
                break
            if size == 0:
                self._finish()
                return
            if self._take:
                self._take(data[end + 2 : end + 2 + size])
            place = end + 2 + size + 2
        self._rest = data[place:]

    def _finish(self) -> None:
        self._is_in_body = False
        if self._done and not self._done.done():
            self._done.set_result(self._status)


class Frames:
    """Cuts a body into server-sent events; `take` is given the data of each."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        """Read more of the body."""
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"data: "):
                self._take(frame[6:])


class Pool:
    """Connections that are kept open between short calls."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[Connection] = []

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Make one call. Raises Broken, OSError."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                break
        else:
            connection = await self._address.connect()
        answer = await connection.call(request)
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close all that are idle."""
        for connection in self._idle:
            connection.close()
