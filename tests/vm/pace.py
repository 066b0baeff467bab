"""Owns how fast this machine is while something on it is timed: emulated cores go at its pace."""

import threading
import time

SAMPLE_ROUNDS = 100_000
SAMPLE_SECONDS = 0.005
"""What a sample takes a core where the limits were set: an ordinary one of 2.5 GHz."""
INTERVAL_SECONDS = 2.0


class Pace:
    """Takes samples all the time: a machine with other guests is fast and slow in turn."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        """When, and seconds of a core's time."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._take_samples, daemon=True)
        self._thread.start()

    def slowness(self, since: float) -> float:
        """How many times slower than where the limits were set, on average since a moment of
        `time.monotonic`; at least 1."""
        seconds = [taken for at, taken in tuple(self._samples) if at >= since]
        return max(1.0, sum(seconds) / len(seconds) / SAMPLE_SECONDS) if seconds else 1.0

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _take_samples(self) -> None:
        while not self._is_over.wait(INTERVAL_SECONDS):
            began = time.thread_time()
            total = 0
            for number in range(SAMPLE_ROUNDS):
                total += number
            self._samples.append((time.monotonic(), time.thread_time() - began))
