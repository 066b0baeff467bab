"""Owns what the chats show while the run goes on, read from the stub's record as it grows.

It paces the load and times recoveries. It judges nothing: that is the checker's, who reads for
itself.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.stubs.telegram.client import Control

PLACEHOLDER = "…"


@dataclass(frozen=True)
class Shown:
    """One message of the bot as it stands."""

    message_id: int
    text: str
    reply_to: int | None
    grows: bool
    """It carries a stop button."""
    button: str = ""
    retry: str = ""
    """It says that it failed, and this button tries again."""


@dataclass
class ChatScreen:
    """One chat's messages of the bot."""

    shown: dict[int, Shown] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Call:
    """A call of the bot that was carried out. Times are seconds since the epoch."""

    method: str
    chat_id: int
    started: float
    grows: bool


class Screen:
    """All chats, and whoever waits for a call of the bot."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._chats: dict[int, ChatScreen] = {}
        self._waiting: list[tuple[Callable[[Call], bool], asyncio.Future[Call]]] = []
        self.last_write = time.monotonic()
        """When the bot last wrote something, carried out or not."""

    def chat(self, chat_id: int) -> ChatScreen:
        return self._chats.setdefault(chat_id, ChatScreen())

    async def follow(self) -> None:
        """Read the record for ever."""
        after = 0
        while True:
            page = await self._control.get("record", after=after, wait=5, limit=500, kind="call")
            for entry in page["entries"]:
                self._take(entry)
            after = page["entries"][-1]["seq"] if page["entries"] else max(after, page["last"])

    async def wait_for(self, fits: Callable[[Call], bool]) -> Call:
        """Wait for the next call that fits."""
        future: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        self._waiting.append((fits, future))
        return await future

    def _take(self, entry: dict[str, Any]) -> None:
        method = entry["method"]
        if method != "getupdates":
            self.last_write = time.monotonic()
        if not entry["outcome"].get("ok"):
            return
        chat_id = int(entry["chat_id"] or 0)
        grows = False
        if method in ("sendmessage", "editmessagetext", "editmessagereplymarkup"):
            grows = self._show(chat_id, entry["outcome"]["result"])
        elif method == "deletemessage":
            chat = self.chat(chat_id)
            chat.shown.pop(int(entry["params"]["message_id"]), None)
            chat.changed.set()
        call = Call(method, chat_id, entry["started"], grows)
        for fits, future in self._waiting:
            if not future.done() and fits(call):
                future.set_result(call)
        self._waiting = [pair for pair in self._waiting if not pair[1].done()]

    def _show(self, chat_id: int, message: dict[str, Any]) -> bool:
        rows = (message.get("reply_markup") or {}).get("inline_keyboard", [])
        buttons = [str(b.get("callback_data", "")) for row in rows for b in row]
        stop = next((data for data in buttons if data.startswith("stop:")), "")
        retry = next((data for data in buttons if data.startswith("retry:")), "")
        chat = self.chat(chat_id)
        before = chat.shown.get(message["message_id"])
        reply_to = (message.get("reply_to_message") or {}).get("message_id")
        chat.shown[message["message_id"]] = Shown(
            message["message_id"],
            message.get("text", ""),
            reply_to or (before.reply_to if before else None),
            bool(stop),
            stop,
            retry,
        )
        chat.changed.set()
        return bool(stop)
