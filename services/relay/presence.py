"""Knows whether the gateway is there, since when it is not, and whom it serves as guests.

The outbox, which follows the gateway's stream, tells; the inbox and the doorman ask.
"""

import asyncio
import time
from collections.abc import Callable, Iterable


class Presence:
    """The gateway as this process has seen it: away from the start, until its stream begins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stream_lost_at: float | None = clock()
        self._refusing_since: float | None = None
        self._last_taken_at = float("-inf")
        self.guests: frozenset[int] | None = None
        """Users beyond the configured list; None while the gateway has not named them yet."""
        self.invitations: frozenset[str] = frozenset()
        """Digests of the codes that let somebody in."""
        self.returned = asyncio.Event()
        """Set when the stream begins again; then a new event takes its place."""

    def come(self, guests: Iterable[int], invitations: Iterable[str] = ()) -> None:
        """The stream has begun."""
        self.let_in(guests, invitations)
        self._stream_lost_at = None
        self.returned.set()
        self.returned = asyncio.Event()

    def let_in(self, guests: Iterable[int], invitations: Iterable[str]) -> None:
        """The gateway serves these, too, and whoever has such a code."""
        self.guests, self.invitations = frozenset(guests), frozenset(invitations)

    def go(self) -> None:
        """The stream has ended."""
        if self._stream_lost_at is None:
            self._stream_lost_at = self._clock()

    def note_taken(self) -> None:
        """The gateway has taken updates."""
        self._refusing_since = None
        self._last_taken_at = self._clock()

    def note_idle(self) -> None:
        """Nothing waits to be handed over, so nobody is kept waiting by a refusal any more."""
        self._refusing_since = None

    def note_refused(self) -> None:
        """The gateway could not be reached, or could not take updates."""
        if self._refusing_since is None:
            self._refusing_since = self._clock()

    @property
    def away_seconds(self) -> float:
        """For how long updates could not have been handed over; 0 while they can."""
        since = [at for at in (self._stream_lost_at, self._refusing_since) if at is not None]
        return self._clock() - max(min(since), self._last_taken_at) if since else 0.0
