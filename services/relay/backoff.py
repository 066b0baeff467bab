"""Waits longer after each failure in a row, with jitter, up to a bound."""

import asyncio
import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """From `first_seconds`, doubling, to `most_seconds`."""

    first_seconds: float = 0.5
    most_seconds: float = 15.0
    failures: int = 0

    async def wait(self, until: asyncio.Event | None = None) -> bool:
        """Wait for the time that this failure deserves; True if an event has cut it short."""
        seconds = min(self.most_seconds, self.first_seconds * 2**self.failures)
        seconds *= random.uniform(0.75, 1.25)
        self.failures = min(self.failures + 1, 16)
        if not until:
            await asyncio.sleep(seconds)
            return False
        try:
            await asyncio.wait_for(until.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def reset(self) -> None:
        """It worked again."""
        self.failures = 0
