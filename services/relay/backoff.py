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

    async def wait(self) -> None:
        """Wait for the time that this failure deserves."""
        seconds = min(self.most_seconds, self.first_seconds * 2**self.failures)
        self.failures = min(self.failures + 1, 16)
        await asyncio.sleep(seconds * random.uniform(0.75, 1.25))

    def reset(self) -> None:
        """It worked again."""
        self.failures = 0
