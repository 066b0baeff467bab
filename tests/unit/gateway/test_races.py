"""What happens between a check and the store: no write of the past is kept, or it is known."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox, StaleEpoch, UnknownReply
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.wire import Hello, Opened, Reply
from tests.unit.fakes import USER, open_store

GROUP = -5
SUPERGROUP = -1_000_000_000_005


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as store:
        yield store


@asynccontextmanager
async def busy(store: Store) -> AsyncGenerator[None]:
    """Let the disk be slow: what is asked of the store meanwhile lines up."""
    done = threading.Event()
    work = asyncio.create_task(store.run(done.wait))
    await asyncio.sleep(0)  # it is in line now
    try:
        yield
    finally:
        done.set()
        await work


async def connect(outbox: Outbox) -> tuple[int, list[Reply]]:
    """Become the current relay; returns the epoch and the snapshot."""
    stream = outbox.stream()
    hello = await anext(stream)
    assert isinstance(hello, Hello)
    opened = [await anext(stream) for _ in hello.undelivered]
    return hello.epoch, [event.reply for event in opened if isinstance(event, Opened)]


async def test_part_recorded_while_another_relay_connects_is_in_its_snapshot(store: Store) -> None:
    """Else the new relay would send the part anew, be refused, and wait for ever."""
    reply = await store.run(store.add_reply, (USER, 0), 1)
    outbox = Outbox(store, [reply])
    epoch, _ = await connect(outbox)
    async with busy(store):
        connecting = asyncio.create_task(connect(outbox))
        await asyncio.sleep(0)  # its epoch is in line
        recording = asyncio.create_task(outbox.record_part(epoch, reply.id, 0, 77))
        await asyncio.sleep(0)  # so is the part

    _, [seen] = await connecting
    await asyncio.wait({recording})

    [stored] = await store.run(store.undelivered_replies)
    assert seen.parts == stored.parts


async def test_part_recorded_while_its_group_moves_is_of_no_use(store: Store) -> None:
    """A message of the group is not taken for one of the supergroup."""
    reply = await store.run(store.add_reply, (GROUP, 0), 1)
    outbox = Outbox(store, [reply])
    inbox = Inbox(store, Queue(), outbox, Access(store, frozenset({USER})), Limits(9, 9, 9000))
    epoch, _ = await connect(outbox)
    async with busy(store):
        moving = asyncio.create_task(inbox.move(GROUP, SUPERGROUP))
        await asyncio.sleep(0)
        recording = asyncio.create_task(outbox.record_part(epoch, reply.id, 0, 77, GROUP))
        await asyncio.sleep(0)

    await moving
    with pytest.raises(UnknownReply):
        await recording
    await outbox.record_part(epoch, reply.id, 0, 88, SUPERGROUP)
    [stored] = await store.run(store.undelivered_replies)
    assert stored.parts == (88,)
    with pytest.raises(StaleEpoch):
        await outbox.record_part(epoch, reply.id, 0, 99, SUPERGROUP)
