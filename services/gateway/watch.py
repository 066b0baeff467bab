"""Looks after the node: tells admins what has failed and what is back, and how things stand."""

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.gateway.engine import Engine
from services.gateway.gpu import Gpu
from services.gateway.heartbeat import RENEWAL_SECONDS, heartbeat, moment
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.gateway.texts import Language, language_of, say
from services.log import describe_error
from services.namespace import Tunnel
from services.wire import Batch, Reply

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0

PATIENCE_SECONDS = {"engine": 60.0, "disk": 0.0}
"""So long something must have been wrong before it is worth a word."""

LONG_ABSENCE_SECONDS = 120.0
"""While the relay is cut off nobody can be told: that is said when it is back."""

START_SECONDS = 900.0
"""An engine that has never been ready may still be loading its model."""

LOW_DISK_SHARE = 0.05

ENOUGH_DISK_SHARE = 0.07
"""Free space that ends a shortage: more than what begins one, so that it does not flicker."""

MANY_STRANGERS = 5
"""One may have found the bot by its name; so many within an hour know that it is there."""

STRANGERS_SECONDS = 3600.0

STRANGERS_AGAIN_SECONDS = 6 * 3600.0
"""So long nothing more is said of strangers."""

MOST_UNSEEN_ALERTS = 10
"""Beyond these an admin gets no more until they were delivered."""

GIGABYTE = 1e9

What = Literal["engine", "relay", "disk"]


@dataclass
class _Trouble:
    """Something that is wrong: since when, by the watch's clock, and whether admins know."""

    since: float
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
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    """For what is told alone: it may be set while something is wrong."""
    tunnel: Callable[[], Tunnel | None] = lambda: None
    """What is known of it now."""
    gpus: Callable[[], Sequence[Gpu]] = tuple
    tokens_per_second: float = 0.0
    """Of the engine's answers, between the last two looks."""
    updated_at: float = 0.0
    """When the relay brought an update last, by `wall`; 0: not yet."""
    _troubles: dict[What, _Trouble] = field(default_factory=dict)
    _was_ready: bool = False
    _counted: tuple[float, int] | None = None
    _beat_at: float = -math.inf
    _refused_there: tuple[int, int] | None = None
    _strangers: int = 0
    _strangers_since: float = -math.inf
    _strangers_told_at: float = -math.inf

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                await self.look()
            except Exception as error:
                # Whoever looks after the others must not be the one that ends them.
                log.error("look failed", extra={"error": describe_error(error)})
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once, and tell admins what is new. Raises StoreError, and forgets nothing then."""
        now = self.clock()
        if self._counted and now > self._counted[0]:
            before, tokens = self._counted
            self.tokens_per_second = (self.queue.answer_tokens - tokens) / (now - before)
        self._counted = now, self.queue.answer_tokens
        is_ready = await self.engine.is_ready()
        self._was_ready = self._was_ready or is_ready
        self._note("relay", not self.outbox.is_connected, now)
        await self._judge("engine", not is_ready, now)
        await self._judge("disk", self._is_disk_low(), now)
        absence = self.outbox.absence_seconds
        if absence >= LONG_ABSENCE_SECONDS:
            await self._tell("relay back", **self._times(now - absence))
        self.outbox.absence_seconds = 0.0
        if (
            self._strangers >= MANY_STRANGERS
            and now - self._strangers_told_at >= STRANGERS_AGAIN_SECONDS
        ):
            await self._tell("strangers", count=str(self._strangers))
            self._strangers_told_at = now
        if self.outbox.is_connected and now - self._beat_at >= RENEWAL_SECONDS:
            for old_id, reply in await self.store.run(self._beat):
                self.outbox.forget(old_id)
                self.outbox.open(reply)
            self._beat_at = now

    def note_batch(self, batch: Batch) -> None:
        """Remember what the relay says of itself."""
        self._refused_there = batch.refused
        if batch.updates:
            self.updated_at = self.wall()
        self._note_strangers(batch.strangers)

    def _note_strangers(self, count: int) -> None:
        now = self.clock()
        if count and now - self._strangers_since >= STRANGERS_SECONDS:
            self._strangers, self._strangers_since = 0, now
        self._strangers += count

    @property
    def is_engine_ready(self) -> bool:
        """Whether the engine was ready at the last look."""
        return self._counted is not None and "engine" not in self._troubles

    def describe(self, language: Language) -> str:
        """Say how things stand."""
        lines = []
        for what in ("relay", "engine"):
            trouble = self._troubles.get(what)
            if what == "relay" and self.outbox.is_connected:
                trouble = None  # since the last look
            times = self._times(trouble.since) if trouble else {}
            lines.append(say(f"{what} {'bad' if trouble else 'good'}", language, **times))
        lines.append(
            say(
                "load",
                language,
                waiting=len(self.queue.waiting_ids),
                running=self.queue.running_count,
                speed=round(self.tokens_per_second),
            )
        )
        lines += self._describe_tunnel(language)
        lines += [
            say("gpu", language, number=number, load=gpu.load_percent,
                used=f"{gpu.used_bytes / GIGABYTE:.1f}", total=f"{gpu.total_bytes / GIGABYTE:.1f}")
            for number, gpu in enumerate(self.gpus(), start=1)
        ]  # fmt: skip
        if disk := self._disk():
            free, total = (f"{size / GIGABYTE:.1f}" for size in disk)
            lines.append(say("space", language, free=free, total=total))
        if self.queue.is_paused:
            lines.append(say("paused for all", language))
        return "\n".join(lines)

    def _describe_tunnel(self, language: Language) -> list[str]:
        tunnel = self.tunnel()
        if tunnel is None:
            return []
        # While the relay is heard there was one, which is not noted yet.
        lines = [] if self.outbox.is_connected else [say("no handshake", language)]
        if tunnel.handshake_at:
            age = max(0, round(self.wall() - tunnel.handshake_at))
            lines = [say("handshake", language, age=_duration(age, language))]
        came, went = tunnel.refused_in, tunnel.refused_out
        lines.append(say("refused here", language, came=came, went=went))
        if self._refused_there:
            came, went = self._refused_there
            lines.append(say("refused there", language, came=came, went=went))
        return lines

    def _disk(self) -> tuple[int, int] | None:
        """Bytes free, and in all; None if that cannot be told."""
        try:
            usage = shutil.disk_usage(self.directory)
        except OSError as error:
            log.error("disk cannot be looked at", extra={"error": describe_error(error)})
            return None
        return usage.free, usage.total

    def _is_disk_low(self) -> bool:
        share = ENOUGH_DISK_SHARE if "disk" in self._troubles else LOW_DISK_SHARE
        disk = self._disk()
        return disk is not None and disk[0] < share * disk[1]

    async def _judge(self, what: What, is_bad: bool, now: float) -> None:
        trouble = self._troubles.get(what)
        if not is_bad and trouble and trouble.is_told:
            await self._tell(f"{what} back", **self._times(trouble.since))
        trouble = self._note(what, is_bad, now)
        if trouble and not trouble.is_told and now - trouble.since >= self._patience(what):
            log.error("trouble", extra={"what": what})
            await self._tell(f"{what} down", **self._times(trouble.since))
            trouble.is_told = True

    def _note(self, what: What, is_bad: bool, now: float) -> _Trouble | None:
        if is_bad:
            return self._troubles.setdefault(what, _Trouble(now))
        self._troubles.pop(what, None)
        return None

    def _patience(self, what: What) -> float:
        is_loading = what == "engine" and not self._was_ready
        return START_SECONDS if is_loading else PATIENCE_SECONDS[what]

    def _times(self, since: float) -> dict[str, str]:
        wall = self.wall()
        return {"since": moment(wall - (self.clock() - since)), "now": moment(wall)}

    async def _tell(self, key: str, **values: str) -> None:
        for reply in await self.store.run(self._write, key, values):
            self.outbox.open(reply)

    def _beat(self) -> list[tuple[int, Reply]]:
        """Renew the heartbeats of admins, and end those of others.

        Each reply comes with the number of the one whose place it takes, which Telegram has kept
        waiting; 0 if there is none.
        """
        with self.store.transaction():
            replies = []
            for menu in self.store.heartbeats():
                if not menu.message_id:
                    continue
                chosen = self.store.preferences(menu.user_id).language
                language = language_of(chosen or menu.heartbeat)
                if menu.user_id in self.admins:
                    text, button = heartbeat(self.describe(language), self.wall(), language)
                    reply = self.store.replace_menu(menu, text, button)
                else:
                    reply = self.store.replace_menu(menu, say("no heartbeat", language))
                replies.append((menu.reply_id, reply))
            return replies

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
                if self.store.count_replies((admin, 0), closed=True) < MOST_UNSEEN_ALERTS
            ]


def _duration(seconds: int, language: Language) -> str:
    """Write how long something is ago, as exactly as it matters."""
    for key, unit in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * unit:
            return say(key, language, count=seconds // unit)
    return say("seconds", language, count=seconds)
