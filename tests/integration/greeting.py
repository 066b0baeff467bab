"""Owns what a test says to the egress in place of a well-behaved client, and who listens behind it.

Runs in the image `peer`, beside probe.py, which has Python's standard library alone:

    greeting.py listen PORT                  the far end: tells of each greeting that arrives
    greeting.py say SOCKET GREETING          one greeting, as JSON of the fields of `Greeting`
    greeting.py crowd SOCKET COUNT GREETING  many at once, held open while standard input is
"""

import asyncio
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass

LONGEST_SECONDS = 45.0


@dataclass(frozen=True)
class Greeting:
    """A TLS ClientHello, and how it is sent."""

    tag: str = "plain"
    """Stands where the session id is. The far end acts by it: see `Listener`."""
    names: tuple[tuple[int, str], ...] = ()
    """Entries of the extension server_name: type and name. None: no such extension."""
    extensions: tuple[tuple[int, int], ...] = ()
    """Further ones: number and length."""
    version: int = 13
    pieces: tuple[int, ...] = ()
    """The sizes of the pieces that are sent one by one; the last one is the rest."""
    pause_seconds: float = 0.0
    """Between two pieces."""
    record_bytes: int = 16384
    """How much of the greeting one TLS record carries."""
    then: str = "read"
    """read; close: half-close first; talk: go on fifteen seconds after the first answer."""
    is_said: bool = True
    """False: connect, and say nothing."""

    def encode(self) -> bytes:
        body = b"\x03\x03" + os.urandom(32) + b"\x20" + self.tag.encode().ljust(32, b"\0")
        body += struct.pack("!H3H", 6, 0x1301, 0x1302, 0xC02F) + b"\x01\x00"
        extensions = b"".join(extension(number, data) for number, data in self._extensions())
        body += struct.pack("!H", len(extensions)) + extensions
        message = b"\x01" + len(body).to_bytes(3, "big") + body
        return b"".join(
            b"\x16\x03\x01" + struct.pack("!H", len(part)) + part
            for part in cut(message, [self.record_bytes] * (len(message) // self.record_bytes))
        )

    def _extensions(self) -> list[tuple[int, bytes]]:
        found = []
        if self.names:
            entries = b"".join(
                struct.pack("!BH", kind, len(name.encode())) + name.encode()
                for kind, name in self.names
            )
            found.append((0, struct.pack("!H", len(entries)) + entries))
        found.append((10, struct.pack("!H2H", 4, 0x11EC, 0x001D)))
        if self.version == 13:  # with a post-quantum key share, as OpenSSL 3.5 sends it
            shares = b"\x11\xec\x04\xc0" + os.urandom(1216) + b"\x00\x1d\x00\x20" + os.urandom(32)
            found += [(43, b"\x02\x03\x04"), (51, struct.pack("!H", len(shares)) + shares)]
        return found + [(number, bytes(length)) for number, length in self.extensions]


def extension(number: int, data: bytes) -> bytes:
    return struct.pack("!HH", number, len(data)) + data


def cut(data: bytes, sizes: "list[int] | tuple[int, ...]") -> list[bytes]:
    """Cut off parts of these sizes; the last part is the rest."""
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [part for part in [*parts, data] if part]


def say(path: str, text: str) -> None:
    """Print what came back, and how long it took until the other side closed."""
    greeting = Greeting(**json.loads(text))
    begun = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LONGEST_SECONDS)
        connection.connect(path)
        answer = b""
        try:
            for part in cut(greeting.encode(), greeting.pieces) if greeting.is_said else []:
                connection.sendall(part)
                time.sleep(greeting.pause_seconds)
            if greeting.then == "close":
                connection.shutdown(socket.SHUT_WR)
            if greeting.then == "talk":
                answer += connection.recv(4096)
                time.sleep(15)
                connection.sendall(b"still there?")
            while part := connection.recv(4096):
                answer += part
        except TimeoutError:
            answer += b" and was held"
        except OSError:
            pass  # cut off
    seconds = round(time.monotonic() - begun, 2)
    print(json.dumps({"answer": answer.decode(), "seconds": seconds}))


def crowd(path: str, count: str, text: str) -> None:
    """Open connections as fast as it goes; tell at the end how long the last of them was held."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    message = Greeting(**json.loads(text)).encode() if text else b"\x16"
    begun = time.monotonic()
    held = {}
    for _ in range(int(count)):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LONGEST_SECONDS)
        connection.connect(path)
        connection.sendall(message)
        held[connection.fileno()] = connection
    print(
        json.dumps({"open": len(held), "seconds": round(time.monotonic() - begun, 2)}), flush=True
    )
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    for number in held:
        poll.register(number, select.POLLRDHUP | select.POLLHUP)
    while events := poll.poll(60_000):
        for number, _ in events:
            if number == sys.stdin.fileno():
                print(json.dumps({"open": len(held)}), flush=True)
                return
            poll.unregister(number)
            held.pop(number).close()


class Listener:
    """Plays the far end without speaking TLS: it answers each greeting as its tag says.

    plain: a word, and the connection is closed
    hold:  a word, and nothing more
    half:  a word and a half-close; then it waits for the caller's end
    wait:  nothing, until the caller's end comes
    """

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self.answer, "0.0.0.0", port, backlog=1024)
        print("listening", flush=True)
        await server.serve_forever()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tag = ""
        try:
            greeting = await reader.readexactly(76)
            tag = greeting[44:].rstrip(b"\0").decode()
            print(f"greeted tag={tag}", flush=True)
            await self.act(tag, reader, writer)
        except (OSError, EOFError):
            pass  # reset, or gone before it said anything
        finally:
            print(f"ended tag={tag}", flush=True)
            writer.close()

    async def act(
        self, tag: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not tag.startswith("wait"):
            writer.write(b"served")
        match tag.partition("-")[0]:
            case "hold" | "wait":
                await reader.read()
            case "half":
                writer.write_eof()
                await reader.read()


def main(arguments: list[str]) -> None:
    match arguments:
        case ["listen", port]:
            asyncio.run(Listener().serve(int(port)))
        case ["say", path, text]:
            say(path, text)
        case ["crowd", path, count, text]:
            crowd(path, count, text)


if __name__ == "__main__":
    main(sys.argv[1:])
