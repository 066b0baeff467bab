"""Owns how fast a bot may write: a token bucket per chat and one for the bot as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Everything a test may tune; the defaults are the hosted service's, as far as known.

    Rates are per second. A burst is how many messages may be written at once after a pause.
    """

    budgets: bool = True
    private_rate: float = 1.0
    private_burst: float = 5.0
    group_rate: float = 20 / 60
    group_burst: float = 20.0
    global_rate: float = 30.0
    global_burst: float = 30.0
    update_seconds: float = 86_400.0
    callback_seconds: float = 150.0
    conflict_seconds: float = 3.0
    repeat_guard: bool = True
    repeats: float = 0
    """So many of the updates confirmed last come again with each answer that brings new ones."""
    shuffled: bool = False
    """The updates of one answer come in any order."""


class Bucket:
    """Holds up to `burst` permissions and gains `rate` of them a second."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def wait(self, now: float) -> float:
        """Return the seconds until the next permission, 0 if there is one."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        missing = 1.0 - self._level
        if missing <= 1e-9:
            return 0.0
        return missing / self._rate if self._rate > 0 else 3600.0

    def take(self) -> None:
        """Use one permission up."""
        self._level -= 1.0


class Budgets:
    """Decides whether one more message or edit is allowed now."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.set_limits(limits)

    def set_limits(self, limits: Limits) -> None:
        """Apply new limits; every bucket starts full again."""
        self._limits = limits
        self._chats: dict[int, Bucket] = {}
        self._all = Bucket(limits.global_rate, limits.global_burst, self._clock())

    def charge(self, chat_id: int) -> int:
        """Take one permission for the chat; return 0, or the whole seconds to wait instead.

        A refused call costs nothing, and a call after the wait succeeds.
        """
        if not self._limits.budgets:
            return 0
        now = self._clock()
        bucket = self._chats.get(chat_id)
        if bucket is None:
            if chat_id > 0:
                rate, burst = self._limits.private_rate, self._limits.private_burst
            else:
                rate, burst = self._limits.group_rate, self._limits.group_burst
            bucket = self._chats[chat_id] = Bucket(rate, burst, now)
        wait = max(bucket.wait(now), self._all.wait(now))
        if wait > 0:
            return math.ceil(wait)
        bucket.take()
        self._all.take()
        return 0
