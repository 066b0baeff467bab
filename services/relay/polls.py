"""A sign of how things go, for whoever looks after the node: times and a number, never content.

It is a file on this container's tmpfs, which `docker exec` can read; the log only tells of trouble.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

POLLS = Path("/tmp/polls")


class PollSign:
    """When Telegram answered last, how many updates the gateway has not taken, and since when.

    And when the last update came that it took, and the last reply went that it had.
    """

    def __init__(self, file: Path = POLLS, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._answered_at = self._waiting_since = 0
        self._waiting = 0
        self._came_at = self._went_at = 0

    def begin(self) -> None:
        """Telegram has not answered yet."""
        self._write()

    def answered(self) -> None:
        """Telegram has answered."""
        self._answered_at = int(self._clock())
        self._write()

    def waiting(self, updates: int) -> None:
        """This many of the updates in sight have to wait; 0 when the gateway took them all."""
        if updates == 0:
            self._waiting_since = 0
        elif not self._waiting:
            self._waiting_since = int(self._clock())
        self._waiting = updates
        self._write()

    def came(self) -> None:
        """The gateway has taken an update; it is written with what follows at once."""
        self._came_at = int(self._clock())

    def went(self) -> None:
        """A reply stands in its chat, or never can."""
        self._went_at = int(self._clock())
        self._write()

    def _write(self) -> None:
        part = self._file.with_suffix(".part")
        with contextlib.suppress(OSError):  # a full tmpfs must not stop the messages
            part.write_text(
                f"answered_at={self._answered_at}\n"
                f"waiting={self._waiting}\nwaiting_since={self._waiting_since}\n"
                f"came_at={self._came_at}\nwent_at={self._went_at}\n",
                encoding="ascii",
            )
            part.replace(self._file)
