"""Carries out what is only decoration: reactions and deletions, one after the other, in no hurry.

It holds up nothing and nobody: it takes no chat's turn, is given up when Telegram does not want
it, and what is too much is forgotten.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from aiogram.exceptions import AiogramError, TelegramRetryAfter

from services.relay.telegram import REFUSALS

MOST_WAITING = 300
PAUSE_SECONDS = 0.1

DECORATION_SECONDS = 3
"""One call is given up after this long."""

Decoration = Callable[[], Awaitable[object]]


class Decorations:
    """A queue that lives as long as there is something in it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Decoration, Callable[[], None] | None]] = deque(
            maxlen=MOST_WAITING
        )
        self._task: asyncio.Task[None] | None = None

    def add(
        self,
        call: Decoration,
        failed: Callable[[], None] | None = None,
        *,
        is_first: bool = False,
    ) -> None:
        """Carry a call out in its turn, or before all others.

        `failed` is told if trying again later may help. A call that returns None did nothing.
        """
        if is_first:
            self._waiting.appendleft((call, failed))
        else:
            self._waiting.append((call, failed))
        if not self._task or self._task.done():
            self._task = asyncio.create_task(self._work())

    def stop(self) -> None:
        """Leave everything that waits undone."""
        if self._task:
            self._task.cancel()

    async def _work(self) -> None:
        while self._waiting:
            call, failed = self._waiting.popleft()
            pause = PAUSE_SECONDS
            try:
                if await call() is None:
                    continue
            except REFUSALS:
                pass  # the message is gone, or the chat does not want it
            except (AiogramError, OSError) as error:
                if failed:
                    failed()
                if isinstance(error, TelegramRetryAfter):
                    pause = error.retry_after
            await asyncio.sleep(pause)
