"""Shows how far long work on large files is: a line that is redrawn, or one now and then."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

from scripts.model import size
from scripts.steps import duration, terminal_width

WINDOW_SECONDS = 20.0
REDRAW_SECONDS = 0.3
HEARTBEAT_SECONDS = 15.0  # where there is no terminal


class Progress:
    """Counts bytes that have come and bytes that were checked, of all files together."""

    def __init__(self, out: IO[str], now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._now = now
        self._sizes: dict[str, int] = {}
        self._have: dict[str, int] = {}
        self._checked = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._shown = now()
        self._is_drawn = False
        self._lock = threading.Lock()  # several files are checked at once

    def expect(self, name: str, count: int) -> None:
        """A file will have so many bytes."""
        self._sizes[name] = count

    def at(self, name: str, count: int) -> None:
        """Of a file, so much is here."""
        self._have[name] = count
        if self._is_due():
            done, total = sum(self._have.values()), sum(self._sizes.values())
            self._show(f"{name}: {size(done)} of {size(total)}{self._speed(done, total)}")

    def checked(self, count: int) -> None:
        """So much more was read again for its digest."""
        with self._lock:
            self._checked += count
            if self._is_due():
                self._show(f"checking: {size(self._checked)}{self._speed(self._checked, 0)}")

    def say(self, line: str) -> None:
        """A line that stays."""
        print(("\r\x1b[2K" if self._is_drawn else "") + line, file=self._out, flush=True)
        self._is_drawn = False

    def end(self) -> None:
        """Take the redrawn line away."""
        if self._is_drawn:
            print("\r\x1b[2K", end="", file=self._out, flush=True)
            self._is_drawn = False

    def _is_due(self) -> bool:
        pause = REDRAW_SECONDS if self._out.isatty() else HEARTBEAT_SECONDS
        return self._now() - self._shown >= pause

    def _show(self, line: str) -> None:
        self._shown = self._now()
        if self._out.isatty():
            width = terminal_width(self._out) - 1
            print(f"\r\x1b[2K{line[:width]}", end="", file=self._out, flush=True)
            self._is_drawn = True
        else:
            print(line, file=self._out, flush=True)

    def _speed(self, done: int, total: int) -> str:
        now = self._now()
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()  # a file was begun anew, or checking follows fetching
        self._samples.append((now, done))
        while now - self._samples[0][0] > WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        (since, before), seconds = self._samples[0], now - self._samples[0][0]
        rate = (done - before) / seconds if seconds > 0 and now > since else 0.0
        if not rate:
            return ""
        left = f", {duration((total - done) / rate)} left" if total > done else ""
        return f", {size(rate)}/s{left}"
