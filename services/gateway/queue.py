"""Which ask is answered next: first come, first served within a chat, fair between users.

Fairness is by tokens served, as in "Fairness in Serving Large Language Models" (Sheng et al.,
OSDI 2024): each user has a virtual counter that grows by what the engine spends on them, divided by
their weight, and the user with the lowest counter is served next. Who was idle is lifted to the
lowest counter of those who are not, or to that of whoever was served last, so that nobody saves up
credit. A free slot never idles while an ask may be served.

What happens with each ask or token costs the same however many wait: only a chat is looked through,
and heaps are put in order when they are read, since counters only grow.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeVar

from services.gateway.store import Ask, Chat

T = TypeVar("T")

OUTPUT_WEIGHT = 2
"""An output token costs the engine about as much as two of the prompt."""

TYPICAL_COST = 600.0
"""What an ask is taken to cost, in prompt tokens, where nothing is known of it yet."""


Rank = tuple[float, int, int, int]
"""A user's counter, when they had their last turn, and their next ask; lowest first. Between equals
it is the turn of whoever had theirs longest ago. And which user it is."""


class Running:
    """An ask that has left the queue.

    `stopped` is set when its user no longer wants it; `has_left`: the engine is done with it.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.stopped = asyncio.Event()
        self.has_left = False
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
        self._chats: dict[Chat, dict[int, None]] = {}
        """The asks of each chat that wait, in order."""
        self._busy: Counter[Chat] = Counter()
        """How many asks of a chat are being answered: two where a group has moved into another."""
        self._in_line: dict[Chat, list[int]] = {}
        """Whose asks of a chat are in line: nothing in it is before its documents are."""
        self._heads: dict[Chat, tuple[float, int, int]] = {}
        """The ask of each chat that is served next: when it is ripe, its number, its user."""
        self._ripening: list[tuple[float, int, Chat]] = []
        """A heap of heads, and of some that are none any more."""
        self._ripe: dict[int, set[int]] = {}
        """The heads of each user that may be served now."""
        self._line: list[Rank] = []
        """A heap of users by their next ask; each has a place that is not behind their own."""
        self._place: dict[int, Rank] = {}
        """Which of a user's places in the line is good."""
        self._active: Counter[int] = Counter()
        """How many asks of each user are in line or being answered."""
        self._least: list[tuple[float, int]] = []
        """A heap of active users by their counters, which were not higher."""
        self._is_in_least: set[int] = set()
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
        if not self._active[ask.user_id]:
            least = self._least_served()
            floor = self._last_served if least is None else least
            self._served[ask.user_id] = max(self._served.get(ask.user_id, 0.0), floor)
        before = self._waiting.get(ask.id, ask)
        self._waiting[ask.id] = ask
        self._ripe_at[ask.id] = asyncio.get_running_loop().time() + delay_seconds
        if before.chat != ask.chat:
            self._look_at_all()
        self._chats.setdefault(ask.chat, {})[ask.id] = None
        self._look_at(ask.chat)
        self._change()

    async def next(self) -> Running:
        """Wait for an ask that may be answered now, and take it."""
        while True:
            ripens = None
            if not self.is_paused:
                self._ripen(asyncio.get_running_loop().time())
                if ask := self._first():
                    return self._take(ask)
                ripens = self._ripening[0][0] if self._ripening else None
            self._changed.clear()
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
        self._turns += 1
        self._last_turn[ask.user_id] = self._turns
        running = self._running[ask.id] = Running(ask)
        self._busy[ask.chat] += 1
        self._activate(ask.user_id)
        self._remove(ask)
        self._change()
        return running

    def release(self, running: Running, incomplete: Ask | None = None) -> None:
        """The ask is answered, and its chat's next one may be served.

        `incomplete`: it is not; it waits as it is now, before those that came after it.
        """
        ask = self._running.pop(running.ask.id).ask
        _count_down(self._busy, ask.chat)
        _count_down(self._active, ask.user_id)
        if incomplete:
            self._waiting = dict(sorted({**self._waiting, incomplete.id: incomplete}.items()))
            self._ripe_at[incomplete.id] = asyncio.get_running_loop().time()
            self._look_at_all()
        else:
            self._look_at(ask.chat)
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
        least = self._least_served() or 0.0
        return max(0, int(self._served.get(user_id, 0.0) - least))

    def pause(self, is_paused: bool) -> None:
        """Give out no ask until this is called again with False."""
        self.is_paused = is_paused
        self._change()

    def withdraw(self, ask_id: int) -> None:
        """Forget an ask that waits, or stop it if it is being answered: it is closed already."""
        if ask := self._waiting.get(ask_id):
            self._remove(ask)
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
        self._look_at_all()
        self._change()

    def waiting(self) -> list[Ask]:
        """List the asks in line, in the order in which they are about to be served."""
        served = dict(self._served)
        for running in self._running.values():
            served[running.ask.user_id] += self._typical_cost(running.ask.user_id)
        turns = dict(self._last_turn)
        chats: dict[Chat, deque[Ask]] = {}
        for ask in self._asks_in_line():
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
        return [ask.id for ask in self._asks_in_line()]

    @property
    def running_count(self) -> int:
        """How many asks are being answered."""
        return len(self._running)

    def _asks_in_line(self) -> list[Ask]:
        """Those that are served in their turn, in the order of their arrival."""
        left = {chat: len(users) for chat, users in self._in_line.items()}
        asks = []
        for ask in self._waiting.values():
            if left.get(ask.chat, 0):
                left[ask.chat] -= 1
                asks.append(ask)
        return asks

    def _remove(self, ask: Ask) -> None:
        """It does not wait any more."""
        del self._waiting[ask.id], self._ripe_at[ask.id]
        of_chat = self._chats[ask.chat]
        del of_chat[ask.id]
        if not of_chat:
            del self._chats[ask.chat]
        self._look_at(ask.chat)

    def _look_at(self, chat: Chat) -> None:
        """Find out which asks of a chat are in line now, and which one may be served."""
        users: list[int] = []
        for ask_id in self._chats.get(chat, ()):
            if self._waiting[ask_id].lacks_document:
                break
            users.append(self._waiting[ask_id].user_id)
        for user_id in users:
            self._activate(user_id)
        for user_id in self._in_line.pop(chat, ()):
            _count_down(self._active, user_id)
        if users:
            self._in_line[chat] = users
        head = None
        if users and not self._busy[chat]:
            first = next(iter(self._chats[chat]))
            head = self._ripe_at[first], first, users[0]
        old = self._heads.get(chat)
        if head == old:
            return
        if old:
            del self._heads[chat]
            self._ripe.get(old[2], set()).discard(old[1])
        if head:
            self._heads[chat] = head
            heappush(self._ripening, (head[0], head[1], chat))

    def _look_at_all(self) -> None:
        """After what is rare: begin anew with what waits and what is being answered."""
        self._chats.clear()
        self._busy.clear()
        self._in_line.clear()
        self._heads.clear()
        self._ripening.clear()
        self._ripe.clear()
        self._line.clear()
        self._place.clear()
        self._active.clear()
        for running in self._running.values():
            self._busy[running.ask.chat] += 1
            self._activate(running.ask.user_id)
        for ask in self._waiting.values():
            self._chats.setdefault(ask.chat, {})[ask.id] = None
        for chat in self._chats:
            self._look_at(chat)

    def _ripen(self, now: float) -> None:
        """Put those in line whose delay is over."""
        while self._ripening and self._ripening[0][0] <= now:
            ripe_at, ask_id, chat = heappop(self._ripening)
            head = self._heads.get(chat)
            if head and head[:2] == (ripe_at, ask_id):
                user_id = head[2]
                self._ripe.setdefault(user_id, set()).add(ask_id)
                rank = self._rank(user_id)
                if self._place.get(user_id) != rank:
                    self._place[user_id] = rank
                    heappush(self._line, rank)

    def _first(self) -> Ask | None:
        """The ask that is to be served now; None if none may be."""
        while self._line:
            rank = self._line[0]
            *_, ask_id, user_id = rank
            if self._place.get(user_id) != rank:
                heappop(self._line)
            elif not self._ripe[user_id]:
                heappop(self._line)
                del self._place[user_id]
            elif rank == (now := self._rank(user_id)):
                return self._waiting[ask_id]
            else:
                heapreplace(self._line, now)
                self._place[user_id] = now
        return None

    def _rank(self, user_id: int) -> Rank:
        last_turn = self._last_turn.get(user_id, 0)
        return self._served[user_id], last_turn, min(self._ripe[user_id]), user_id

    def _activate(self, user_id: int) -> None:
        """One more ask of a user is in line, or being answered."""
        self._active[user_id] += 1
        if user_id not in self._is_in_least:
            self._is_in_least.add(user_id)
            heappush(self._least, (self._served[user_id], user_id))

    def _least_served(self) -> float | None:
        """The lowest counter of those who are active; None if nobody is."""
        while self._least:
            served, user_id = self._least[0]
            if not self._active[user_id]:
                heappop(self._least)
                self._is_in_least.remove(user_id)
            elif served == self._served[user_id]:
                return served
            else:
                heapreplace(self._least, (self._served[user_id], user_id))
        return None

    def _typical_cost(self, user_id: int) -> float:
        return TYPICAL_COST / self._weights.get(user_id, 1.0)

    def _change(self) -> None:
        self._changed.set()
        self.on_change()


def _count_down(counter: Counter[T], key: T) -> None:
    """One less; what comes to none is not kept."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
