"""Holds every reply until the relay has confirmed it, and streams how the replies grow.

Only one relay is current: connecting ends the stream before, and writes that carry the epoch of an
older stream are rejected.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial

from services.gateway.chart import Chart, draw
from services.gateway.store import Store
from services.log import describe_error
from services.wire import (
    Button,
    Closed,
    Event,
    Grown,
    Guests,
    Hello,
    Opened,
    Reply,
    Status,
    Superseded,
)

log = logging.getLogger(__name__)

WINDOW_SECONDS = 0.1
"""Further growth is gathered this long: the relay edits about once a second. All else, and the
first that an answer says, goes at once."""

SILENCE_SECONDS = 10.0


class StaleEpoch(Exception):
    """A newer stream has taken over: this relay must not write any more."""


class UnknownReply(Exception):
    """The reply was confirmed before, or never existed."""


@dataclass
class _Entry:
    """A reply as it stands, and how much of it the current stream has been told."""

    reply: Reply
    pieces: list[str] = field(default_factory=list)
    length: int = 0
    told: int | None = None
    """Characters told; None: the stream does not know the reply at all."""
    told_status: str = ""
    told_closed: bool = False
    restarted: bool = False

    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def snapshot(self) -> Reply:
        return self.reply.model_copy(update={"text": self.text()})


class Outbox:
    """All replies that are not delivered yet."""

    def __init__(
        self,
        store: Store,
        undelivered: list[Reply],
        guests: tuple[int, ...] = (),
        invitations: tuple[str, ...] = (),
        admins: tuple[int, ...] = (),
        former_admins: tuple[int, ...] = (),
    ) -> None:
        self._store = store
        self._admins = admins
        self._former_admins = former_admins
        self._guests = guests
        self._invitations = invitations
        self._news = False
        """Whether the stream does not know the guests as they are now."""
        self._entries: dict[int, _Entry] = {}
        self._changed: dict[int, None] = {}
        """What the stream is to be told at once."""
        self._grown: dict[int, None] = {}
        """What has only grown since its text was told first: told when the window is over."""
        self._wake = asyncio.Event()
        self._epoch = 0
        self._takes_files = True
        self.is_connected = False
        """Whether a relay follows the stream."""
        self.has_more = False
        """Whether what follows the event that the stream has just given is there already."""
        self.absence_seconds = 0.0
        """For how long the relay was cut off, by its own account; for others to note and reset."""
        self.delivered_at = 0.0
        """When a reply was shown last, in seconds since 1970; 0: not since the start."""
        for reply in undelivered:
            self.open(reply)

    @property
    def undelivered_count(self) -> int:
        """How many replies are on their way."""
        return len(self._entries)

    # What the answers do

    def open(self, reply: Reply) -> None:
        """Add a reply; it is in the store already."""
        self._entries[reply.id] = _Entry(reply, [reply.text], len(reply.text))
        self._touch(reply.id)

    def grow(self, reply_id: int, piece: str) -> None:
        """Append to a reply."""
        entry = self._entries.get(reply_id)
        if entry and piece and not entry.reply.closed:
            entry.pieces.append(piece)
            entry.length += len(piece)
            if entry.told:
                self._touch_later(reply_id)
            else:
                self._touch(reply_id)

    def rewrite(self, reply_id: int, text: str) -> None:
        """Take back what a reply said so far, and let it say this: its answer goes on from here."""
        entry = self._entries.get(reply_id)
        if entry and not entry.reply.closed and entry.text() != text:
            entry.pieces, entry.length, entry.restarted = [text], len(text), True
            self._touch(reply_id)

    def show_status(self, reply_id: int, status: str) -> None:
        """Say what a reply without text is waiting for."""
        entry = self._entries.get(reply_id)
        if entry and entry.reply.status != status:
            entry.reply = entry.reply.model_copy(update={"status": status})
            self._touch(reply_id)

    def note_document(self, reply_id: int, document: str = "", status: str = "") -> None:
        """What a reply waited for is here; it waits for this one now, or for none any more."""
        entry = self._entries.get(reply_id)
        if entry and not entry.reply.closed:
            if document not in ("", entry.reply.document):
                entry.told = None  # it is opened once more, which says what is to be brought
            news = {"document": document, "status": status}
            entry.reply = entry.reply.model_copy(update=news)
            self._touch(reply_id)

    def close(self, reply_id: int, text: str, *buttons: Button) -> None:
        """The reply is complete; it is in the store already."""
        entry = self._entries.get(reply_id)
        if entry and not entry.reply.closed:
            entry.pieces, entry.length = [text], len(text)
            news = {"closed": True, "buttons": buttons, "document": ""}
            entry.reply = entry.reply.model_copy(update=news)
            self._touch(reply_id)

    def forget(self, reply_id: int) -> None:
        """A reply is not in the store any more: the relay's next word about it is refused."""
        self._entries.pop(reply_id, None)
        self._changed.pop(reply_id, None)
        self._grown.pop(reply_id, None)

    def move(self, replies: list[Reply]) -> None:
        """These replies go on in another chat, in messages that are sent anew."""
        for reply in replies:
            entry = self._entries.get(reply.id)
            if entry:
                where = {"chat_id": reply.chat_id, "reply_to": 0, "parts": ()}
                entry.reply = entry.reply.model_copy(update=where)
                entry.told = None
                self._touch(reply.id)

    def tell_guests(self, guests: tuple[int, ...], invitations: tuple[str, ...]) -> None:
        """The users beyond the configured list are these now, and who has such a code may come."""
        self._guests, self._invitations = guests, invitations
        self._news = True
        self._wake.set()

    # What the relay does

    async def stream(
        self, *, takes_files: bool = True, away_seconds: float = 0.0
    ) -> AsyncGenerator[Event | None]:
        """Become the current stream: the snapshot first, then every change until superseded.

        None is a sign of life, after SILENCE_SECONDS without an event. `takes_files`: whether the
        relay knows what to do with a reply that has one; else they wait until one does.
        `away_seconds`: for how long the relay had no stream.
        """
        epoch = await self._store.run(self._store.next_epoch)
        if epoch <= self._epoch:
            raise StaleEpoch
        self._epoch = epoch
        self._takes_files = takes_files
        self._wake.set()  # the stream before notices that it is over
        self._wake = wake = asyncio.Event()
        # What an older stream was let write may still be on its way to the disk.
        await self._store.run(lambda: None)
        if self._epoch != epoch:
            yield Superseded()
            return
        for entry in self._entries.values():
            entry.told, entry.told_status, entry.told_closed = None, "", False
            entry.restarted = False
        self._changed, self._grown = dict.fromkeys(self._entries), {}
        self._news = False
        self.is_connected, self.absence_seconds = True, max(self.absence_seconds, away_seconds)
        try:
            yield Hello(
                epoch=epoch,
                undelivered=tuple(self._changed),
                guests=self._guests,
                invitations=self._invitations,
                admins=self._admins,
                former_admins=self._former_admins,
            )
            clock = asyncio.get_running_loop().time
            window_ends = clock()
            while self._epoch == epoch:
                wake.clear()
                if self._grown and clock() >= window_ends:
                    self._changed |= self._grown
                    self._grown = {}
                    window_ends = clock() + WINDOW_SECONDS
                events = self._drain()
                for place, event in enumerate(events, start=1):
                    self.has_more = place < len(events)
                    yield event
                    if self._epoch != epoch:
                        break
                else:
                    waits_for_window = bool(self._grown)
                    deadline = window_ends if waits_for_window else clock() + SILENCE_SECONDS
                    try:
                        async with asyncio.timeout_at(deadline):
                            await wake.wait()
                    except TimeoutError:
                        if not waits_for_window:
                            self.has_more = False  # whatever a stream before has left
                            yield None
            self.has_more = False
            yield Superseded()
        finally:
            if self._epoch == epoch:
                self.is_connected = False

    async def record_part(
        self, epoch: int, reply_id: int, position: int, message_id: int, chat_id: int = 0
    ) -> None:
        """Note, durably, which message carries a part; `chat_id` 0: the relay does not say where.

        Raises StaleEpoch or UnknownReply.
        """
        entry = self._writable(epoch, reply_id)
        is_recorded = await self._store.run(
            self._store.record_part, reply_id, position, message_id, chat_id
        )
        if self._entries.get(reply_id) is not entry:
            raise UnknownReply  # another has taken its place meanwhile
        if chat_id not in (0, entry.reply.chat_id):
            raise UnknownReply  # the group has moved: the reply goes on elsewhere
        if not is_recorded:
            raise StaleEpoch  # another relay has sent this part before
        parts = list(entry.reply.parts)
        if position == len(parts):
            entry.reply = entry.reply.model_copy(update={"parts": (*parts, message_id)})

    def claim(self, epoch: int, reply_id: int) -> None:
        """Let the relay write the final text. Raises StaleEpoch or UnknownReply."""
        self._writable(epoch, reply_id)

    def chat_of(self, epoch: int, reply_id: int) -> int:
        """Tell which chat a reply belongs to. Raises StaleEpoch or UnknownReply."""
        return self._writable(epoch, reply_id).reply.chat_id

    async def file(self, epoch: int, reply_id: int) -> bytes:
        """Read the file that goes with a reply; nothing if its user has had it erased meanwhile.

        Raises StaleEpoch or UnknownReply.
        """
        reply = self._writable(epoch, reply_id).reply
        content = await self._store.run(self._store.file, reply_id)
        if content and reply.is_photo:
            # It takes some 70 ms, measured: neither the store nor the stream waits for it.
            return await asyncio.to_thread(_draw, content)
        return content.encode()

    async def drop(
        self, epoch: int, reply_id: int, parts: int | None = None, *, is_shown: bool = True
    ) -> None:
        """The reply stands in its chat, in so many messages, or never can.

        Raises StaleEpoch or UnknownReply.
        """
        self._writable(epoch, reply_id)
        drop = partial(self._store.drop_reply, reply_id, parts, is_shown=is_shown)
        await self._store.run(drop)
        self.forget(reply_id)
        if is_shown:
            self.delivered_at = time.time()

    def _writable(self, epoch: int, reply_id: int) -> _Entry:
        if epoch != self._epoch:
            raise StaleEpoch
        if reply_id not in self._entries:
            raise UnknownReply
        return self._entries[reply_id]

    def _touch(self, reply_id: int) -> None:
        self._changed[reply_id] = None
        self._wake.set()

    def _touch_later(self, reply_id: int) -> None:
        if not self._grown:
            self._wake.set()  # the stream waits for the end of the window from now on
        self._grown[reply_id] = None

    def _drain(self) -> list[Event]:
        changed, self._changed = self._changed, {}
        news: list[Event] = []
        if self._news:
            news.append(Guests(users=self._guests, invitations=self._invitations))
        self._news = False
        return news + [
            event
            for reply_id in changed
            if (entry := self._entries.get(reply_id))
            and (self._takes_files or not entry.reply.file)
            for event in _news(entry)
        ]


def _news(entry: _Entry) -> list[Event]:
    """Say what the stream does not know of the reply yet, and note that it knows it now."""
    events: list[Event] = []
    reply = entry.reply
    if entry.told is None:
        events.append(Opened(reply=entry.snapshot()))
    elif reply.closed and not entry.told_closed:
        events.append(Closed(reply_id=reply.id, text=entry.text(), buttons=reply.buttons))
    elif not reply.closed:
        if entry.restarted or entry.told != entry.length:
            at = 0 if entry.restarted else entry.told
            events.append(Grown(reply_id=reply.id, at=at, text=entry.text()[at:]))
        if entry.told_status != reply.status:
            events.append(Status(reply_id=reply.id, status=reply.status))
    entry.told, entry.told_status, entry.told_closed = entry.length, reply.status, reply.closed
    entry.restarted = False
    return events


def _draw(chart: str) -> bytes:
    """Draw a chart; nothing if that cannot be, and its caption goes without it."""
    try:
        return draw(Chart.from_json(chart))
    except Exception as error:
        # Whatever it is, it would be the same with each further try.
        log.error("chart broke", extra={"error": describe_error(error)})
        return b""
