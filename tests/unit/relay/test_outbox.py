"""The outbox tells of the gateway's presence and of its guests, and yields to another relay."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from services.relay.link import LinkDown
from services.relay.link import Superseded as StaleEpoch
from services.relay.menus import Menus
from services.relay.outbox import Outbox
from services.relay.pacing import Pacing
from services.relay.presence import Presence
from services.relay.tenure import Tenure
from services.wire import Event, Guests, Hello, Opened, PartRecord, Reply, Superseded
from tests.unit.fakes import until
from tests.unit.relay.scripted import ScriptedTelegram


@dataclass
class FakeLink:
    """Each stream is a queue of events; None ends it. The last one goes on for ever."""

    streams: list[list[Event | asyncio.Event | None]]
    opened: list[float] = field(default_factory=list)

    async def events(self, _away_seconds: float) -> AsyncGenerator[Event]:
        self.opened.append(asyncio.get_running_loop().time())
        for event in self.streams.pop(0) if self.streams else [asyncio.Event()]:
            match event:
                case None:
                    raise LinkDown
                case asyncio.Event():
                    await event.wait()
                case _:
                    yield event


class ShortTenure(Tenure):
    """Yields for a moment, and notes how often."""

    losses = 0

    def lose(self) -> float:
        self.losses += 1
        return 0.3


@contextlib.asynccontextmanager
async def running(link: FakeLink, presence: Presence, tenure: Tenure) -> AsyncGenerator[None]:
    outbox = Outbox(None, link, Pacing(), presence, tenure, Menus(None))  # type: ignore[arg-type]  # fakes
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_guests_are_known_with_the_stream_and_change_with_it() -> None:
    """The list of each Hello and of each later change is taken over at once, and kept in sleep."""
    presence = Presence()
    change, end = asyncio.Event(), asyncio.Event()
    hello = Hello(epoch=1, undelivered=(), guests=(8,))
    link = FakeLink([[hello, change, Guests(users=(8, 9)), end, None]])

    async with running(link, presence, Tenure()):
        await until(lambda: presence.guests == frozenset({8}), "the guests are known")
        assert presence.away_seconds == 0
        change.set()
        await until(lambda: presence.guests == frozenset({8, 9}), "the new guest is known")
        end.set()
        await until(lambda: presence.away_seconds > 0, "the gateway is away")
        assert presence.guests == frozenset({8, 9})


async def test_hello_without_guests_names_none() -> None:
    """A gateway of version 1 has no guests, and that is known."""
    presence = Presence()
    event = Hello.model_validate_json('{"type":"hello","epoch":1,"undelivered":[]}')

    async with running(FakeLink([[event, asyncio.Event()]]), presence, Tenure()):
        await until(lambda: presence.guests == frozenset(), "the guests are known")


async def test_superseded_relay_yields_and_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It leaves the stream to the other for as long as its tenure says, and names the remedy."""
    link = FakeLink([[Hello(epoch=1, undelivered=()), Superseded()]])
    tenure = ShortTenure()

    async with running(link, Presence(), tenure):
        await until(lambda: len(link.opened) == 2, "it takes over again")

    assert tenure.losses == 1
    assert link.opened[1] - link.opened[0] >= 0.3
    [record] = [it for it in caplog.records if it.levelno == logging.ERROR]
    assert "stop one" in record.remedy  # type: ignore[attr-defined]  # extra


async def test_absence_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A night's absence is one line, and so is the next one after a return."""
    hello = Hello(epoch=1, undelivered=())
    link = FakeLink([[None], [None], [hello, None], [None], [asyncio.Event()]])

    async with running(link, Presence(), Tenure()):
        await until(lambda: len(link.opened) == 5, "it has tried again and again")

    assert [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING] == [
        "stream lost", "stream lost",
    ]  # fmt: skip


@dataclass
class StaleLink(FakeLink):
    """The first part is refused as stale, while the next stream is about to begin."""

    parts: list[tuple[int, int]] = field(default_factory=list)
    refused: bool = False

    async def claim(self, *_: object) -> None:
        """Leave is given."""

    async def settle(self, *_: object) -> None:
        """It is the end."""

    async def record_part(self, record: PartRecord, reply_id: int) -> None:
        if not self.refused:
            self.refused = True
            raise StaleEpoch
        self.parts.append((reply_id, record.message_id))


async def test_replies_stay_in_order_when_a_part_is_refused_as_stale() -> None:
    """The reply behind waits until the one before it has begun, not until it was refused."""
    renew = asyncio.Event()
    replies = [Reply(id=n, chat_id=7, text=f"reply {n}", closed=True) for n in (1, 2)]
    snapshot = [Opened(reply=reply) for reply in replies]
    hello, again = Hello(epoch=1, undelivered=(1, 2)), Hello(epoch=2, undelivered=(1, 2))
    link = StaleLink([[hello, *snapshot, renew, None], [again, *snapshot, asyncio.Event()]])
    telegram = ScriptedTelegram()
    outbox = Outbox(telegram.bot, link, Pacing(), Presence(), Tenure(), Menus(telegram.bot))  # type: ignore[arg-type]  # a fake link
    task = asyncio.create_task(outbox.run())
    await until(lambda: link.refused, "a part is refused")
    await asyncio.sleep(0.1)

    renew.set()
    await until(lambda: len(link.parts) == 2, "both replies have begun")

    task.cancel()
    await asyncio.wait({task})
    assert [reply_id for reply_id, _ in sorted(link.parts, key=lambda part: part[1])] == [1, 2]
