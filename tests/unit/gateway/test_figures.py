"""The gateway's figures: what it tells of its work, and that `status` reads just that."""

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from scripts.status.model.work import FIGURES as READ_FROM
from scripts.status.model.work import look
from services.gateway.engine import Engine
from services.gateway.figures import FIGURES, Figures
from services.gateway.gpu import Gpu
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.gateway.watch import Watch
from services.wire import Batch
from tests.unit.adyton.test_status import World
from tests.unit.fakes import USER, FakeEngine, open_store
from tests.unit.gateway.test_queue import ask

START = 1_800_000_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def figures(store: Store, tmp_path: Path) -> Figures:
    engine: Engine = FakeEngine()  # type: ignore[assignment]  # a fake of the same shape
    queue, outbox = Queue(), Outbox(store, [])
    watch = Watch(store, queue, outbox, engine, tmp_path, wall=lambda: START + 5)
    found = Figures(queue, outbox, watch, tmp_path / "store.db", 16, clock=lambda: START)
    found.file = tmp_path / "proc/13/root/tmp/figures"
    found.file.parent.mkdir(parents=True)
    return found


def told(figures: Figures) -> dict[str, int]:
    figures.write()
    lines = figures.file.read_text(encoding="ascii").splitlines()
    assert all(re.fullmatch("[a-z0-9_]+=[0-9]+", line) for line in lines)
    return {name: int(value) for name, _, value in (line.partition("=") for line in lines)}


async def test_before_anything_was_done(figures: Figures) -> None:
    """Nothing is ready that was not looked at."""
    found = told(figures)

    assert found["written_at"] == START
    assert {found[it] for it in ("came_at", "went_at", "waiting", "running", "undelivered")} == {0}
    assert (found["engine_ready"], found["relay_connected"], found["paused"]) == (0, 0, 0)
    assert found["slots"] == 16
    assert found["disk_total_bytes"] > found["disk_free_bytes"] > 0


async def test_times_of_what_came_and_went(figures: Figures, store: Store) -> None:
    """A batch that brings nothing is not a message; a reply that never can be shown did not go."""
    figures.watch.note_batch(Batch(bot_id=1, updates=[], bot_name="b"))
    assert told(figures)["came_at"] == 0

    figures.watch.note_batch(Batch(bot_id=1, updates=[{"update_id": 1}], bot_name="b"))
    assert told(figures)["came_at"] == START + 5

    for is_shown in (False, True):
        with store.transaction():
            reply = store.add_reply((USER, 0), 5, "done", closed=True)
        figures.outbox.open(reply)
        assert told(figures)["undelivered"] == 1
        await figures.outbox.drop(0, reply.id, 1, is_shown=is_shown)
        assert (told(figures)["went_at"] > 0) == is_shown
        assert told(figures)["undelivered"] == 0


async def test_engine_that_is_not_ready_is_told(figures: Figures) -> None:
    """By the watch's last look."""
    await figures.watch.look()
    assert told(figures)["engine_ready"] == 1

    figures.watch.engine.ready = False  # type: ignore[attr-defined]  # the fake's
    await figures.watch.look()

    assert told(figures)["engine_ready"] == 0


async def test_figures_that_cannot_be_written_stop_nothing(figures: Figures) -> None:
    """Neither a full tmpfs, nor a part of the work that cannot be counted."""
    figures.file = figures.file.parent / "missing" / "figures"
    figures.write()
    figures.queue = None  # type: ignore[assignment]  # what breaks
    running = asyncio.create_task(figures.run())

    await asyncio.sleep(0)

    assert not running.done()
    running.cancel()


async def test_status_reads_what_the_gateway_writes(figures: Figures, tmp_path: Path) -> None:
    """Each figure, under its name and in its place."""
    gpu = Gpu(87, 1 << 30, 4 << 30)
    figures.watch.gpus = lambda: [gpu]
    figures.queue.is_paused = True
    figures.outbox.is_connected = True
    figures.write()
    world = World(tmp_path, "model")
    figures.write()  # over what that world has of its own

    facts = {fact.name: fact.value for fact in look(world.looker())}

    assert str(FIGURES) == READ_FROM
    assert (facts["paused"], facts["relay_connected"], facts["slots"]) == (True, True, 16)
    assert facts["gpu_1"] == {
        "load_percent": 87,
        "used_bytes": 1 << 30,
        "total_bytes": 4 << 30,
    }
    assert isinstance(facts["store_bytes"], dict)
    assert facts["store_bytes"]["used"] > 0


async def test_asks_in_the_works_are_counted(figures: Figures) -> None:
    """Those that wait, and those that are being answered."""
    for number in (1, 2, 3):
        figures.queue.put(ask(number, user=number))

    await figures.queue.next()

    assert (told(figures)["waiting"], told(figures)["running"]) == (2, 1)
