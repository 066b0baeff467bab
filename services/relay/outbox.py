"""Follows the gateway's stream and keeps one delivery per reply that is not settled.

The relay's whole memory is here, and the snapshot at the start of each stream rebuilds it.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from aiogram import Bot

from services.log import describe_error
from services.relay.backoff import Backoff
from services.relay.delivery import Delivery
from services.relay.link import Link, LinkDown, Superseded
from services.relay.pacing import Pacing
from services.wire import Closed, Event, Grown, Hello, Opened, Reply, Status
from services.wire import Superseded as StreamSuperseded

log = logging.getLogger(__name__)

YIELD_SECONDS = 10.0
"""How long this relay leaves the field to another that has taken over."""


@dataclass
class _Snapshot:
    """The replies that the gateway has listed since it said hello."""

    expected: int
    seen: set[int] = field(default_factory=set)


class Outbox:
    """All deliveries, and the epoch of the stream that feeds them."""

    def __init__(self, bot: Bot, link: Link, pacing: Pacing) -> None:
        self._bot = bot
        self._link = link
        self._pacing = pacing
        self._epoch = 0
        self._connected = asyncio.Event()
        self._deliveries: dict[int, Delivery] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._snapshot = _Snapshot(0)

    async def run(self) -> None:
        """Follow the stream for ever, over all interruptions."""
        backoff = Backoff()
        try:
            while True:
                try:
                    async with contextlib.aclosing(self._link.events()) as events:
                        async for event in events:
                            backoff.reset()
                            self._take(event)
                            if isinstance(event, StreamSuperseded):
                                log.error("another relay has taken over")
                                self._connected.clear()
                                await asyncio.sleep(YIELD_SECONDS)
                                break
                except LinkDown as error:
                    log.warning("stream lost", extra={"error": describe_error(error)})
                self._connected.clear()
                await backoff.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _take(self, event: Event) -> None:
        match event:
            case Hello():
                log.info("connected", extra={"epoch": event.epoch, "replies": event.undelivered})
                self._epoch = event.epoch
                self._snapshot = _Snapshot(event.undelivered)
                self._connected.set()
                self._forget_settled()
            case Opened():
                self._open(event.reply)
                self._snapshot.seen.add(event.reply.id)
                self._forget_settled()
            case Grown():
                if delivery := self._deliveries.get(event.reply_id):
                    delivery.grow(event.at, event.text)
            case Status():
                if delivery := self._deliveries.get(event.reply_id):
                    delivery.show_status(event.status)
            case Closed():
                if delivery := self._deliveries.get(event.reply_id):
                    delivery.close(event.text, event.buttons)

    def _open(self, reply: Reply) -> None:
        known = self._deliveries.get(reply.id)
        if known:
            known.update(reply)
            return
        delivery = Delivery(reply, self._bot, self._link, self._pacing, self._current_epoch)
        self._deliveries[reply.id] = delivery
        self._tasks[reply.id] = asyncio.create_task(self._deliver(delivery))

    async def _deliver(self, delivery: Delivery) -> None:
        reply_id = delivery.reply.id
        backoff = Backoff()
        while True:
            epoch = self._epoch
            try:
                await delivery.run()
            except Superseded:
                if await self._current_epoch() != epoch:
                    continue  # the stream was renewed in between: the next call carries its epoch
            except Exception as error:
                # A worker's boundary: one reply that breaks must not take the others with it,
                # and is tried again.
                log.error("delivery broke", extra={"error": describe_error(error)})
                await backoff.wait()
                continue
            break
        self._deliveries.pop(reply_id, None)
        self._tasks.pop(reply_id, None)

    async def _current_epoch(self) -> int:
        await self._connected.wait()
        return self._epoch

    def _forget_settled(self) -> None:
        """Once the snapshot is complete, what it does not name was settled by somebody else."""
        if len(self._snapshot.seen) != self._snapshot.expected:
            return
        for reply_id in set(self._deliveries) - self._snapshot.seen:
            self._tasks.pop(reply_id).cancel()
            del self._deliveries[reply_id]
        self._snapshot.expected = -1  # done: later replies are no part of it
