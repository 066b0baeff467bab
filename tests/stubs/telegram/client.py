"""Owns the tests' side of the stub: playing users, ordering faults, waiting for what happens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.stubs.telegram.stub import Options, Stub, running

TOKEN = "123456789:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Clock:
    """A clock that goes only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Refused(Exception):
    """The control API refused a request; the text is its reason."""


class Control:
    """Calls to the control API, whether over TCP or over its Unix socket."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def post(self, path: str, body: object = None) -> Any:
        """POST JSON; return the JSON answer."""
        async with self._session.post(f"{self._address}/{path}", json=body or {}) as response:
            return await self._read(response)

    async def get(self, path: str, **query: object) -> Any:
        """GET with a query; return the JSON answer."""
        shown = {name: str(value) for name, value in query.items()}
        async with self._session.get(f"{self._address}/{path}", params=shown) as response:
            return await self._read(response)

    async def clear_faults(self) -> None:
        """Drop all faults and release every call that hangs."""
        async with self._session.delete(f"{self._address}/fault") as response:
            await self._read(response)

    async def say(self, user_id: int, text: str, **fields: object) -> Any:
        """Let a user send a message, by default in the private chat with the bot."""
        return await self.post("say", {"user": {"id": user_id}, "text": text, **fields})

    async def press(self, user_id: int, message_id: int, data: str, **fields: object) -> Any:
        """Let a user press a button in the private chat with the bot."""
        request = {"user": {"id": user_id}, "chat_id": user_id, "message_id": message_id}
        return await self.post("press", {**request, "data": data, **fields})

    async def messages(self, chat_id: int) -> list[dict[str, Any]]:
        """Return the messages that a chat shows."""
        shown: list[dict[str, Any]] = (await self.get(f"chat/{chat_id}"))["messages"]
        return shown

    async def entries(self, **wanted: object) -> list[dict[str, Any]]:
        """Return all record entries with these fields."""
        found: list[dict[str, Any]] = (await self.get("record", **wanted))["entries"]
        return found

    async def wait_for(
        self,
        matches: Callable[[dict[str, Any]], bool],
        seconds: float,
        after: int = 0,
        **wanted: object,
    ) -> dict[str, Any]:
        """Return the first entry after `after` that matches; TimeoutError if none comes in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            page = await self.get("record", after=after, wait=round(left, 3), **wanted)
            for entry in page["entries"]:
                if matches(entry):
                    found: dict[str, Any] = entry
                    return found
            after = page["entries"][-1]["seq"] if page["entries"] else page["last"]
        raise TimeoutError(f"no entry of {wanted} matched within {seconds} s")

    @staticmethod
    async def _read(response: aiohttp.ClientResponse) -> Any:
        answer = await response.json()
        if response.status != 200:
            raise Refused(answer.get("error", str(answer)))
        return answer


@asynccontextmanager
async def control_over(socket: Path) -> AsyncIterator[Control]:
    """Reach the control API of a stub in a container by its Unix socket."""
    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Control(session, "http://stub")


class Session(Control):
    """A stub in this process, with calls to its Bot API as well."""

    def __init__(self, session: aiohttp.ClientSession, stub: Stub) -> None:
        super().__init__(session, f"http://127.0.0.1:{stub.control_port}")
        self.http = session
        self.stub = stub
        self.base = f"http://127.0.0.1:{stub.port}"
        self.bot_address = f"{self.base}/bot{TOKEN}"

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a Bot API method with a JSON body; return the whole answer."""
        async with self.http.post(f"{self.bot_address}/{method}", json=parameters) as response:
            answer: dict[str, Any] = await response.json()
        return answer

    async def result(self, method: str, **parameters: object) -> Any:
        """Call a method that is to succeed; return its result."""
        answer = await self.call(method, **parameters)
        assert answer["ok"], answer
        return answer["result"]

    async def error(self, method: str, **parameters: object) -> str:
        """Call a method that is to fail; return its description."""
        answer = await self.call(method, **parameters)
        assert not answer["ok"], answer
        return str(answer["description"])


@asynccontextmanager
async def started(
    options: Options | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Session]:
    """Run a stub on loopback for one test."""
    async with running(options or Options(), clock) as stub, aiohttp.ClientSession() as session:
        yield Session(session, stub)
