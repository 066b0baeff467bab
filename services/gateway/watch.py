"""Looks after the node: tells admins what has failed and what is back, and how things stand."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.gateway.engine import Engine
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store, StoreError
from services.gateway.texts import Language, language_of, say
from services.wire import Reply

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0

PATIENCE_SECONDS = {"engine": 60.0, "disk": 0.0}
"""So long something must have been wrong before it is worth a word."""

LONG_ABSENCE_SECONDS = 120.0
"""While the relay is cut off nobody can be told: that is said when it is back."""

START_SECONDS = 900.0
"""An engine that has never been ready may still be loading its model."""

LOW_DISK_SHARE = 0.05

MOST_UNSEEN_ALERTS = 10
"""Beyond these an admin gets no more until they were delivered."""

GIGABYTE = 1e9

What = Literal["engine", "relay", "disk"]


@dataclass
class _Trouble:
    """Since when something is wrong, by the clock of the wall, and whether admins know."""

    since: float | None = None
    is_told: bool = False


@dataclass
class Watch:
    """What the last look saw. `run` looks for ever; `describe` may be called from any thread."""

    store: Store
    queue: Queue
    outbox: Outbox
    engine: Engine
    directory: Path
    """Of the store: its disk is watched."""
    admins: Sequence[int] = ()
    clock: Callable[[], float] = time.time
    tokens_per_second: float = 0.0
    """Of the engine's answers, between the last two looks."""
    _troubles: dict[What, _Trouble] = field(default_factory=dict)
    _was_ready: bool = False
    _counted: tuple[float, int] | None = None

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.critical("store failed", extra={"remedy": str(error)})
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once, and tell admins what is new. Raises StoreError."""
        now = self.clock()
        if self._counted and now > self._counted[0]:
            before, tokens = self._counted
            self.tokens_per_second = (self.queue.answer_tokens - tokens) / (now - before)
        self._counted = now, self.queue.answer_tokens
        is_ready = await self.engine.is_ready()
        self._was_ready = self._was_ready or is_ready
        disk = shutil.disk_usage(self.directory)
        await self._judge("engine", not is_ready, now)
        await self._judge("disk", disk.free < LOW_DISK_SHARE * disk.total, now)
        self._note("relay", not self.outbox.is_connected, now)
        absence, self.outbox.absence_seconds = self.outbox.absence_seconds, 0.0
        if absence >= LONG_ABSENCE_SECONDS:
            await self._tell("relay back", since=_moment(now - absence), now=_moment(now))

    def describe(self, language: Language) -> str:
        """Say how things stand."""
        disk = shutil.disk_usage(self.directory)
        lines = [
            *(
                say(
                    f"{what} {'bad' if self._since(what) else 'good'}",
                    language,
                    **self._times(what),
                )
                for what in ("relay", "engine")
            ),
            say(
                "load",
                language,
                waiting=len(self.queue.waiting_ids),
                running=self.queue.running_count,
                speed=round(self.tokens_per_second),
            ),
            say(
                "space",
                language,
                free=f"{disk.free / GIGABYTE:.1f}",
                total=f"{disk.total / GIGABYTE:.1f}",
            ),
        ]
        if self.queue.is_paused:
            lines.append(say("paused for all", language))
        return "\n".join(lines)

    def _since(self, what: What) -> float | None:
        return self._troubles.setdefault(what, _Trouble()).since

    def _times(self, what: What) -> dict[str, str]:
        since = self._since(what)
        return {"since": _moment(since), "now": _moment(self.clock())} if since else {}

    async def _judge(self, what: What, is_bad: bool, now: float) -> None:
        was_told, times = self._troubles.get(what, _Trouble()).is_told, self._times(what)
        trouble = self._note(what, is_bad, now)
        if was_told and not is_bad:
            await self._tell(f"{what} back", **times)
        elif not was_told and is_bad and self._is_long(what, now):
            trouble.is_told = True
            log.error("trouble", extra={"what": what})
            await self._tell(f"{what} down", **self._times(what))

    def _note(self, what: What, is_bad: bool, now: float) -> _Trouble:
        trouble = self._troubles.get(what)
        if not trouble or not is_bad:
            trouble = _Trouble()
        if is_bad:
            trouble.since = trouble.since or now
        self._troubles[what] = trouble
        return trouble

    def _is_long(self, what: What, now: float) -> bool:
        patience = PATIENCE_SECONDS[what]
        if what == "engine" and not self._was_ready:
            patience = START_SECONDS
        return now - (self._since(what) or now) >= patience

    async def _tell(self, key: str, **values: str) -> None:
        for reply in await self.store.run(self._write, key, values):
            self.outbox.open(reply)

    def _write(self, key: str, values: dict[str, str]) -> list[Reply]:
        with self.store.transaction():
            return [
                self.store.add_reply(
                    (admin, 0),
                    0,
                    say(key, language_of(self.store.preferences(admin).language), **values),
                    closed=True,
                )
                for admin in self.admins
                if self.store.count_replies((admin, 0)) < MOST_UNSEEN_ALERTS
            ]


def _moment(at: float) -> str:
    return time.strftime("%H:%M UTC", time.gmtime(at))
