"""The outbox streams a snapshot and then every change, to one relay at a time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from services.gateway.outbox import Outbox, StaleEpoch, UnknownReply
from services.gateway.store import Store
from services.wire import Button, Closed, Event, Grown, Hello, Opened, Reply, Status, Superseded
from tests.unit.fakes import open_store

CHAT = (7, 0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as store:
        yield store


async def take(stream: AsyncIterator[Event | None], count: int) -> list[Event]:
    events: list[Event] = []
    while len(events) < count:
        async with asyncio.timeout(10):
            event = await anext(stream)
        if event:
            events.append(event)
    return events


def reply(number: int, text: str = "", **changes: object) -> Reply:
    return Reply.model_validate({"id": number, "chat_id": 7, "text": text} | changes)


async def test_stream_begins_with_what_is_undelivered(store: Store) -> None:
    """A relay that knows nothing learns every open reply, with its parts and its text so far."""
    outbox = Outbox(store, [reply(1, "done", closed=True, parts=(5,))])
    outbox.open(reply(2))
    outbox.grow(2, "so far")

    hello, first, second = await take(outbox.stream(), 3)

    assert hello == Hello(epoch=1, undelivered=(1, 2))
    assert first == Opened(reply=reply(1, "done", closed=True, parts=(5,)))
    assert second == Opened(reply=reply(2, "so far"))


async def test_growth_is_told_once_and_gathered(store: Store) -> None:
    """Pieces that come close together are one event, at the right place."""
    outbox = Outbox(store, [])
    stream = outbox.stream()
    await take(stream, 1)
    outbox.open(reply(1))
    await take(stream, 1)

    outbox.grow(1, "one ")
    outbox.grow(1, "two ")
    (grown,) = await take(stream, 1)
    outbox.grow(1, "three")
    (more,) = await take(stream, 1)

    assert grown == Grown(reply_id=1, at=0, text="one two ")
    assert more == Grown(reply_id=1, at=8, text="three")


async def test_only_further_growth_waits_for_the_window(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that an answer says goes at once, whatever another one's growth waits for."""
    monkeypatch.setattr("services.gateway.outbox.WINDOW_SECONDS", 3600.0)
    outbox = Outbox(store, [reply(1), reply(2)])
    stream = outbox.stream()
    await take(stream, 3)
    outbox.grow(1, "first")
    await take(stream, 1)
    outbox.grow(1, " second")
    await take(stream, 1)  # the first of a window, which begins with it

    outbox.grow(1, " third")
    outbox.grow(2, "first of another")
    outbox.show_status(2, "status")
    at_once = await take(stream, 2)
    outbox.close(1, "first second third")
    (closed,) = await take(stream, 1)

    assert at_once == [
        Grown(reply_id=2, at=0, text="first of another"),
        Status(reply_id=2, status="status"),
    ]
    assert closed == Closed(reply_id=1, text="first second third", buttons=())


async def test_restarted_answer_takes_its_text_back(store: Store) -> None:
    """When an answer begins anew the relay is told to forget what it had."""
    outbox = Outbox(store, [])
    stream = outbox.stream()
    await take(stream, 1)
    outbox.open(reply(1))
    outbox.grow(1, "wrong")
    await take(stream, 1)

    outbox.rewrite(1, "")
    outbox.grow(1, "right")

    assert await take(stream, 1) == [Grown(reply_id=1, at=0, text="right")]


async def test_status_and_close_are_told(store: Store) -> None:
    """The place in the queue and the final text reach the relay; the button goes."""
    outbox = Outbox(store, [])
    stream = outbox.stream()
    await take(stream, 1)
    outbox.open(reply(1, buttons=(Button(label="Stop", data="stop:1"),)))
    await take(stream, 1)

    outbox.show_status(1, "2 ahead")
    (status,) = await take(stream, 1)
    outbox.close(1, "all of it")
    (closed,) = await take(stream, 1)

    assert status == Status(reply_id=1, status="2 ahead")
    assert closed == Closed(reply_id=1, text="all of it", buttons=())


async def test_newer_stream_ends_the_older(store: Store) -> None:
    """There is one relay at a time: the older stream ends and its writes are rejected."""
    outbox = Outbox(store, [reply(1)])
    older = outbox.stream()
    await take(older, 2)
    newer = outbox.stream()
    await take(newer, 2)

    assert await take(older, 1) == [Superseded()]
    with pytest.raises(StaleEpoch):
        await outbox.record_part(1, 1, 0, 91)
    with pytest.raises(StaleEpoch):
        outbox.claim(1, 1)
    with pytest.raises(StaleEpoch):
        await outbox.drop(1, 1)
    outbox.claim(2, 1)


async def test_recorded_part_is_in_the_next_snapshot(store: Store) -> None:
    """A relay that comes later edits the message that an earlier one sent."""
    stored = await store.run(store.add_reply, CHAT, 0)
    outbox = Outbox(store, [stored])
    await take(outbox.stream(), 2)

    await outbox.record_part(1, stored.id, 0, 91)

    _, opened = await take(outbox.stream(), 2)
    assert isinstance(opened, Opened)
    assert opened.reply.parts == (91,)
    (reread,) = await store.run(store.undelivered_replies)
    assert reread.parts == (91,)


async def test_delivered_reply_is_gone(store: Store) -> None:
    """What stands in its chat is in no snapshot any more, and in no file."""
    stored = await store.run(partial(store.add_reply, CHAT, 0, "text", closed=True))
    outbox = Outbox(store, [stored])
    await take(outbox.stream(), 2)

    await outbox.drop(1, stored.id)

    assert await take(outbox.stream(), 1) == [Hello(epoch=2, undelivered=())]
    assert await store.run(store.undelivered_replies) == []
    with pytest.raises(UnknownReply):
        outbox.claim(2, stored.id)
