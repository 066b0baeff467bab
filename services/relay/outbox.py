"""Follows the gateway's stream and keeps one delivery per reply that is not settled.

The relay's whole memory is here, and the snapshot at the start of each stream rebuilds it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from weakref import WeakValueDictionary

from aiogram import Bot

from services.log import describe_error
from services.relay.backoff import Backoff
from services.relay.delivery import Delivery
from services.relay.fetching import Fetching
from services.relay.link import Link, LinkDown, Settled
from services.relay.menus import Menus
from services.relay.pacing import Pacing
from services.relay.polls import PollSign
from services.relay.presence import Presence
from services.relay.tenure import Tenure
from services.wire import Closed, Event, Grown, Guests, Hello, Opened, Reply, Status
from services.wire import Superseded as StreamSuperseded

log = logging.getLogger(__name__)

MOST_RETRY_SECONDS = 5.0
"""A gateway that returns is found this soon: whoever waited for it has waited long enough."""

MOST_UPLOADS = 2
"""Files in the relay's memory at one time; each is about a megabyte."""


class Outbox:
    """All deliveries, and the epoch of the stream that feeds them."""

    def __init__(
        self,
        bot: Bot,
        link: Link,
        pacing: Pacing,
        presence: Presence,
        tenure: Tenure,
        menus: Menus,
        sign: PollSign | None = None,
    ) -> None:
        """Prepare. `presence` is told of the stream, and `menus` who the admins are; `tenure` says
        how long to yield; `sign` is told of replies that went.
        """
        self._sign = sign
        self._menus = menus
        self._bot = bot
        self._link = link
        self._pacing = pacing
        self._presence = presence
        self._tenure = tenure
        self._epoch = 0
        self._connected = asyncio.Event()
        self._renewed = asyncio.Event()
        self._has_noted_loss = False
        self._uploads = asyncio.Semaphore(MOST_UPLOADS)
        self._locks: WeakValueDictionary[tuple[int, int], asyncio.Lock] = WeakValueDictionary()
        self._deliveries: dict[int, Delivery] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last_begun: dict[tuple[int, int], asyncio.Event] = {}
        self._fetching = Fetching(bot, link, self._current_epoch)

    async def run(self) -> None:
        """Follow the stream for ever, over all interruptions."""
        backoff = Backoff(most_seconds=MOST_RETRY_SECONDS)
        try:
            while True:
                try:
                    async with contextlib.aclosing(
                        self._link.events(self._presence.away_seconds)
                    ) as events:
                        async for event in events:
                            backoff.reset()
                            self._take(event)
                            if isinstance(event, StreamSuperseded):
                                await self._yield()
                                break
                except LinkDown as error:
                    self._note_loss(error)
                self._disconnect()
                await backoff.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            self._fetching.stop()

    async def _yield(self) -> None:
        """Leave the field to the relay that has taken over, longer each time."""
        self._disconnect()
        self._forget(self._deliveries)
        seconds = self._tenure.lose()
        log.error(
            "another relay has taken over",
            extra={"yield_seconds": seconds, "remedy": "stop one of the two relays"},
        )
        await asyncio.sleep(seconds)

    def _note_loss(self, error: LinkDown) -> None:
        """Log the beginning of an absence, not each try to end it."""
        if not self._has_noted_loss:
            self._has_noted_loss = True
            log.warning("stream lost", extra={"error": describe_error(error)})

    def _disconnect(self) -> None:
        self._connected.clear()
        self._presence.go()

    def _take(self, event: Event) -> None:
        match event:
            case Hello():
                self._begin(event)
            case Guests():
                self._presence.let_in(event.users, event.invitations)
            case Opened():
                self._open(event.reply)
            case Grown():
                if delivery := self._deliveries.get(event.reply_id):
                    delivery.grow(event.at, event.text)
            case Status():
                if delivery := self._deliveries.get(event.reply_id):
                    delivery.show_status(event.status)
            case Closed():
                if delivery := self._deliveries.get(event.reply_id):
                    delivery.close(event.text, event.buttons)
                self._fetching.end(event.reply_id)

    def _begin(self, hello: Hello) -> None:
        log.info("connected", extra={"epoch": hello.epoch, "replies": len(hello.undelivered)})
        if hello.epoch == self._epoch + 1:
            # The stream is ours again at once: only what was settled meanwhile is to be forgotten.
            self._forget(set(self._deliveries) - set(hello.undelivered))
        else:
            # Somebody else had it in between: what we know of parts and texts is worth nothing.
            self._forget(self._deliveries)
        self._epoch = hello.epoch
        self._connected.set()
        self._has_noted_loss = False
        self._tenure.begin()
        self._presence.come(hello.guests, hello.invitations)
        self._menus.name_admins(hello.admins, hello.former_admins)
        self._renewed.set()
        self._renewed = asyncio.Event()

    def _open(self, reply: Reply) -> None:
        known = self._deliveries.get(reply.id)
        if known and known.reply.chat_id == reply.chat_id:
            known.update(reply)
            self._fetch(reply)
            return
        if known:
            # The group has moved: what has been sent there is of no use to this reply.
            self._forget([reply.id])
        chat = (reply.chat_id, reply.thread_id)
        delivery = Delivery(
            reply,
            self._bot,
            self._link,
            self._pacing,
            self._current_epoch,
            self._uploads,
            self._lock_of,
            after=self._last_begun.get(chat),
        )
        self._last_begun[chat] = delivery.begun
        self._deliveries[reply.id] = delivery
        self._tasks[reply.id] = asyncio.create_task(self._deliver(delivery))
        self._fetch(reply)

    def _fetch(self, reply: Reply) -> None:
        if reply.document and not reply.closed:
            self._fetching.begin(reply)

    async def _deliver(self, delivery: Delivery) -> None:
        reply = delivery.reply
        backoff = Backoff()
        while True:
            try:
                await delivery.run()
                if self._sign:
                    self._sign.went()
                break
            except Settled:
                break
            except Exception as error:
                # A worker's boundary: one reply that breaks must not take the others with it,
                # and is tried again.
                log.error("delivery broke", extra={"error": describe_error(error)})
                delivery.begun.set()
                await backoff.wait()
        delivery.begun.set()
        self._deliveries.pop(reply.id, None)
        self._tasks.pop(reply.id, None)
        chat = (reply.chat_id, reply.thread_id)
        if self._last_begun.get(chat) is delivery.begun:
            del self._last_begun[chat]

    def _lock_of(self, chat_id: int, message_id: int) -> asyncio.Lock:
        return self._locks.setdefault((chat_id, message_id), asyncio.Lock())

    async def _current_epoch(self, beyond: int) -> int:
        while self._epoch <= beyond:
            await self._renewed.wait()
        await self._connected.wait()
        return self._epoch

    def _forget(self, reply_ids: Iterable[int]) -> None:
        for reply_id in list(reply_ids):
            self._fetching.end(reply_id)
            self._tasks.pop(reply_id).cancel()
            self._deliveries.pop(reply_id).begun.set()
