"""Whatever happens in whatever order: the queue keeps order, idles never, forgets none."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.gateway.queue import Queue, Running
from services.gateway.store import Ask

USERS = st.integers(min_value=1, max_value=4)
TOPICS = st.integers(min_value=0, max_value=2)


class QueueStates(RuleBasedStateMachine):
    """Drives a queue beside a model: the asks that wait by chat, and those that run."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.queue = Queue({1: 2.0})
        self.waiting: dict[tuple[int, int], list[int]] = {}
        self.running: dict[int, Running] = {}
        self.stopped: set[int] = set()
        self.asks = 0

    def teardown(self) -> None:
        self.runner.close()

    async def _put(self, ask: Ask) -> None:
        self.queue.put(ask)

    async def _try_next(self) -> Running | None:
        taking = asyncio.create_task(self.queue.next())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if taking.done():
            return taking.result()
        taking.cancel()
        return None

    @rule(user=USERS, topic=TOPICS)
    def put(self, user: int, topic: int) -> None:
        self.asks += 1
        ask = Ask(self.asks, self.asks, user, user, topic, self.asks, 0, "en", "waiting", 0.0)
        self.runner.run(self._put(ask))
        self.waiting.setdefault((user, topic), []).append(ask.id)

    @rule()
    def take(self) -> None:
        busy = {running.ask.chat for running in self.running.values()}
        heads = {ids[0] for chat, ids in self.waiting.items() if ids and chat not in busy}

        running = self.runner.run(self._try_next())

        assert (running is not None) == bool(heads), "a slot idles, or serves nobody's turn"
        if running:
            assert running.ask.id in heads, "out of order"
            self.waiting[running.ask.chat].remove(running.ask.id)
            self.running[running.ask.id] = running

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(min_value=0, max_value=500))
    def finish(self, data: st.DataObject, tokens: int) -> None:
        ask_id = data.draw(st.sampled_from(sorted(self.running)))
        running = self.running.pop(ask_id)
        self.queue.charge(running.ask.user_id, prompt_tokens=7, answer_tokens=tokens)
        self.queue.release(running)

    @precondition(lambda self: self.asks)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ask_id = data.draw(st.integers(min_value=1, max_value=self.asks))
        self.queue.withdraw(ask_id)
        self._is_gone(ask_id)

    @precondition(lambda self: self.asks)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        reply_id = data.draw(st.integers(min_value=1, max_value=self.asks))
        self.queue.abandon(reply_id)
        self._is_gone(reply_id)

    def _is_gone(self, ask_id: int) -> None:
        for ids in self.waiting.values():
            if ask_id in ids:
                ids.remove(ask_id)
        if ask_id in self.running:
            self.stopped.add(ask_id)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        expected = sorted(ask_id for ids in self.waiting.values() for ask_id in ids)
        assert sorted(self.queue.waiting_ids) == expected
        assert sorted(ask.id for ask in self.queue.waiting()) == expected

    @invariant()
    def one_runs_in_a_chat(self) -> None:
        chats = [running.ask.chat for running in self.running.values()]
        assert len(chats) == len(set(chats))
        assert self.queue.running_count == len(self.running)

    @invariant()
    def stop_reaches_what_runs(self) -> None:
        for ask_id, running in self.running.items():
            assert running.stopped.is_set() == (ask_id in self.stopped)


TestQueueStates = QueueStates.TestCase
TestQueueStates.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
