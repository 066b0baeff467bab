"""Owns the terminal while the status is shown live, and gives it back as it was, whatever ends it.

Who looks is a thread: a Docker that hangs keeps neither a key nor a change of size waiting.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from scripts.status.look import Looker, Snapshot
from scripts.status.page import Line, Piece, fitted, page, written

ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J"
LEAVE = "\x1b[?25h\x1b[?1049l"
QUIT = b"qQ\x03"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

SLOW_SECONDS = 3.0
"""A look that takes longer is worth a word."""


def is_possible() -> bool:
    """Whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def show(looker: Looker, seconds: float) -> None:
    """Draw until `q` or Ctrl-C; look again so many seconds after each look."""
    watch = _Watch(looker, seconds)
    screen = _Screen()
    with contextlib.suppress(KeyboardInterrupt), screen.held(), watch.running():
        while not screen.wait(watch.reports):
            screen.draw(watch.lines)


class _Watch:
    """The thread that looks, and what it saw last."""

    def __init__(self, looker: Looker, seconds: float) -> None:
        self._looker = looker
        self._seconds = seconds
        self._snapshot: Snapshot | None = None
        self._began_at = 0.0
        self._is_over = threading.Event()
        self.reports, self._reporter = os.pipe()
        """Readable when there is something new."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        # A daemon: a command of Docker's that hangs must not hold up the end.
        threading.Thread(target=self._look, daemon=True).start()
        try:
            yield
        finally:
            self._is_over.set()

    def lines(self, width: int) -> list[Line]:
        note = f"every {self._seconds:g} s   q: quit"
        looked_for = time.monotonic() - self._began_at if self._began_at else 0.0
        if looked_for > SLOW_SECONDS:
            note = f"looking for {looked_for:.0f} s   q: quit"
        if self._snapshot is None:
            return [[Piece(f"Looking ...   {note}"[:width])]]
        return page(self._snapshot, width, note)

    def _look(self) -> None:
        while not self._is_over.is_set():
            self._began_at = time.monotonic()
            self._snapshot = self._looker.look()
            self._began_at = 0.0
            os.write(self._reporter, b".")
            self._is_over.wait(self._seconds)


class _Screen:
    """The terminal: drawn on in its alternate screen, listened to key by key."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._is_coloured = not os.environ.get("NO_COLOR")
        self._before: list[Any] | None = None
        self._wakes, self._waker = os.pipe()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have the terminal; signals that end this process give it back first."""
        os.set_blocking(self._waker, False)
        woken_before = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        handlers = {it: signal.signal(it, _end) for it in ENDING}
        handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _note)
        handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        try:
            self._take()
            yield
        finally:
            self._give_back()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken_before)

    def wait(self, *others: int) -> bool:
        """Wait for news, a key, another size, or a second; True when it is time to end."""
        watched = [self._wakes, *others, *([self._in] if self._in >= 0 else [])]
        readable, _, _ = select.select(watched, [], [], 1.0)
        for source in readable:
            read = os.read(source, 256)
            if source == self._in and (not read or any(key in QUIT for key in read)):
                return True
        return False

    def draw(self, lines_of: Callable[[int], Sequence[Line]]) -> None:
        width, height = os.get_terminal_size(self._out)
        width, height = width or 80, height or 24  # a terminal may not know its size
        lines = fitted(lines_of(width), width, height)
        # Each line is emptied before it is written: behind a full one, its last sign would go.
        drawn = "\r\n".join(f"\x1b[K{written(it, is_coloured=self._is_coloured)}" for it in lines)
        rest = "\r\n\x1b[J" if len(lines) < height else ""
        self._write(f"\x1b[H{drawn}{rest}")

    def _take(self) -> None:
        if self._in >= 0:
            self._before = termios.tcgetattr(self._in)
            tty.setcbreak(self._in)
        self._write(ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # the terminal itself may be gone
            self._write(LEAVE)
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal, and `fg` brings this back."""
        self._give_back()
        handler = signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, handler)
        self._take()

    def _write(self, text: str) -> None:
        content = text.encode()
        while content:
            content = content[os.write(self._out, content) :]


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _note(_number: int, _frame: FrameType | None) -> None:
    """Nothing: that a signal came is said by the wake-up descriptor."""
