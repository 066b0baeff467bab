"""Admins hear once of what has failed, once of what is back, and can ask how things stand."""

import asyncio
import shutil
from collections import namedtuple
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.engine import Engine
from services.gateway.gpu import Gpu
from services.gateway.manner import Preferences
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store, StoreError
from services.gateway.watch import MOST_UNSEEN_ALERTS, Watch
from services.namespace import Tunnel
from services.wire import Batch, Hello
from tests.unit.fakes import USER, FakeEngine, open_store, until

ADMINS = (USER, 8)
START = 1_700_000_000.0  # 22:13:20 UTC
Disk = namedtuple("Disk", ("total", "used", "free"))
EMPTY = Disk(100 * 10**9, 60 * 10**9, 40 * 10**9)


@dataclass
class World:
    """A watch whose clock, engine and disk are the test's."""

    watch: Watch
    engine: FakeEngine
    store: Store
    disk: Disk = EMPTY
    now: float = START
    clock_step: float = 0.0

    async def after(self, seconds: float) -> list[str]:
        """Look after so long; returns what the admins have not read yet, and lets them read it."""
        self.now += seconds
        await self.watch.look()
        replies = await self.store.run(self.store.undelivered_replies)
        assert {reply.id for reply in replies} <= set(self.watch.outbox._entries)
        for reply in replies:
            assert reply.closed
            await self.store.run(self.store.drop_reply, reply.id)
            self.watch.outbox.forget(reply.id)
        return [f"{reply.chat_id}: {reply.text}" for reply in replies]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    async with open_store(tmp_path) as store:
        fake = FakeEngine()
        engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
        watch = Watch(store, Queue(), Outbox(store, []), engine, tmp_path, ADMINS)
        world = World(watch, fake, store)
        watch.clock = lambda: world.now
        watch.wall = lambda: world.now + world.clock_step
        watch.outbox.is_connected = True
        monkeypatch.setattr(shutil, "disk_usage", lambda _: world.disk)
        yield world


async def test_engine_down_and_back(world: World) -> None:
    """After a minute, once, to each admin in their language; and once when it is ready again."""
    await world.store.run(world.store.save_preferences, 8, Preferences(language="ru"))
    assert await world.after(0) == []
    world.engine.ready = False
    assert await world.after(15) == []
    assert await world.after(45) == []

    assert await world.after(15) == [
        "7: The engine has not been ready since 22:13 UTC. Questions wait.",
        "8: Движок не готов с 22:13 UTC. Вопросы ждут.",
    ]
    assert await world.after(600) == []
    world.engine.ready = True
    assert (await world.after(15))[0] == (
        "7: The engine is ready again; it was not from 22:13 UTC to 22:24 UTC."
    )
    assert await world.after(15) == []


async def test_short_absence_is_not_worth_a_word(world: World) -> None:
    """Neither its beginning nor its end."""
    await world.after(0)
    for is_ready in (False, True) * 3:
        world.engine.ready = is_ready
        assert await world.after(30) == []


async def test_model_may_take_its_time_to_load(world: World) -> None:
    """An engine that was never ready has a quarter of an hour."""
    world.engine.ready = False
    assert await world.after(0) == []
    assert await world.after(899) == []

    assert len(await world.after(1)) == len(ADMINS)


async def test_absence_from_telegram_is_told_when_it_is_over(world: World) -> None:
    """During it, nobody could be told; one message, not two, then."""
    await world.after(0)
    world.watch.outbox.is_connected = False
    assert await world.after(300) == []
    world.watch.outbox.is_connected = True
    world.watch.outbox.absence_seconds = 119
    assert await world.after(10) == []

    world.watch.outbox.absence_seconds = 300

    assert (await world.after(10))[0] == (
        "7: I could not reach Telegram from 22:13 UTC to 22:18 UTC."
    )
    assert await world.after(10) == []


async def test_full_disk_is_told_at_once(world: World) -> None:
    """While there is still room to write it down."""
    world.disk = Disk(100 * 10**9, 96 * 10**9, 4 * 10**9)
    assert (await world.after(0))[0].startswith("7: The disk is nearly full.")

    world.disk = EMPTY

    assert (await world.after(15))[0] == "7: The disk has room again."


async def test_disk_at_the_border_does_not_flicker(world: World) -> None:
    """One alert, until there is clearly more room."""
    said: list[str] = []
    for n in range(20):
        world.disk = Disk(100 * 10**9, 0, 5 * 10**9 + (-1) ** n * 10**6)
        said += await world.after(15)

    assert len(said) == len(ADMINS)


async def test_clock_that_is_set_is_no_trouble(world: World) -> None:
    """Patience is measured by a clock that nobody sets."""
    await world.after(0)
    world.engine.ready = False
    assert await world.after(15) == []
    world.clock_step = 10_000

    assert await world.after(15) == []


async def test_alert_that_could_not_be_written_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the moment: nothing is taken for told."""
    await world.after(0)
    world.engine.ready = False
    world.watch.outbox.absence_seconds = 300
    await world.watch.look()
    await world.after(0)

    def refuse(*_: object) -> None:
        raise StoreError("full")

    world.watch.outbox.absence_seconds = 400
    with monkeypatch.context() as patch:
        patch.setattr(world.watch, "_write", refuse)
        for _ in range(3):
            world.now += 40
            with pytest.raises(StoreError):
                await world.watch.look()

    said = await world.after(15)
    assert [line for line in said if "engine" in line]
    assert [line for line in said if "could not reach Telegram" in line]


async def test_look_that_fails_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a disk that cannot be looked at; /status says the rest."""

    def fail(_: object) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    await world.after(0)
    assert world.watch.describe("en").startswith("Telegram: connected")
    assert "Disk" not in world.watch.describe("en")

    looks = 0

    async def broken() -> None:
        nonlocal looks
        looks += 1
        raise ValueError

    monkeypatch.setattr(world.watch, "look", broken)
    monkeypatch.setattr("services.gateway.watch.LOOK_SECONDS", 0)
    running = asyncio.create_task(world.watch.run())
    await until(lambda: looks > 2, "it looks again")
    running.cancel()


async def test_admin_whose_questions_wait_is_told(world: World) -> None:
    """They wait because of what is wrong."""
    for _ in range(MOST_UNSEEN_ALERTS):
        await world.store.run(world.store.add_reply, (USER, 0), 1)
    await world.watch.look()
    world.engine.ready = False
    for _ in range(2):
        world.now += 61
        await world.watch.look()

    replies = await world.store.run(world.store.undelivered_replies)
    assert [reply.chat_id for reply in replies if reply.closed] == [USER, 8]


async def test_unread_alerts_do_not_pile_up(world: World) -> None:
    """While the relay is away, an engine that comes and goes fills no disk."""
    await world.watch.look()
    for _ in range(MOST_UNSEEN_ALERTS):
        for is_ready in (False, False, True):
            world.engine.ready = is_ready
            world.now += 61
            await world.watch.look()

    replies = await world.store.run(world.store.undelivered_replies)
    assert len(replies) == MOST_UNSEEN_ALERTS * len(ADMINS)


async def test_status_says_how_things_stand(world: World) -> None:
    """Connections, load, speed and disk; what is wrong, since when."""
    await world.after(0)
    world.watch.queue.charge(USER, prompt_tokens=500, answer_tokens=150)
    await world.after(15)
    assert world.watch.describe("en") == (
        "Telegram: connected\nEngine: ready\n"
        "Questions: 0 being answered, 0 waiting; 10 tokens/s\nDisk: 40.0 of 100.0 GB free"
    )

    world.engine.ready = world.watch.outbox.is_connected = False
    await world.after(60)
    await world.after(60)
    world.watch.queue.pause(True)
    assert world.watch.describe("en") == (
        "Telegram: out of reach since 22:14 UTC (now 22:15 UTC)\n"
        "Engine: not ready since 22:14 UTC (now 22:15 UTC)\n"
        "Questions: 0 being answered, 0 waiting; 0 tokens/s\nDisk: 40.0 of 100.0 GB free\n"
        "Questions wait until /resume."
    )
    assert "Движок: не готов" in world.watch.describe("ru")


async def test_status_does_not_lag_behind_who_asks_for_it(world: World) -> None:
    """A relay that has come since the last look is there: it has brought the question."""
    world.watch.outbox.is_connected = False
    await world.after(0)
    assert "Telegram: out of reach" in world.watch.describe("en")

    world.watch.outbox.is_connected = True

    assert "Telegram: connected" in world.watch.describe("en")


async def test_status_tells_of_tunnel_and_gpus(world: World) -> None:
    """How old the handshake is, what both nodes have refused, how busy each GPU is."""
    await world.after(0)
    tunnel = Tunnel(handshake_at=int(START) - 34, refused_in=3, refused_out=0)
    world.watch.tunnel = lambda: tunnel
    world.watch.gpus = lambda: [Gpu(87, 40 * 10**9, 48 * 10**9), Gpu(0, 10**8, 48 * 10**9)]
    assert world.watch.describe("en").splitlines()[3:-1] == [
        "Tunnel: last handshake 34 s ago",
        "Packets refused here: 3 in, 0 out",
        "GPU 1: 87% busy, 40.0 of 48.0 GB in use",
        "GPU 2: 0% busy, 0.1 of 48.0 GB in use",
    ]

    world.watch.note_batch(Batch(bot_id=1, updates=[], refused=(4711, 2)))
    assert "Packets refused at the other end: 4711 in, 2 out" in world.watch.describe("en")
    for seconds, said in ((119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h")):
        tunnel = Tunnel(handshake_at=int(START) - seconds)
        assert f"Tunnel: last handshake {said} ago" in world.watch.describe("en")
    tunnel = Tunnel(handshake_at=int(START) + 5)  # by a clock that was set meanwhile
    assert "рукопожатие 0 с назад" in world.watch.describe("ru")
    tunnel = Tunnel()
    assert "handshake" not in world.watch.describe("en")
    world.watch.outbox.is_connected = False
    assert "Tunnel: no handshake yet" in world.watch.describe("en")


async def test_outbox_knows_whether_a_relay_listens(tmp_path: Path) -> None:
    """From its first word on until its stream is closed, and not because of an older one."""
    async with open_store(tmp_path) as store:
        outbox = Outbox(store, [])
        assert not outbox.is_connected
        older, newer = outbox.stream(), outbox.stream()
        async with aclosing(newer), aclosing(older):
            assert isinstance(await anext(older), Hello)
            assert outbox.is_connected
            assert isinstance(await anext(newer), Hello)
            await older.aclose()
            assert outbox.is_connected
            await newer.aclose()
            assert not outbox.is_connected


async def test_many_strangers_are_told_of(world: World) -> None:
    """From the fifth of an hour on; then no more of it for six hours."""
    assert await world.after(0) == []
    world.watch.note_batch(strangers(4))
    assert await world.after(3599) == []
    world.watch.note_batch(strangers(1))

    assert (await world.after(1))[0] == (
        "7: People who may not talk to me have written 5 times within an hour. They got no answer;"
        " but they know that I am here."
    )
    world.watch.note_batch(strangers(100))
    assert await world.after(6 * 3600 - 1) == []
    world.watch.note_batch(strangers(7))
    assert len(await world.after(1)) == len(ADMINS)


async def test_few_strangers_over_a_day_are_nobodys_business(world: World) -> None:
    """Four an hour: someone has mistyped a name."""
    for _ in range(24):
        world.watch.note_batch(strangers(4))
        assert await world.after(3600) == []


def strangers(count: int) -> Batch:
    """What a relay says that has turned so many updates away."""
    return Batch(bot_id=1, updates=[], strangers=count)
