"""Owns one stub as a whole: it builds the parts, serves both HTTP sides, and resets them."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web

from tests.stubs.telegram.bot_api import bot_api_app
from tests.stubs.telegram.budgets import Budgets, Limits
from tests.stubs.telegram.chats import Chats
from tests.stubs.telegram.control import control_app
from tests.stubs.telegram.errors import BotApiError, ControlError
from tests.stubs.telegram.faults import Faults
from tests.stubs.telegram.files import Files
from tests.stubs.telegram.methods import Methods
from tests.stubs.telegram.record import Record
from tests.stubs.telegram.updates import UpdateQueue

WELL_FORMED_TOKEN = re.compile(r"[1-9]\d{0,15}:[A-Za-z0-9_-]{35,}")


@dataclass(frozen=True)
class Options:
    """How a stub is started; ports of 0 are chosen by the system."""

    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    control_socket: Path | None = None
    control_host: str = "127.0.0.1"
    control_port: int | None = 0
    tokens: tuple[str, ...] = ()
    username: str = "test_oracle_bot"
    first_name: str = "Test bot"
    record_limit: int | None = None
    next_update_id: int | None = None
    limits: Limits = field(default_factory=Limits)


class Stub:
    """All state of one pretended Telegram with one bot in it."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.record = Record(options.record_limit)
        self.faults = Faults()
        self.limits = options.limits
        self.port = 0
        self.control_port = 0
        self.accepted = frozenset(options.tokens)
        self._clock = clock
        number = options.next_update_id or random.randint(2_000_000, 2**29)
        self._build(number)

    def _build(self, next_update_id: int) -> None:
        self._bot_id: int | None = None
        self.budgets = Budgets(self.limits, self._clock)
        self.chats = Chats()
        self.files = Files()
        self.updates = UpdateQueue(lambda: self.limits, self._clock, self.record, next_update_id)
        self.methods = Methods(
            bot={
                "id": 0,
                "is_bot": True,
                "first_name": self.options.first_name,
                "username": self.options.username,
            },
            limits=lambda: self.limits,
            clock=self._clock,
            budgets=self.budgets,
            chats=self.chats,
            files=self.files,
            updates=self.updates,
            record=self.record,
        )
        for token in self.options.tokens:
            self._identify(token)

    def authorize(self, token: str) -> None:
        """Refuse a token that Telegram would not know.

        Any well-formed one is welcome unless tokens were listed, but the stub holds one bot:
        the first id seen.
        """
        if not WELL_FORMED_TOKEN.fullmatch(token):
            raise BotApiError(404, "Not Found")
        if self.accepted and token not in self.accepted:
            raise BotApiError(401, "Unauthorized")
        self._identify(token)

    def accept_tokens(self, tokens: frozenset[str]) -> None:
        """Accept exactly these tokens from now on, as after a revocation; empty means any."""
        for token in tokens:
            if not WELL_FORMED_TOKEN.fullmatch(token):
                raise ControlError(f"token {token!r} is malformed")
        self.accepted = tokens

    def _identify(self, token: str) -> None:
        bot_id = int(token.partition(":")[0])
        if self._bot_id is None:
            self._bot_id = bot_id
            self.methods.bot["id"] = bot_id
        elif self._bot_id != bot_id:
            raise BotApiError(401, "Unauthorized")

    def set_limits(self, changes: dict[str, object]) -> Limits:
        """Change some limits; budgets start full again."""
        known = Limits.__dataclass_fields__
        for name, value in changes.items():
            if name not in known:
                raise ControlError(f"limit {name!r} is unknown: use {', '.join(known)}")
            wants_flag = isinstance(known[name].default, bool)
            if isinstance(value, bool) != wants_flag or not isinstance(value, int | float):
                kind = "true or false" if wants_flag else "a number"
                raise ControlError(f"limit {name} is {value!r}: give {kind}")
        self.limits = replace(self.limits, **changes)  # type: ignore[arg-type]  # checked above
        self.budgets.set_limits(self.limits)
        return self.limits

    def reset(self) -> None:
        """Forget everything but tokens and certificates; ids of updates and entries go on."""
        self.faults.clear()
        self.updates.release_poll()
        self.limits = self.options.limits
        self.record.clear()
        self._build(self.updates.next_number)


@asynccontextmanager
async def running(
    options: Options, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Stub]:
    """Serve a stub until the block ends; its ports are then known as stub.port, .control_port."""
    stub = Stub(options, clock)
    if options.control_socket is not None:
        # What a killed stub left behind would look like a healthy one.
        options.control_socket.unlink(missing_ok=True)
    public = await _start(bot_api_app(stub))
    control = await _start(control_app(stub))
    try:
        site = web.TCPSite(public, options.host, options.port, ssl_context=options.tls)
        await site.start()
        stub.port = public.addresses[0][1]
        if options.control_socket is not None:
            await web.UnixSite(control, str(options.control_socket)).start()
            options.control_socket.chmod(0o666)
        if options.control_port is not None:
            await web.TCPSite(control, options.control_host, options.control_port).start()
            stub.control_port = control.addresses[-1][1]
        yield stub
    finally:
        stub.faults.clear()
        stub.updates.release_poll()
        await asyncio.gather(public.cleanup(), control.cleanup())
        if options.control_socket is not None:
            with suppress(FileNotFoundError):
                options.control_socket.unlink()


async def _start(app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, keepalive_timeout=75)
    await runner.setup()
    return runner
