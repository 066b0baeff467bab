"""Whatever happens in whatever order, crashes included: every ask ends in exactly one reply.

Drives inbox, store and outbox beside a model of what users and the relay have seen.
"""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox, StaleEpoch, UnknownReply
from services.gateway.queue import Queue
from services.gateway.store import Ask, Checkpoint, Store, Usage
from services.wire import Batch, Hello, Opened
from tests.unit.fakes import KEY, message, press, put_menu

USERS = st.sampled_from([7, 8])
LIMITS = Limits(user_asks=4, total_asks=6, ask_tokens=500)


@dataclass
class Seen:
    """What the model knows of a reply."""

    chat: int
    closed: bool = False
    parts: list[int] = field(default_factory=list)


class GatewayStates(RuleBasedStateMachine):
    """One gateway, which may die at any time, one relay, two users."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.sent: list[dict[str, Any]] = []
        self.open: dict[int, tuple[int, str]] = {}
        """Asks that are to be answered: their user and text, by id."""
        self.taken: dict[int, tuple[Ask, str]] = {}
        self.stopping: set[int] = set()
        self.saved: dict[int, str] = {}
        self.asked_in: dict[int, int] = {}
        self.replies: dict[int, Seen] = {}
        self.settled: set[int] = set()
        self.turns: dict[int, list[str]] = {7: [], 8: []}
        self.conversations: dict[int, int] = {7: 0, 8: 0}
        self.tokens: dict[int, int] = {7: 0, 8: 0}
        self.epoch = 0
        self.messages = 100
        self.start()

    def start(self) -> None:
        self.store = Store(Path(self.directory.name, "store.db"), KEY)
        self.store._db.execute("PRAGMA synchronous = OFF")  # no power fails here
        self.store.requeue_asks()
        self.outbox = Outbox(self.store, self.store.undelivered_replies(), self.store.guests())
        self.queue = Queue()
        access = Access(self.store, frozenset({7, 8}))
        self.inbox = Inbox(self.store, self.queue, self.outbox, access, LIMITS)
        for ask in self.store.asks():
            self.runner.run(self._put(ask))

    async def _put(self, ask: Ask) -> None:
        self.queue.put(ask)

    def teardown(self) -> None:
        self.store.close()
        self.runner.close()
        self.directory.cleanup()

    # Users

    def deliver(self, *updates: dict[str, Any]) -> list[str]:
        batch = Batch(bot_id=1, updates=list(updates))
        receipts = self.runner.run(self.inbox.accept(batch)).receipts
        known = set(self.replies) | self.settled
        for reply in self.store.undelivered_replies():
            if reply.id not in known:
                self.replies[reply.id] = Seen(reply.chat_id, reply.closed, list(reply.parts))
        return [receipt.outcome for receipt in receipts]

    @rule(user=USERS)
    def ask(self, user: int) -> None:
        text = f"question {len(self.sent)}"
        update = message(len(self.sent) + 1, text, user_id=user, chat_id=user)
        of_user = sum(owner == user for owner, _ in self.open.values())
        is_room = of_user < LIMITS.user_asks and len(self.open) < LIMITS.total_asks

        outcome = self.deliver(update)

        self.sent.append(update)
        assert outcome == ["accepted" if is_room else "refused"]
        if is_room:
            newest = self.store.asks()[-1]
            assert newest.text == text
            self.open[newest.id] = (user, text)
            self.asked_in[newest.id] = self.conversations[user]

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def telegram_delivers_again(self, data: st.DataObject) -> None:
        count = len(self.replies)
        update = data.draw(st.sampled_from(self.sent))
        assert self.deliver(update, update) == ["duplicate", "duplicate"]
        assert len(self.replies) == count

    @rule(user=USERS)
    def stop(self, user: int) -> None:
        update = message(len(self.sent) + 1, "/stop", user_id=user, chat_id=user)
        self.deliver(update)
        self.sent.append(update)
        for ask_id in [ask_id for ask_id, (owner, _) in self.open.items() if owner == user]:
            if ask_id in self.taken or ask_id in self.stopping:
                self.stopping.add(ask_id)  # closed by its worker, now or after the next start
            else:
                _, text = self.open.pop(ask_id)
                said = self._charge_saved(user, ask_id)  # by a process that has died
                if said and self.asked_in[ask_id] == self.conversations[user]:
                    self.turns[user] += [text, said]
        self._note_closed()

    def _charge_saved(self, user: int, ask_id: int) -> str:
        said = self.saved.get(ask_id, "")
        self.tokens[user] += len(said)
        return said

    @rule(user=USERS, text=st.sampled_from(["/new", "/forget"]))
    def forget(self, user: int, text: str) -> None:
        number = len(self.sent) + 1
        where = {"user_id": user, "chat_id": user}
        update = message(number, text, **where)
        if text == "/forget":
            menu = 10**6 + number
            update = press(number, "forget", message_id=menu, **where)
            put_menu(self.store, menu, user, user)
        self.deliver(update)
        self.sent.append(update)
        self.turns[user] = []
        self.conversations[user] += 1
        if text == "/forget":
            for ask_id in [ask_id for ask_id, (owner, _) in self.open.items() if owner == user]:
                del self.open[ask_id]
                if ask_id not in self.taken and ask_id not in self.stopping:
                    self._charge_saved(user, ask_id)
            self._note_closed()

    # Workers

    @precondition(lambda self: self.queue.waiting_ids)
    @rule()
    def take(self) -> None:
        async def take_next() -> tuple[Ask, str] | None:
            try:
                async with asyncio.timeout(0.001):
                    running = await self.queue.next()
            except TimeoutError:
                return None
            return self.store.take_ask(running.ask.id)

        taken = self.runner.run(take_next())
        if taken:
            assert taken[0].id in self.open
            self.taken[taken[0].id] = taken

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), tokens=st.integers(min_value=1, max_value=9))
    def save(self, data: st.DataObject, tokens: int) -> None:
        ask, said = self.taken[data.draw(st.sampled_from(sorted(self.taken)))]
        text = said + "x" * tokens
        self.store.save([Checkpoint(ask.id, ask.reply_id, text, Usage(1, len(text), 1))])
        if ask.id in self.open:
            self.taken[ask.id] = (ask, text)
            self.saved[ask.id] = text

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ask, said = self.taken.pop(data.draw(st.sampled_from(sorted(self.taken))))
        answer = f"{said}answer to {ask.id}"

        following = self.store.finish_ask(ask, answer, answer, Usage(1, len(answer), 1))
        is_wanted = following is not None

        self.tokens[ask.user_id] += len(answer)
        assert is_wanted == (ask.id in self.open)
        if is_wanted:
            self.outbox.close(ask.reply_id, answer)
            del self.open[ask.id]
            if ask.conversation == self.conversations[ask.user_id]:
                self.turns[ask.user_id] += [ask.text, answer]
        for running in list(self.queue._running.values()):
            if running.ask.id == ask.id:
                self.queue.release(running)
        self._note_closed()

    def _note_closed(self) -> None:
        for reply in self.store.undelivered_replies():
            assert not (self.replies[reply.id].closed and not reply.closed)
            self.replies[reply.id].closed = reply.closed

    # The relay

    @rule()
    def connect(self) -> None:
        async def snapshot() -> tuple[Hello, list[Opened]]:
            stream = self.outbox.stream()
            hello = await anext(stream)
            assert isinstance(hello, Hello)
            opened = [await anext(stream) for _ in hello.undelivered]
            return hello, [event for event in opened if isinstance(event, Opened)]

        hello, opened = self.runner.run(snapshot())

        assert hello.epoch > self.epoch
        self.epoch = hello.epoch
        assert {event.reply.id for event in opened} == set(hello.undelivered)
        for event in opened:
            assert list(event.reply.parts) == self.replies[event.reply.id].parts

    @precondition(lambda self: self.replies)
    @rule(data=st.data(), is_current=st.booleans())
    def record_part(self, data: st.DataObject, is_current: bool) -> None:
        reply_id = data.draw(st.sampled_from(sorted(self.replies)))
        position = len(self.replies[reply_id].parts)
        self.messages += 1
        epoch = self.epoch if is_current else self.epoch - 1
        is_known = self.outbox._epoch == epoch
        try:
            self.runner.run(self.outbox.record_part(epoch, reply_id, position, self.messages))
        except StaleEpoch:
            assert not is_known
        else:
            assert is_known
            self.replies[reply_id].parts.append(self.messages)

    @precondition(lambda self: self.replies)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        reply_id = data.draw(st.sampled_from(sorted(self.replies)))
        if not self.replies[reply_id].closed:
            return  # a relay settles what is complete, or can never be shown
        try:
            self.runner.run(self.outbox.drop(self.epoch, reply_id))
        except StaleEpoch:
            assert self.outbox._epoch != self.epoch
            return
        del self.replies[reply_id]
        self.settled.add(reply_id)
        try:
            self.outbox.claim(self.epoch, reply_id)
        except UnknownReply:
            return
        raise AssertionError("a settled reply can still be written")

    # Crashes

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.taken.clear()
        self.start()

    @invariant()
    def every_ask_has_one_reply(self) -> None:
        asks = {ask.id: ask for ask in self.store.asks()}
        assert {ask_id: (ask.user_id, ask.text) for ask_id, ask in asks.items()} == {
            ask_id: self.open[ask_id] for ask_id in self.open
        }
        replies = {reply.id: reply for reply in self.store.undelivered_replies()}
        assert set(replies) == set(self.replies) == set(self.outbox._entries)
        for ask in asks.values():
            assert not replies[ask.reply_id].closed
        unanswered = [reply.id for reply in replies.values() if not reply.closed]
        assert sorted(unanswered) == sorted(ask.reply_id for ask in asks.values())

    @invariant()
    def memory_is_what_was_answered(self) -> None:
        for user, turns in self.turns.items():
            stored = self.store.latest_turns((user, 0), 999)
            assert [turn.text for turn in stored] == turns

    @invariant()
    def cost_is_counted_once(self) -> None:
        counted = dict.fromkeys(self.tokens, 0)
        for row in self.store.usage(1):
            counted[row.user_id] += row.usage.answer_tokens
        assert counted == self.tokens


TestGatewayStates = GatewayStates.TestCase
TestGatewayStates.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
