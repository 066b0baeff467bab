"""Owns the queue of updates and getUpdates: offsets, confirmation, long polling, conflicts."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.stubs.telegram.budgets import Limits
from tests.stubs.telegram.errors import BotApiError, ControlError
from tests.stubs.telegram.record import Record

KINDS = (
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "inline_query",
    "chosen_inline_result",
    "callback_query",
    "shipping_query",
    "pre_checkout_query",
    "poll",
    "poll_answer",
    "my_chat_member",
    "chat_member",
    "chat_join_request",
    "chat_boost",
    "removed_chat_boost",
    "message_reaction",
    "message_reaction_count",
    "business_connection",
    "business_message",
    "edited_business_message",
    "deleted_business_messages",
    "purchased_paid_media",
    "managed_bot",
    "guest_message",
    "subscription",
    "stopped_message_generation",
)
DEFAULT_KINDS = frozenset(KINDS) - {"chat_member", "message_reaction", "message_reaction_count"}
# Seconds after which an update nobody fetched is gone, where that is not a message's 24 hours.
_SHORT_LIVED = {
    "inline_query": 30.0,
    "chosen_inline_result": 600.0,
    "shipping_query": 150.0,
    "pre_checkout_query": 150.0,
}
_MAX_TIMEOUT = 50
_ANSWER_BYTES = 1 << 22
_FUTURE_SLACK = 10
# An arriving update waits this long for others to share its answer, as on the real server.
_WAKE_AFTER = 0.001
_WAKE_AT_MOST = 0.002
OTHER_POLLER = (
    "Conflict: terminated by other getUpdates request; make sure that only one bot instance is "
    "running"
)
WEBHOOK_SET = "Conflict: terminated by setWebhook request"
WEBHOOK_ACTIVE = (
    "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete "
    "the webhook first"
)


@dataclass
class Pending:
    """An update that no later offset has confirmed yet."""

    number: int
    kind: str
    encoded: str
    expires_at: float
    deliveries: int = 0


@dataclass
class _Waiting:
    future: asyncio.Future[list[Pending]]
    offset: int
    limit: int
    deadline: float
    timer: asyncio.TimerHandle
    woken_by: float | None = None


class UpdateQueue:
    """Updates in order of their ids, given out again and again until confirmed."""

    def __init__(
        self,
        limits: Callable[[], Limits],
        clock: Callable[[], float],
        record: Record,
        next_number: int,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._record = record
        self._pending: deque[Pending] = deque()
        self._confirmed: deque[Pending] = deque(maxlen=100)
        self._next = next_number
        self._waiting: _Waiting | None = None
        self._allowed = DEFAULT_KINDS
        self._offset = 0
        self._started = float("-inf")
        self._next_conflict = float("-inf")

    @property
    def next_number(self) -> int:
        """The id that the next update gets."""
        return self._next

    @property
    def has_poller(self) -> bool:
        """Whether a getUpdates call is waiting."""
        return self._waiting is not None

    @property
    def offset(self) -> int:
        """The offset of the last getUpdates call, as asked."""
        return self._offset

    @property
    def allowed(self) -> list[str]:
        """Update kinds that are queued at present, in Telegram's order."""
        return [kind for kind in KINDS if kind in self._allowed]

    @property
    def is_allowed_default(self) -> bool:
        """Whether the kinds are the ones a bot gets without asking."""
        return self._allowed == DEFAULT_KINDS

    def pending(self) -> list[Pending]:
        """Updates that are still to be confirmed."""
        self._expire()
        return list(self._pending)

    def allow(self, encoded: str) -> None:
        """Remember allowed_updates for good; what is no list of names changes nothing.

        An empty list means the default. Like on the real server, this decides what is queued
        from now on; what is queued already is still given out.
        """
        if not encoded:
            return
        try:
            names = json.loads(encoded)
        except ValueError:
            return
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return
        self._allowed = frozenset(name.lower() for name in names) & frozenset(KINDS) or (
            DEFAULT_KINDS
        )

    def push(
        self, kind: str, content: Any, number: int | None = None, force: bool = False
    ) -> int | None:
        """Queue an update; return its id, or None if the bot has not asked for its kind.

        `number` sets the id (ids may only step back while nothing is pending); `force` queues
        whatever the bot asked for. Kinds that are not known here are always queued.
        """
        if not force and kind in KINDS and kind not in self._allowed:
            return None
        if number is not None:
            if number < self._next and self._pending:
                raise ControlError(
                    f"update_id {number} is below the next id {self._next} while updates are "
                    "pending: leave it out, or confirm the pending ones first"
                )
            if not 0 < number < 2**31:
                raise ControlError(f"update_id {number} is not between 1 and 2^31")
            self._next = number
        number = self._next
        self._next += 1
        limits = self._limits()
        seconds = _SHORT_LIVED.get(kind, limits.update_seconds)
        if kind == "callback_query":
            seconds = limits.callback_seconds
        encoded = json.dumps({"update_id": number, kind: content}, separators=(",", ":"))
        self._pending.append(Pending(number, kind, encoded, self._clock() + seconds))
        self._record.add("queued", update_id=number, update_kind=kind)
        self._wake_soon()
        return number

    async def poll(self, offset: int, limit: int, seconds: int) -> list[Pending]:
        """Answer getUpdates.

        Two rules of the real server against hasty clients hold unless switched off: a repeated
        offset within 3 s makes a short poll wait 3 s, and within 0.5 s gives one update only.
        """
        seconds = min(seconds, _MAX_TIMEOUT)
        now = self._clock()
        if self._limits().repeat_guard and offset == self._offset:
            if seconds < 3 and now < self._started + 3.0:
                seconds = 3
            if now < self._started + 0.5:
                limit = 1
        self._offset, self._started = offset, now
        batch, offset = self._collect(offset, limit)
        if batch or seconds == 0:
            return self._deliver(batch)
        self.abort_poll(OTHER_POLLER)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            future=loop.create_future(),
            offset=offset,
            limit=limit,
            deadline=loop.time() + seconds,
            timer=loop.call_later(seconds, self._wake),
        )
        self._waiting = waiting
        try:
            return await waiting.future
        finally:
            waiting.timer.cancel()
            if self._waiting is waiting:
                self._waiting = None

    def abort_poll(self, description: str) -> None:
        """End a waiting getUpdates with 409."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.timer.cancel()
            if not waiting.future.done():
                waiting.future.set_exception(BotApiError(409, description))

    def release_poll(self) -> None:
        """End a waiting getUpdates with what there is, for a reset or a stop."""
        if self._waiting is not None:
            self._wake()

    async def delay_conflict(self) -> None:
        """Hold the answer of a 409, unless it is the first in 3 s."""
        now = self._clock()
        seconds = self._limits().conflict_seconds
        if now >= self._next_conflict:
            self._next_conflict = now + seconds
        else:
            await asyncio.sleep(seconds)

    def drop_all(self) -> None:
        """Forget every pending update (drop_pending_updates)."""
        self._forget(len(self._pending), "dropped")

    def _collect(self, offset: int, limit: int) -> tuple[list[Pending], int]:
        self._expire()
        if offset < 0:
            self._forget(max(0, len(self._pending) + offset), "dropped")
        head = self._pending[0].number if self._pending else self._next
        if offset <= 0 or offset > self._next + _FUTURE_SLACK:
            # An offset far in the future confirms nothing: the server starts over at its head.
            offset = offset if offset > 0 else head
        else:
            count = 0
            for update in self._pending:
                if update.number >= offset:
                    break
                count += 1
            self._forget(count, "confirmed")
        batch: list[Pending] = []
        size = 0
        for update in self._pending:
            size += len(update.encoded)
            if len(batch) == limit or (batch and size > _ANSWER_BYTES):
                break
            batch.append(update)
        return batch, offset

    def _deliver(self, batch: list[Pending]) -> list[Pending]:
        limits = self._limits()
        if batch and limits.repeats:
            batch = [*list(self._confirmed)[-int(limits.repeats) :], *batch]
        if limits.shuffled:
            random.shuffle(batch)
        for update in batch:
            update.deliveries += 1
            self._record.add(
                "delivered" if update.deliveries == 1 else "redelivered",
                update_id=update.number,
                update_kind=update.kind,
                deliveries=update.deliveries,
                **({"shuffled": True} if limits.shuffled else {}),
            )
        return batch

    def _forget(self, count: int, why: str) -> None:
        for _ in range(count):
            update = self._pending.popleft()
            if why == "confirmed":
                self._confirmed.append(update)
            self._record.add(
                why,
                update_id=update.number,
                update_kind=update.kind,
                deliveries=update.deliveries,
            )

    def _expire(self) -> None:
        now = self._clock()
        if not any(update.expires_at <= now for update in self._pending):
            return
        kept: deque[Pending] = deque()
        for update in self._pending:
            if update.expires_at > now:
                kept.append(update)
            else:
                self._record.add(
                    "expired",
                    update_id=update.number,
                    update_kind=update.kind,
                    deliveries=update.deliveries,
                )
        self._pending = kept

    def _wake_soon(self) -> None:
        waiting = self._waiting
        if waiting is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if waiting.woken_by is None:
            waiting.woken_by = min(now + _WAKE_AT_MOST, waiting.deadline)
        waiting.timer.cancel()
        waiting.timer = loop.call_at(min(now + _WAKE_AFTER, waiting.woken_by), self._wake)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.future.done():
            return
        waiting.timer.cancel()
        batch, _ = self._collect(waiting.offset, waiting.limit)
        waiting.future.set_result(self._deliver(batch))
