"""Both services in one process, between a stub Bot API server and a fake engine; no containers."""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.app import build_app
from services.gateway.documents import Documents
from services.gateway.engine import Engine
from services.gateway.history import History
from services.gateway.inbox import Inbox, paste_delay
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.pictures import PICTURE_TOKENS
from services.gateway.protocol import Protocol
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.gateway.summaries import Summaries
from services.gateway.transcriber import Transcriber
from services.relay.__main__ import run as run_relay
from services.relay.settings import RelaySettings
from tests.stubs.telegram.stub import Options, running
from tests.unit.fakes import KEY, USER, FakeEngine, until

TOKEN = "123456:" + "A" * 35
LINK = "L" * 43


@dataclass
class Chain:
    """The whole path, with its ends in reach of a test."""

    directory: Path
    control: aiohttp.ClientSession
    gateway_port: int
    outbox: Outbox = field(init=False)
    queue: Queue = field(init=False)
    engine: FakeEngine = field(default_factory=FakeEngine)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    transcriber: Transcriber | None = None
    pictures: int = 0
    """How many the engine may be given in one prompt."""
    admins: frozenset[int] = frozenset({7})
    strangers: list[int] = field(default_factory=list)
    """What the gateway was told of them."""
    models: dict[str, str] = field(default_factory=dict)
    """What a gateway that starts from now on offers."""
    has_summaries: bool = False
    prompt_tokens: int = 4000
    slots: int = 2
    relay_options: dict[str, Any] = field(default_factory=dict)
    relay_settings: dict[str, Any] = field(default_factory=dict)

    async def say(self, text: str, user: int = USER) -> int:
        """A user writes to the bot; returns the message's id."""
        body = {"user": {"id": user, "first_name": "U", "language_code": "en"}, "text": text}
        return int((await self.post("/say", body))["message_id"])

    async def press(self, message: dict[str, Any], verb: str) -> None:
        """A user presses a button under one of the bot's messages."""
        body = {
            "user": {"id": USER, "first_name": "U", "language_code": "en"},
            "chat_id": USER,
            "message_id": message["message_id"],
            "data": buttons_of(message, verb)[0],
        }
        await self.post("/press", body)

    async def post(self, path: str, body: Any) -> Any:
        async with self.control.post(path, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def shown(self, chat_id: int = USER) -> list[dict[str, Any]]:
        """List what the bot shows in a chat."""
        async with self.control.get(f"/chat/{chat_id}") as response:
            chat = await response.json()
        return [message for message in chat["messages"] if message["from"]["is_bot"]]

    async def answers(self, chat_id: int = USER) -> list[str]:
        """List the finished texts of the bot in a chat: no stop button, and not empty."""
        return [
            message["text"]
            for message in await self.shown(chat_id)
            if message["text"] != "…" and not buttons_of(message, "stop:")
        ]

    async def wait_for_answers(self, count: int, chat_id: int = USER) -> list[str]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 15
        while len(answers := await self.answers(chat_id)) < count:
            for name, task in self.tasks.items():
                assert not task.done(), f"{name} stopped: {task}"
            assert loop.time() < deadline, f"{len(answers)} of {count}: {await self.shown(chat_id)}"
            await asyncio.sleep(0.02)
        return answers

    async def ask_telegram(self, method: str, body: dict[str, Any]) -> Any:
        """Call the Bot API beside the relay; returns the result."""
        async with (
            self._telegram() as http,
            http.post(f"/bot{TOKEN}/{method}", json=body) as response,
        ):
            return (await response.json())["result"]

    async def download(self, file_id: str) -> bytes:
        """Fetch a file that stands in a chat, as a client does."""
        found = await self.ask_telegram("getFile", {"file_id": file_id})
        async with (
            self._telegram() as http,
            http.get(f"/file/bot{TOKEN}/{found['file_path']}") as response,
        ):
            return await response.read()

    def _telegram(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self.directory / "telegram.sock"))
        return aiohttp.ClientSession("http://api.telegram.test", connector=connector)

    async def calls(self, method: str) -> list[dict[str, Any]]:
        """List the parameters of all calls of one Bot API method."""
        async with self.control.get("/record", params={"kind": "call"}) as response:
            entries = (await response.json())["entries"]
        return [entry["params"] for entry in entries if entry["method"].lower() == method.lower()]

    async def wait_for_calls(self, method: str, count: int) -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10
        while len(calls := await self.calls(method)) < count:
            assert loop.time() < deadline, f"{len(calls)} of {count} calls of {method}"
            await asyncio.sleep(0.02)
        return calls

    async def wait_until_hit(self) -> None:
        """Wait until every fault that was ordered has struck as often as it was to."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10
        while True:
            async with self.control.get("/state") as response:
                left = (await response.json())["faults"]
            if not left:
                return
            assert loop.time() < deadline, f"never hit: {left}"
            await asyncio.sleep(0.02)

    async def wait_until_settled(self) -> None:
        """Wait until the gateway has forgotten every reply."""
        await until(lambda: not self.outbox._entries, "every reply is settled")

    async def start_relay(self, name: str = "relay", gateway_port: int = 0) -> None:
        """Start a relay; it may be a second one, or find the gateway behind another port."""
        settings = RelaySettings(
            allowed_users=frozenset({7, 8}),
            bot_token=TOKEN,
            telegram_api="http://api.telegram.test",
            telegram_socket=self.directory / "telegram.sock",
            link_address="127.0.0.1",
            link_port=gateway_port or self.gateway_port,
            link_token=LINK,
            **self.relay_settings,
        )
        self.tasks[name] = asyncio.create_task(
            run_relay(settings, holder=str(self.directory / "holder.sock"), **self.relay_options)
        )

    async def start_gateway(self) -> None:
        started = asyncio.Event()
        self.tasks["gateway"] = asyncio.create_task(self._gateway(started))
        await started.wait()

    async def kill(self, name: str) -> None:
        """End a service in the middle of whatever it does."""
        task = self.tasks.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await task

    async def replace(self, name: str) -> None:
        """End a service in the middle of whatever it does, and start the next one."""
        await self.kill(name)
        await (self.start_relay() if name == "relay" else self.start_gateway())

    async def carrying(self, kind: str) -> list[dict[str, Any]]:
        """What is on the screen with a file: a `document`, or a `photo`."""
        return [shown for shown in await self.shown() if kind in shown["extra"]]

    async def wait_for_only(self, kind: str) -> dict[str, Any]:
        """Wait for the one message with such a file, until nothing more changes."""
        async with asyncio.timeout(15):
            while not (found := await self.carrying(kind)):
                await asyncio.sleep(0.02)
        await self.wait_until_settled()
        (message,) = await self.carrying(kind)
        assert found[0]["message_id"] == message["message_id"]
        return message

    async def _gateway(self, started: asyncio.Event) -> None:
        store = Store(self.directory / "store.db", KEY)
        try:
            outbox = Outbox(
                store,
                await store.run(store.undelivered_replies),
                await store.run(store.guests),
                await store.run(store.invitations),
                tuple(sorted(self.admins)),
                await store.run(store.name_admins, self.admins),
            )
            self.outbox = outbox
            self.queue = queue = Queue()
            engine: Engine = self.engine  # type: ignore[assignment]  # a fake of the same shape
            prompt_tokens = self.prompt_tokens + self.pictures * PICTURE_TOKENS
            history = History(
                store, engine, prompt_tokens, self.pictures, has_summaries=self.has_summaries
            )
            house = House(256, 0.0, "be brief", {"Teacher": "You teach."}, self.models)
            summaries = Summaries(
                store, queue, engine, prompt_tokens, self.slots, house, self.pictures
            )
            answering = Answering(
                store, queue, outbox, history, engine, self.slots, house,
                note_answered=summaries.note if self.has_summaries else lambda _ask, _manner: None,
            )  # fmt: skip
            await store.run(store.requeue_asks)
            for ask in await store.run(store.asks):
                queue.put(ask, paste_delay(ask))
            inbox = Inbox(
                store,
                queue,
                outbox,
                Access(store, frozenset({7, 8}), self.admins),
                Limits(20, 100, 3000),
                personas=list(house.personas),
                documents=Documents(6_000_000, self.transcriber, sees=self.pictures > 0),
                note_batch=lambda batch: self.strangers.append(batch.strangers),
                models=list(house.models),
                has_summaries=self.has_summaries,
            )
            server = uvicorn.Server(
                uvicorn.Config(
                    build_app(inbox, outbox, LINK),
                    host="127.0.0.1",
                    port=self.gateway_port,
                    http=Protocol,
                    log_config=None,
                    timeout_graceful_shutdown=0,
                )
            )
            answers = asyncio.create_task(answering.run())
            summing = asyncio.create_task(summaries.run())
            serving = asyncio.create_task(server._serve())
            await until(lambda: server.started, "the gateway listens")
            started.set()
            try:
                await asyncio.wait({answers, serving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server.should_exit = server.force_exit = True
                answers.cancel()
                summing.cancel()
                await asyncio.wait({answers, summing, serving})
        finally:
            store.close()


def buttons_of(message: dict[str, Any], verb: str = "") -> list[str]:
    """List what the buttons under a message bring back."""
    rows = (message.get("reply_markup") or {}).get("inline_keyboard", [])
    data = [str(button["callback_data"]) for row in rows for button in row]
    return [one for one in data if one.startswith(verb)]


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = itertools.cycle(range(20_000 + 500 * _WORKER, 20_500 + 500 * _WORKER))
"""Below those that the kernel gives to connections, and each worker has its own."""


def free_port() -> int:
    """Find a TCP port of the loopback interface that nobody uses, nor takes before we do."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("a cycle has no end")


@asynccontextmanager
async def forward(at: Path, host: str, port: int) -> AsyncGenerator[None]:
    """Play the egress: pass a Unix socket's bytes to a TCP port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    server = await asyncio.start_unix_server(connect, at)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def hold_namespace(at: Path) -> AsyncGenerator[None]:
    """Play the holder of the namespace: accept and close."""
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), at)
    try:
        yield
    finally:
        server.close()


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncGenerator[Chain]:
    async with (
        running(Options()) as stub,
        forward(tmp_path / "telegram.sock", "127.0.0.1", stub.port),
        hold_namespace(tmp_path / "holder.sock"),
        aiohttp.ClientSession(f"http://127.0.0.1:{stub.control_port}") as control,
    ):
        chain = Chain(tmp_path, control, free_port())
        await chain.start_gateway()
        await chain.start_relay()
        yield chain
        for name in list(chain.tasks):
            await chain.kill(name)
