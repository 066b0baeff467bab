"""Says how long a relay leaves the field to another that has taken the stream from it.

Two relays on one bot token would take it from each other for ever. One that loses it again and
again yields longer each time; one that has held it for a while has no rival.
"""

import time
from collections.abc import Callable

FIRST_YIELD_SECONDS = 10.0
MOST_YIELD_SECONDS = 60.0
"""A rival that dies meanwhile is not noticed, and replies wait so long."""
UNRIVALLED_SECONDS = 300.0


class Tenure:
    """The time for which this relay has held the stream."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = float("inf")
        self._losses = 0

    def begin(self) -> None:
        """The stream is this relay's."""
        self._began_at = self._clock()

    def lose(self) -> float:
        """Another relay has taken the stream; returns the seconds to leave it that."""
        if self._clock() - self._began_at >= UNRIVALLED_SECONDS:
            self._losses = 0
        seconds = min(MOST_YIELD_SECONDS, FIRST_YIELD_SECONDS * 2.0 ** min(self._losses, 16))
        self._losses += 1
        return seconds
