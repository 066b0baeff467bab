"""Owns how fast this machine is while something on it is timed: emulated cores go at its pace.

A core of this machine and an emulated one are not slow to the same degree (measured: a loop took
1.6 times as long as at another hour, a boot 3 times), so that the measure is a boot until the
machine takes commands: always the same work, and none of it the node's. How much slower the
machine has become since that boot, the loop says.
"""

import threading
import time
from dataclasses import dataclass

SAMPLE_ROUNDS = 100_000
INTERVAL_SECONDS = 2.0
BOOT_SECONDS = 15.0
"""Four fifths of what a boot takes where a node was whole 72 s after a daemon's death and 119 s
after its kernel started: emulated cores are faster and slower from one minute to the next."""


@dataclass(frozen=True)
class Boot:
    """When a kernel started, of `time.monotonic`, and after how long its machine took commands."""

    began: float
    seconds: float


class Pace:
    """Takes samples all the time: a machine with other guests is fast and slow in turn."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        """When, and seconds of a core's time."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._take_samples, daemon=True)
        self._thread.start()

    def slowness(self, boot: Boot, since: float) -> float:
        """How many times slower an emulated core was than where the limits were set, on average
        since a moment of `time.monotonic`, by the last boot; at least 1."""
        then = self._mean(boot.began, boot.began + boot.seconds)
        now = self._mean(since, time.monotonic())
        became_slower = max(1.0, now / then) if now and then else 1.0
        return max(1.0, boot.seconds / BOOT_SECONDS * became_slower)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _mean(self, since: float, until: float) -> float:
        seconds = [taken for at, taken in tuple(self._samples) if since <= at <= until]
        return sum(seconds) / len(seconds) if seconds else 0.0

    def _take_samples(self) -> None:
        while not self._is_over.wait(INTERVAL_SECONDS):
            began = time.thread_time()
            total = 0
            for number in range(SAMPLE_ROUNDS):
                total += number
            self._samples.append((time.monotonic(), time.thread_time() - began))
