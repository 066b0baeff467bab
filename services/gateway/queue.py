"""Which ask is answered next: first come, first served within a chat, fair between users.

Fairness is by tokens served, as in "Fairness in Serving Large Language Models" (Sheng et al.,
OSDI 2024): each user has a virtual counter that grows by what the engine spends on them, divided by
their weight, and the user with the lowest counter is served next. Who was idle is lifted to the
lowest counter of those who are not, or to that of whoever was served last, so that nobody saves up
credit. A free slot never idles while an ask may be served.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush

from services.gateway.store import Ask, Chat

OUTPUT_WEIGHT = 2
"""An output token costs the engine about as much as two of the prompt."""

TYPICAL_COST = 600.0
"""What an ask is taken to cost, in prompt tokens, where nothing is known of it yet."""


class Running:
    """An ask that has left the queue.

    `stopped` is set when its user no longer wants it, `left` when the engine is done with it.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.stopped = asyncio.Event()
        self.left = asyncio.Event()
        if ask.state == "stopping":
            self.stopped.set()


class Queue:
    """The waiting asks, and those that are being answered."""

    def __init__(
        self,
        weights: Mapping[int, float] | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`weights`: shares of users in the engine's time relative to the others' 1."""
        self._weights = weights or {}
        self._waiting: dict[int, Ask] = {}
        self._ripe_at: dict[int, float] = {}
        self._running: dict[int, Running] = {}
        self._served: dict[int, float] = {}
        self._last_served = 0.0
        self._last_turn: dict[int, int] = {}
        self._turns = 0
        self._changed = asyncio.Event()
        self.on_change = on_change
        self.is_paused = False
        self.answer_tokens = 0
        """Charged since the start, to all users."""

    def put(self, ask: Ask, delay_seconds: float = 0.0) -> None:
        """Let an ask wait for its turn, which does not come before the delay is over.

        One that lacks its document is not in line: it only keeps its chat's order.

        Putting an ask that waits already only gives it another delay.
        """
        if ask.id in self._running:
            return
        active = self._active_users()
        if ask.user_id not in active:
            floor = min((self._served[user] for user in active), default=self._last_served)
            self._served[ask.user_id] = max(self._served.get(ask.user_id, 0.0), floor)
        self._waiting[ask.id] = ask
        self._ripe_at[ask.id] = asyncio.get_running_loop().time() + delay_seconds
        self._change()

    async def next(self) -> Running:
        """Wait for an ask that may be answered now, and take it."""
        while True:
            now = asyncio.get_running_loop().time()
            heads = [] if self.is_paused else self._heads()
            ripe = [ask for ask in heads if self._ripe_at[ask.id] <= now]
            if ripe:
                return self._take(min(ripe, key=self._precedence))
            self._changed.clear()
            ripens = min((self._ripe_at[ask.id] for ask in heads), default=None)
            try:
                async with asyncio.timeout_at(ripens):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until this holds of the queue."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _take(self, ask: Ask) -> Running:
        del self._waiting[ask.id], self._ripe_at[ask.id]
        self._turns += 1
        self._last_turn[ask.user_id] = self._turns
        running = self._running[ask.id] = Running(ask)
        self._change()
        return running

    def release(self, running: Running, incomplete: Ask | None = None) -> None:
        """The ask is answered, and its chat's next one may be served.

        `incomplete`: it is not; it waits as it is now, before those that came after it.
        """
        del self._running[running.ask.id]
        if incomplete:
            self._waiting = dict(sorted({**self._waiting, incomplete.id: incomplete}.items()))
            self._ripe_at[incomplete.id] = asyncio.get_running_loop().time()
        self._last_served = self._served[running.ask.user_id]
        self._change()

    def charge(self, user_id: int, prompt_tokens: int = 0, answer_tokens: int = 0) -> None:
        """Note what the engine spends on a user."""
        self.answer_tokens += answer_tokens
        cost = (prompt_tokens + OUTPUT_WEIGHT * answer_tokens) / self._weights.get(user_id, 1.0)
        self._served[user_id] = self._served.get(user_id, 0.0) + cost

    def priority(self, user_id: int) -> int:
        """Say how far a user is ahead of the one served least: an engine serves the lowest first.

        It matters where the engine itself must choose, as when its cache is too small for all.
        """
        least = min((self._served[user] for user in self._active_users()), default=0.0)
        return max(0, int(self._served.get(user_id, 0.0) - least))

    def pause(self, is_paused: bool) -> None:
        """Give out no ask until this is called again with False."""
        self.is_paused = is_paused
        self._change()

    def withdraw(self, ask_id: int) -> None:
        """Forget an ask that waits, or stop it if it is being answered: it is closed already."""
        if self._waiting.pop(ask_id, None):
            del self._ripe_at[ask_id]
            self._change()
        self.stop(ask_id)

    def stop(self, ask_id: int) -> None:
        """Tell whoever answers the ask that it is not wanted any more."""
        if running := self._running.get(ask_id):
            running.stopped.set()

    def abandon(self, reply_id: int) -> None:
        """Stop the ask whose reply can never be shown."""
        asks = [*self._waiting.values(), *(running.ask for running in self._running.values())]
        for ask in [ask for ask in asks if ask.reply_id == reply_id]:
            self.withdraw(ask.id)

    def move_chat(self, old_id: int, new_id: int) -> None:
        """A group has another id now: its asks, and those that come, are of one chat."""
        for ask in [ask for ask in self._waiting.values() if ask.chat_id == old_id]:
            self._waiting[ask.id] = replace(ask, chat_id=new_id)
        for running in self._running.values():
            if running.ask.chat_id == old_id:
                running.ask = replace(running.ask, chat_id=new_id)
        self._change()

    def waiting(self) -> list[Ask]:
        """List the asks in line, in the order in which they are about to be served."""
        served = dict(self._served)
        for running in self._running.values():
            served[running.ask.user_id] += self._typical_cost(running.ask.user_id)
        turns = dict(self._last_turn)
        chats: dict[Chat, deque[Ask]] = {}
        for ask in self._in_line():
            chats.setdefault(ask.chat, deque()).append(ask)
        heads: dict[int, list[int]] = {}
        for asks in chats.values():
            heads.setdefault(asks[0].user_id, []).append(asks[0].id)

        def precedence(user_id: int) -> tuple[float, int, int, int]:
            return served[user_id], turns.get(user_id, 0), heads[user_id][0], user_id

        for ids in heads.values():
            heapify(ids)
        line = [precedence(user_id) for user_id in heads]
        heapify(line)
        order: list[Ask] = []
        while line:
            entry = heappop(line)
            user_id = entry[-1]
            if not heads[user_id] or entry != precedence(user_id):
                continue  # it is out of date, and a newer one is in line
            ask = self._waiting[heappop(heads[user_id])]
            order.append(ask)
            served[user_id] += self._typical_cost(user_id)
            turns[user_id] = self._turns + len(order)
            asks = chats[ask.chat]
            asks.popleft()
            changed = {user_id}
            if asks:
                heappush(heads.setdefault(asks[0].user_id, []), asks[0].id)
                changed.add(asks[0].user_id)
            for user_id in changed:
                if heads[user_id]:
                    heappush(line, precedence(user_id))
        return order

    @property
    def waiting_ids(self) -> list[int]:
        """The asks in line, in the order of their arrival."""
        return [ask.id for ask in self._in_line()]

    @property
    def running_count(self) -> int:
        """How many asks are being answered."""
        return len(self._running)

    def _in_line(self) -> list[Ask]:
        """Those that are served in their turn: nothing in a chat is before its documents are."""
        blocked: set[Chat] = set()
        asks = []
        for ask in self._waiting.values():
            if ask.lacks_document:
                blocked.add(ask.chat)
            elif ask.chat not in blocked:
                asks.append(ask)
        return asks

    def _heads(self) -> list[Ask]:
        """The first ask of each chat in which none is being answered, unless it is incomplete."""
        busy = {running.ask.chat for running in self._running.values()}
        heads: list[Ask] = []
        for ask in self._waiting.values():
            if ask.chat not in busy:
                busy.add(ask.chat)
                if not ask.lacks_document:
                    heads.append(ask)
        return heads

    def _precedence(self, ask: Ask) -> tuple[float, int, int]:
        """Lowest first; between equals it is the turn of whoever had theirs longest ago."""
        return self._served[ask.user_id], self._last_turn.get(ask.user_id, 0), ask.id

    def _typical_cost(self, user_id: int) -> float:
        return TYPICAL_COST / self._weights.get(user_id, 1.0)

    def _active_users(self) -> set[int]:
        return {ask.user_id for ask in self._in_line()} | {
            running.ask.user_id for running in self._running.values()
        }

    def _change(self) -> None:
        self._changed.set()
        self.on_change()
