"""Which ask is answered next: first come, first served within a chat, fair between users.

Fairness is by tokens served, as in "Fairness in Serving Large Language Models" (Sheng et al.,
OSDI 2024): each user has a virtual counter that grows by what the engine spends on them, and the
user with the lowest counter is served next. Who was idle is lifted to the lowest counter of those
who are not, so that nobody saves up credit. A free slot never idles while an ask may be served.
"""

import asyncio
from collections.abc import Callable

from services.gateway.store import Ask

OUTPUT_WEIGHT = 2
"""An output token costs the engine about as much as two of the prompt."""


class Running:
    """An ask that has left the queue; `stopped` is set when its user no longer wants it."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.stopped = asyncio.Event()
        if ask.state == "stopping":
            self.stopped.set()


class Queue:
    """The waiting asks, and those that are being answered."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._waiting: dict[int, Ask] = {}
        self._running: dict[int, Running] = {}
        self._served: dict[int, float] = {}
        self._last_turn: dict[int, int] = {}
        self._turns = 0
        self._changed = asyncio.Event()
        self.on_change = on_change

    def put(self, ask: Ask) -> None:
        """Let an ask wait for its turn."""
        if not self._is_active(ask.user_id):
            active = [self._served[user] for user in self._active_users()]
            self._served[ask.user_id] = max(
                self._served.get(ask.user_id, 0.0), min(active, default=0.0)
            )
        self._waiting[ask.id] = ask
        self._change()

    async def next(self) -> Running:
        """Wait for an ask that may be answered now, and take it."""
        while True:
            ask = self._choose()
            if ask:
                del self._waiting[ask.id]
                self._turns += 1
                self._last_turn[ask.user_id] = self._turns
                running = self._running[ask.id] = Running(ask)
                self._change()
                return running
            self._changed.clear()
            await self._changed.wait()

    def release(self, running: Running) -> None:
        """The ask is answered; its chat's next one may be served."""
        del self._running[running.ask.id]
        self._change()

    def charge(self, user_id: int, prompt_tokens: int = 0, answer_tokens: int = 0) -> None:
        """Note what the engine spends on a user."""
        self._served[user_id] = (
            self._served.get(user_id, 0.0) + prompt_tokens + OUTPUT_WEIGHT * answer_tokens
        )

    def withdraw(self, ask_id: int) -> None:
        """Forget an ask that waits: it is closed already."""
        if self._waiting.pop(ask_id, None):
            self._change()

    def stop(self, ask_id: int) -> None:
        """Tell whoever answers the ask that it is not wanted any more."""
        if running := self._running.get(ask_id):
            running.stopped.set()

    def abandon(self, reply_id: int) -> None:
        """Stop the ask whose reply can never be shown."""
        for running in self._running.values():
            if running.ask.reply_id == reply_id:
                running.stopped.set()
        for ask in [ask for ask in self._waiting.values() if ask.reply_id == reply_id]:
            self.withdraw(ask.id)

    def waiting(self) -> list[Ask]:
        """List the asks that wait, in the order of their arrival."""
        return list(self._waiting.values())

    @property
    def running_count(self) -> int:
        """How many asks are being answered."""
        return len(self._running)

    def _choose(self) -> Ask | None:
        busy = {_chat(running.ask) for running in self._running.values()}
        heads: list[Ask] = []
        for ask in self._waiting.values():
            if _chat(ask) not in busy:
                busy.add(_chat(ask))
                heads.append(ask)
        return min(heads, key=self._precedence, default=None)

    def _precedence(self, ask: Ask) -> tuple[float, int, int]:
        """Lowest first; between equals it is the turn of whoever had theirs longest ago."""
        return self._served[ask.user_id], self._last_turn.get(ask.user_id, 0), ask.id

    def _is_active(self, user_id: int) -> bool:
        return user_id in self._active_users()

    def _active_users(self) -> set[int]:
        return {ask.user_id for ask in self._waiting.values()} | {
            running.ask.user_id for running in self._running.values()
        }

    def _change(self) -> None:
        self._changed.set()
        self.on_change()


def _chat(ask: Ask) -> tuple[int, int]:
    return ask.chat_id, ask.thread_id
