"""The stub Bot API server of the benchmark: it answers at once, and notes when what was said.

It keeps no rules; tests/stubs/telegram is the one that does. Users are played by `push`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from tests.bench.asgi import Receive, Scope, Send, answer, read_body

MOST_UPDATES = 100
HOLD_SECONDS = 5.0
BOT = {"id": 123456789, "is_bot": True, "first_name": "Bench", "username": "bench_bot"}


@dataclass(frozen=True)
class Shown:
    """A text that a message shows from a moment on."""

    at: float
    chat_id: int
    message_id: int
    text: str
    is_edit: bool


class BenchTelegram:
    """The ASGI application."""

    def __init__(self) -> None:
        self._updates: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._numbers = itertools.count(1)
        self._update_ids = itertools.count(1)
        self.polled = asyncio.Event()
        """Set by the first poll: the bot is ready."""
        self.shown: list[Shown] = []
        self.calls = 0

    def push(self, updates: Iterable[bytes]) -> None:
        """Let these be waiting for the next poll."""
        self._updates.extend(updates)
        self._arrived.set()

    def message(self, user_id: int, text: str) -> bytes:
        """Write the update of a user's message in the private chat with the bot."""
        name = f"User {user_id}"
        update = {
            "update_id": next(self._update_ids),
            "message": {
                "message_id": next(self._numbers),
                "from": {
                    "id": user_id,
                    "is_bot": False,
                    "first_name": name,
                    "username": f"user_{user_id}",
                    "language_code": "en",
                },
                "chat": {"id": user_id, "first_name": name, "type": "private"},
                "date": int(time.time()),
                "text": text,
            },
        }
        return orjson.dumps(update)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call of the Bot API."""
        body = await read_body(receive)
        method = scope["path"].rpartition("/")[2].lower()
        if method == "getupdates":
            await answer(send, b'{"ok":true,"result":[' + b",".join(await self._poll()) + b"]}")
            return
        self.calls += 1
        result: Any = True
        match method:
            case "getme":
                result = BOT
            case "sendmessage" | "editmessagetext":
                result = self._show(_read_call(scope, body), is_edit=method[0] == "e")
            case "getmycommands":
                result = []
            case _ if method.startswith("get"):
                result = {}
        await answer(send, orjson.dumps({"ok": True, "result": result}))

    async def _poll(self) -> list[bytes]:
        self.polled.set()
        if not self._updates:
            self._arrived.clear()
            try:
                async with asyncio.timeout(HOLD_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        count = min(MOST_UPDATES, len(self._updates))
        return [self._updates.popleft() for _ in range(count)]

    def _show(self, call: dict[str, Any], *, is_edit: bool) -> dict[str, Any]:
        chat_id = int(call["chat_id"])
        message_id = int(call["message_id"]) if is_edit else next(self._numbers)
        self.shown.append(Shown(time.monotonic(), chat_id, message_id, call["text"], is_edit))
        return {
            "message_id": message_id,
            "from": BOT,
            "chat": {"id": chat_id, "first_name": "User", "type": "private"},
            "date": int(time.time()),
            "text": call["text"],
        }


def _read_call(scope: Scope, body: bytes) -> dict[str, Any]:
    headers = dict(scope["headers"])
    if headers.get(b"content-type", b"").startswith(b"application/json"):
        read: dict[str, Any] = orjson.loads(body)
        return read
    return dict(parse_qsl(body.decode(), keep_blank_values=True))
