"""The queue's heaps and counters give the order that the plain rules give, looked up one by one."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.gateway.queue import OUTPUT_WEIGHT, TYPICAL_COST, Queue, Running
from services.gateway.store import Ask, Chat

USERS = st.integers(min_value=1, max_value=4)
GROUPS = st.sampled_from([0, -1, -2])
"""0: the user's own chat."""
WEIGHTS = {1: 2.0}


@dataclass
class Rules:
    """Who is served next, found by looking at everybody."""

    waiting: dict[int, Ask] = field(default_factory=dict)
    ripe_at: dict[int, float] = field(default_factory=dict)
    running: dict[int, Ask] = field(default_factory=dict)
    served: dict[int, float] = field(default_factory=dict)
    last_served: float = 0.0
    last_turn: dict[int, int] = field(default_factory=dict)
    turns: int = 0

    def in_line(self) -> list[Ask]:
        blocked: set[Chat] = set()
        asks = []
        for ask in self.waiting.values():
            if ask.lacks_document:
                blocked.add(ask.chat)
            elif ask.chat not in blocked:
                asks.append(ask)
        return asks

    def active(self) -> set[int]:
        return {ask.user_id for ask in (*self.in_line(), *self.running.values())}

    def put(self, ask: Ask, ripe_at: float) -> None:
        active = self.active()
        if ask.user_id not in active:
            floor = min((self.served[user] for user in active), default=self.last_served)
            self.served[ask.user_id] = max(self.served.get(ask.user_id, 0.0), floor)
        self.waiting[ask.id], self.ripe_at[ask.id] = ask, ripe_at

    def next(self, now: float) -> int | None:
        busy = {ask.chat for ask in self.running.values()}
        heads = []
        for ask in self.waiting.values():
            if ask.chat not in busy:
                busy.add(ask.chat)
                if not ask.lacks_document and self.ripe_at[ask.id] <= now:
                    heads.append(ask)
        if not heads:
            return None
        ask = min(heads, key=self.precedence)
        self.turns += 1
        self.last_turn[ask.user_id] = self.turns
        self.running[ask.id] = self.waiting.pop(ask.id)
        return ask.id

    def precedence(self, ask: Ask) -> tuple[float, int, int]:
        return self.served[ask.user_id], self.last_turn.get(ask.user_id, 0), ask.id

    def release(self, ask_id: int, incomplete: Ask | None, now: float) -> None:
        ask = self.running.pop(ask_id)
        if incomplete:
            self.waiting = dict(sorted({**self.waiting, ask_id: incomplete}.items()))
            self.ripe_at[ask_id] = now
        self.last_served = self.served[ask.user_id]

    def charge(self, user: int, cost: float) -> None:
        self.served[user] = self.served.get(user, 0.0) + cost / WEIGHTS.get(user, 1.0)

    def priority(self, user: int) -> int:
        least = min((self.served[user] for user in self.active()), default=0.0)
        return max(0, int(self.served.get(user, 0.0) - least))

    def move(self, old: int, new: int) -> None:
        for asks in (self.waiting, self.running):
            for ask in [ask for ask in asks.values() if ask.chat_id == old]:
                asks[ask.id] = replace(ask, chat_id=new)

    def order(self) -> list[int]:
        """Play the next turns, if each ask costs the same."""
        ahead = Rules(served=dict(self.served), last_turn=dict(self.last_turn))
        for ask in self.running.values():
            ahead.charge(ask.user_id, TYPICAL_COST)
        left, order = self.in_line(), list[int]()
        while left:
            heads = {ask.chat: ask for ask in reversed(left)}
            ask = min(heads.values(), key=ahead.precedence)
            left.remove(ask)
            order.append(ask.id)
            ahead.charge(ask.user_id, TYPICAL_COST)
            ahead.last_turn[ask.user_id] = self.turns + len(order)
        return order


class QueueOrder(RuleBasedStateMachine):
    """Does the same to the queue and to the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = 0.0
        self.runner.get_loop().time = lambda: self.now  # type: ignore[method-assign]  # our clock
        self.queue = Queue(WEIGHTS)
        self.plain = Rules()
        self.running: dict[int, Running] = {}
        self.asks = 0

    def teardown(self) -> None:
        self.runner.close()

    def _in_loop(self, work: Any, *arguments: Any) -> None:
        async def call() -> None:
            work(*arguments)

        self.runner.run(call())

    def _put(self, ask: Ask, delay: float) -> None:
        self._in_loop(self.queue.put, ask, delay)
        self.plain.put(ask, self.now + delay)

    def ask(self, user: int, group: int, delay: float, *, lacks: bool) -> None:
        self.asks += 1
        number = self.asks
        chat = group or user
        ask = Ask(number, number, user, chat, 0, number, 0, "en", "waiting", 0.0)
        self._put(replace(ask, lacks_document=lacks), delay)

    @rule(user=USERS, group=GROUPS, delay=st.sampled_from([0, 2]), lacks=st.booleans())
    def ask_for_later(self, user: int, group: int, delay: float, lacks: bool) -> None:
        self.ask(user, group, delay, lacks=lacks)

    @precondition(lambda self: self.plain.waiting)
    @rule(data=st.data(), delay=st.sampled_from([0, 2]), lacks=st.booleans())
    def change(self, data: st.DataObject, delay: float, lacks: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.plain.waiting)))
        self._put(replace(self.plain.waiting[number], lacks_document=lacks), delay)

    @rule(tokens=st.lists(st.integers(0, 300), min_size=2, max_size=6))
    def serve(self, tokens: list[int]) -> None:
        """Answer one after the other."""
        for count in tokens:
            if running := self.take_next():
                del self.running[running.ask.id]
                self.charge(running.ask.user_id, count)
                self._in_loop(self.queue.release, running)
                self.plain.release(running.ask.id, None, self.now)

    @rule(asks=st.lists(st.tuples(USERS, GROUPS), min_size=3, max_size=6))
    def ask_at_once(self, asks: list[tuple[int, int]]) -> None:
        for user, group in asks:
            self.ask(user, group, 0, lacks=False)

    @rule()
    def take(self) -> None:
        self.take_next()

    def take_next(self) -> Running | None:
        async def take() -> Running | None:
            taking = asyncio.create_task(self.queue.next())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if taking.done():
                return taking.result()
            taking.cancel()
            return None

        running = self.runner.run(take())

        assert (running.ask.id if running else None) == self.plain.next(self.now)
        if running:
            self.running[running.ask.id] = running
        return running

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(0, 300), is_incomplete=st.booleans())
    def release(self, data: st.DataObject, tokens: int, is_incomplete: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        running = self.running.pop(number)
        self.charge(running.ask.user_id, tokens)
        incomplete = running.ask if is_incomplete and number % 4 == 0 else None
        self._in_loop(self.queue.release, running, incomplete)
        self.plain.release(number, incomplete, self.now)

    @rule(user=USERS, tokens=st.integers(0, 300))
    def charge(self, user: int, tokens: int) -> None:
        self.queue.charge(user, prompt_tokens=5, answer_tokens=tokens)
        self.plain.charge(user, 5 + OUTPUT_WEIGHT * tokens)

    @precondition(lambda self: self.plain.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.plain.waiting)))
        self.queue.withdraw(number)
        del self.plain.waiting[number]

    @rule(old=st.sampled_from([-1, -2]), new=st.sampled_from([-1, -2, -3]))
    def move(self, old: int, new: int) -> None:
        self.queue.move_chat(old, new)
        self.plain.move(old, new)

    @rule(user=USERS, is_shared=st.booleans())
    def ask_and_withdraw(self, user: int, is_shared: bool) -> None:
        """Withdraw what stands first, while the same chat's next one waits."""
        for _ in range(2):
            self.ask(user, -1 if is_shared else 0, 0, lacks=False)
        first = min(self.plain.waiting)
        self.queue.withdraw(first)
        del self.plain.waiting[first]

    @rule()
    def wait(self) -> None:
        self.now += 1.5

    @rule()
    def look_at_the_order(self) -> None:
        assert self.queue.waiting_ids == [ask.id for ask in self.plain.in_line()]
        assert [ask.id for ask in self.queue.waiting()] == self.plain.order()

    @invariant()
    def tells_the_engine_what_the_rules_say(self) -> None:
        for user in range(1, 5):
            assert self.queue.priority(user) == self.plain.priority(user)


TestQueueOrder = QueueOrder.TestCase
TestQueueOrder.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
