"""Starts the gateway that is measured, and speaks to it as the relay does.

The client follows the event stream, records a message for each reply, asks leave for an edit about
once a second, and settles what is complete: what a gateway has to do for a relay is in the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.bench.http import Address, Connection, Frames, Pool, write_request
from tests.bench.processes import Environments, Process, started
from tests.bench.program import Program

BOT_ID = 123456789
WIRE_VERSION = "2"
EDIT_SECONDS = 1.0


class Failed(Exception):
    """The gateway refused an ask, or its stream has ended."""


@dataclass
class Answer:
    """One ask and its answer, by this client's clock (time.monotonic)."""

    program: Program
    sent: float
    first: float = 0.0
    """When the first of it came; 0: nothing has."""
    ended: float = 0.0
    text: str = ""
    marks: list[tuple[float, int]] = field(default_factory=list)
    """When something came, and how many tokens."""
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    edited: float = 0.0

    @property
    def first_seconds(self) -> float:
        return self.first - self.sent

    def grow(self, text: str) -> None:
        """Note what has come."""
        now = time.monotonic()
        if not self.first and text:
            self.first = now
        self.text += text
        self.marks.append((now, text.count(" ")))


class RelaySide:
    """The relay's end of the wire."""

    def __init__(self, address: Address, token: str, most_messages: float = math.inf) -> None:
        """`most_messages`: so many messages a second are recorded, as Telegram would take them."""
        self._address = address
        self._message_seconds = 1 / most_messages
        self._next_message = 0.0
        self._headers = {"Authorization": f"Bearer {token}", "Wire-Version": WIRE_VERSION}
        self._pool = Pool(address)
        self._stream: Connection | None = None
        self._end_of_stream: asyncio.Future[int] | None = None
        self._waiting: dict[tuple[int, int], Answer] = {}
        self._growing: dict[int, Answer] = {}
        self._numbers = itertools.count(1)
        self._epoch = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._hello = asyncio.Event()
        self.refused = 0

    async def follow(self) -> None:
        """Open the event stream; returns when it has begun."""
        self._stream = await self._address.connect()
        request = write_request("GET", "/events?away_seconds=0", self._headers)
        self._end_of_stream = self._stream.begin(request, Frames(self._take))
        self._end_of_stream.add_done_callback(lambda end: end.exception())  # it ends when we do
        await asyncio.wait_for(self._hello.wait(), 10)

    async def ask(
        self, program: Program, user: int, chat: int | None = None, kind: str = "private"
    ) -> Answer:
        """Ask, and wait for the whole answer. Raises Failed."""
        update, number = self.update(program, user, chat, kind)
        answer = Answer(program, time.monotonic())
        self._waiting[update["chat_id"], number] = answer
        (outcome,) = await self.send([update])
        if outcome != "accepted":
            raise Failed(f"an ask was {outcome}")
        await answer.done
        return answer

    def update(
        self, program: Program, user: int, chat: int | None = None, kind: str = "private"
    ) -> tuple[dict[str, Any], int]:
        """Write what a user says; and the number of their message."""
        number = next(self._numbers)
        return {
            "update_id": number,
            "kind": "message",
            "chat_id": user if chat is None else chat,
            "chat_kind": kind,
            "user_id": user,
            "language": "en",
            "message_id": number,
            "sent_at": int(time.time()),
            "text": program.question(),
        }, number

    async def send(self, updates: list[dict[str, Any]]) -> list[str]:
        """Hand a batch over; returns what became of each. Raises Failed."""
        batch = {"bot_id": BOT_ID, "updates": updates, "bot_name": "bench_bot", "strangers": 0}
        status, body = await self._pool.call(
            write_request("POST", "/chat", self._headers, orjson.dumps(batch))
        )
        if status != 200:
            raise Failed(f"POST /chat was answered with {status}")
        return [receipt["outcome"] for receipt in orjson.loads(body)["receipts"]]

    async def close(self) -> None:
        """Close all connections."""
        if self._stream:
            self._stream.close()  # first: what comes would begin more
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.close()

    # The stream

    def _take(self, data: bytes) -> None:
        event = orjson.loads(data)
        match event["type"]:
            case "grown":
                if answer := self._growing.get(event["reply_id"]):
                    if event["at"] != len(answer.text):
                        answer.text = answer.text[: event["at"]]
                    answer.grow(event["text"])
                    self._edit(event["reply_id"], answer)
            case "opened":
                self._open(event["reply"])
            case "closed":
                if answer := self._growing.pop(event["reply_id"], None):
                    self._end(event["reply_id"], answer, event["text"])
            case "hello":
                self._epoch = event["epoch"]
                self._hello.set()

    def _open(self, reply: dict[str, Any]) -> None:
        answer = self._waiting.pop((reply["chat_id"], reply["reply_to"]), None)
        if reply["id"] in self._growing:
            return
        if answer is None and reply["closed"]:
            self._start(self._settle(reply["id"]))
            return
        part = {
            "epoch": self._epoch,
            "chat_id": reply["chat_id"],
            "position": 0,
            "message_id": reply["id"] + 1_000_000,
        }
        self._start(self._record(reply["id"], part))
        if answer is None:
            return  # nobody waits for it
        self._growing[reply["id"]] = answer
        if reply["text"]:
            answer.grow(reply["text"])
        if reply["closed"]:
            del self._growing[reply["id"]]
            self._end(reply["id"], answer, reply["text"])

    def _edit(self, reply_id: int, answer: Answer) -> None:
        now = time.monotonic()
        if now - answer.edited >= EDIT_SECONDS:
            answer.edited = now
            self._start(self._post(reply_id, "claim", {"epoch": self._epoch}))

    def _end(self, reply_id: int, answer: Answer, text: str) -> None:
        # The gateway takes white space off both ends of what is complete.
        text = f" {text}"
        if len(text) > len(answer.text):
            answer.grow(text[len(answer.text) :])
        answer.ended = time.monotonic()
        answer.text = text
        self._start(self._settle(reply_id))
        if not answer.done.done():
            answer.done.set_result(None)

    async def _record(self, reply_id: int, part: Mapping[str, object]) -> None:
        now = time.monotonic()
        self._next_message = max(now, self._next_message + self._message_seconds)
        if self._next_message > now:
            await asyncio.sleep(self._next_message - now)
        await self._post(reply_id, "parts", part)

    async def _settle(self, reply_id: int) -> None:
        await self._post(reply_id, "claim", {"epoch": self._epoch})
        outcome = {"epoch": self._epoch, "outcome": "delivered", "parts": 1}
        await self._post(reply_id, "outcome", outcome)

    async def _post(self, reply_id: int, what: str, body: Mapping[str, object]) -> None:
        path = f"/replies/{reply_id}/{what}"
        status, _ = await self._pool.call(
            write_request("POST", path, self._headers, orjson.dumps(body))
        )
        self.refused += status not in (204, 404)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs, and the relay's end of the wire to it."""

    process: Process
    relay: RelaySide
    port: int
    token: str


FIRST_USER = 1001


@asynccontextmanager
async def running_gateway(
    environments: Environments,
    directory: Path,
    engine_socket: Path,
    port: int,
    core: int | None = None,
    users: int = 2000,
    settings: Mapping[str, str] | None = None,
    follow: bool = True,
    most_messages: float = math.inf,
) -> AsyncIterator[Gateway]:
    """Run the real gateway: encrypted store on the disk, every commit synchronised, as always."""
    directory.mkdir(parents=True, exist_ok=True)
    token = write_secrets(directory / "secrets")
    environment = {
        "ALLOWED_USERS": ",".join(str(FIRST_USER + n) for n in range(users)),
        "LISTEN_ADDRESS": "127.0.0.1",
        "LINK_PORT": str(port),
        "STORE_FILE": str(directory / "store.db"),
        "ENGINE_SOCKET": str(engine_socket),
        "LOG_LEVEL": "INFO",
        **(settings or {}),
    }
    argv = [environments.python("gateway"), "-P", "-m", "tests.bench.product", "gateway"]
    argv.append(str(directory / "secrets"))
    async with started("gateway", argv, directory, environment, core) as process:
        address = Address(port=port)
        await process.wait_for(lambda: _listens(address), 60)
        relay = RelaySide(address, token, most_messages)
        try:
            if follow:
                await relay.follow()
            yield Gateway(process, relay, port, token)
        finally:
            await relay.close()


def write_secrets(directory: Path) -> str:
    """Make the secrets of both services; returns the link token."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    made = {
        "link_token": token,
        "store_key": secrets.token_hex(32),
        "bot_token": f"{BOT_ID}:{secrets.token_urlsafe(48)[:35]}",
    }
    for name, value in made.items():
        file = directory / name
        file.touch(mode=0o600)
        file.write_text(value)
    return token


@asynccontextmanager
async def held_namespace() -> AsyncIterator[None]:
    """Play the holder of the namespace, unless somebody on this machine holds one."""
    server = None
    with contextlib.suppress(OSError):
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), "\0namespace")
    try:
        yield
    finally:
        if server:
            server.close()


async def _listens(address: Address) -> bool:
    try:
        connection = await address.connect()
    except OSError:
        return False
    connection.close()
    return True


def free_port() -> int:
    """Find a port of the loopback interface that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
