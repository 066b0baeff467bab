"""A group that becomes a supergroup keeps its conversation, and what is on its way."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.gateway.access import Access
from services.gateway.app import build_app
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import NOTHING, Piece, Store, Turn, WantedDocument
from services.wire import VERSION, VERSION_HEADER, Opened, Update
from tests.unit.fakes import USER, message, open_store

GROUP = -5
SUPERGROUP = -1_000_000_000_005
LINK = "L" * 43
MOVE = Update(
    update_id=50, kind="move", chat_id=GROUP, chat_kind="group", user_id=0, message_id=50,
    sent_at=0, moved_to=SUPERGROUP,
).model_dump()  # fmt: skip


@dataclass
class Gateway:
    store: Store
    outbox: Outbox
    queue: Queue
    client: httpx.AsyncClient

    async def post(self, path: str, **body: object) -> int:
        return (await self.client.post(path, json=body)).status_code

    async def updates(self, *updates: dict[str, object]) -> int:
        return await self.post("/chat", bot_id=1, updates=list(updates))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with open_store(tmp_path) as store:
        outbox, queue = Outbox(store, []), Queue()
        access = Access(store, frozenset({USER}))
        inbox = Inbox(store, queue, outbox, access, Limits(9, 9, 9000))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(inbox, outbox, LINK)),
            base_url="http://gateway",
            headers={"Authorization": f"Bearer {LINK}", VERSION_HEADER: str(VERSION)},
        ) as client:
            yield Gateway(store, outbox, queue, client)


async def converse(store: Store) -> None:
    reply = await store.run(store.add_reply, (GROUP, 0), 5)
    pieces = [Piece(5, "question", 0)]
    ask = await store.run(store.add_ask, reply.id, USER, (GROUP, 0), "en", pieces)
    await store.run(store.finish_ask, ask, "answer", "answer", NOTHING)
    await store.run(store.drop_reply, reply.id)


async def test_conversation_moves_with_the_group(gateway: Gateway) -> None:
    """Turns are found under the new id, under the old one nothing; telling it twice is harmless."""
    await converse(gateway.store)

    assert await gateway.updates(MOVE) == 200
    assert await gateway.updates(MOVE | {"update_id": 51}) == 200

    turns = await gateway.store.run(gateway.store.latest_turns, (SUPERGROUP, 0), 9)
    assert turns == [Turn("user", "question"), Turn("assistant", "answer")]
    assert await gateway.store.run(gateway.store.latest_turns, (GROUP, 0), 9) == []


async def test_answer_under_way_goes_on_in_the_supergroup(gateway: Gateway) -> None:
    """It is opened anew there, without messages; ids of the group's messages are refused."""
    await gateway.updates(message(1, "hello", chat_id=GROUP, chat_kind="group"))
    stream = gateway.outbox.stream()
    await anext(stream)
    opened = await anext(stream)
    assert isinstance(opened, Opened)
    reply = f"/replies/{opened.reply.id}"
    assert await gateway.post(f"{reply}/parts", epoch=1, position=0, message_id=9) == 204
    gateway.outbox.grow(opened.reply.id, "so far")

    moved = await gateway.post(f"{reply}/outcome", epoch=1, outcome="moved", moved_to=SUPERGROUP)

    again = await anext(stream)
    assert moved == 204
    assert isinstance(again, Opened)
    assert (again.reply.chat_id, again.reply.parts) == (SUPERGROUP, ())
    assert (again.reply.reply_to, again.reply.text) == (0, "so far")
    part = {"epoch": 1, "position": 0, "message_id": 10}
    assert await gateway.post(f"{reply}/parts", **part, chat_id=GROUP) == 404
    assert await gateway.post(f"{reply}/parts", **part, chat_id=SUPERGROUP) == 204
    (ask,) = await gateway.store.run(gateway.store.asks, (SUPERGROUP, 0))
    assert ask.text == "hello"


async def test_move_that_is_found_twice_is_one(gateway: Gateway) -> None:
    """Telegram's note and the relay's refused edit tell of the same move, in either order."""
    await gateway.updates(message(1, "hello", chat_id=GROUP, chat_kind="group"))
    stream = gateway.outbox.stream()
    await anext(stream)
    opened = await anext(stream)
    assert isinstance(opened, Opened)
    await gateway.updates(MOVE)
    reply = f"/replies/{opened.reply.id}"
    part = {"epoch": 1, "position": 0, "message_id": 10, "chat_id": SUPERGROUP}
    assert await gateway.post(f"{reply}/parts", **part) == 204

    moved = await gateway.post(f"{reply}/outcome", epoch=1, outcome="moved", moved_to=SUPERGROUP)

    (stored,) = await gateway.store.run(gateway.store.undelivered_replies)
    assert moved == 204
    assert (stored.chat_id, stored.parts) == (SUPERGROUP, (10,))
    assert await gateway.store.run(gateway.store.conversation, (SUPERGROUP, 0)) == 0


async def test_answer_that_is_resumed_after_the_move_knows_what_was_said(gateway: Gateway) -> None:
    """The ask was read in the group; what it continues is in the supergroup by now."""
    await converse(gateway.store)
    await gateway.updates(message(1, "hello", chat_id=GROUP, chat_kind="group"))
    (ask,) = await gateway.store.run(gateway.store.asks)
    await gateway.updates(MOVE)

    turns = await gateway.store.run(gateway.store.turns_before, ask, 9)

    assert ask.chat == (GROUP, 0)
    assert [turn.text for turn in turns] == ["question", "answer"]


async def test_answer_is_remembered_where_its_question_moved(gateway: Gateway) -> None:
    """An answer that ends after the move belongs to the supergroup's conversation."""
    await gateway.store.run(gateway.store.start_conversation, (GROUP, 0))
    await gateway.updates(message(1, "hello", chat_id=GROUP, chat_kind="group"))
    (ask,) = await gateway.store.run(gateway.store.asks)
    await gateway.updates(MOVE)

    await gateway.store.run(gateway.store.finish_ask, ask, "answer", "answer", NOTHING)

    turns = await gateway.store.run(gateway.store.latest_turns, (SUPERGROUP, 0), 9)
    assert [turn.text for turn in turns] == ["hello", "answer"]


async def test_questions_stay_in_order_when_their_group_moves(gateway: Gateway) -> None:
    """One asked in the supergroup waits for the one that the group's was asked before."""
    await gateway.updates(message(1, "first", chat_id=GROUP, chat_kind="group"))
    await gateway.updates(message(2, "second", chat_id=GROUP, chat_kind="group"))
    running = await gateway.queue.next()
    await gateway.updates(MOVE)
    await gateway.updates(message(3, "third", chat_id=SUPERGROUP, chat_kind="supergroup"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gateway.queue.next()

    served = []
    for _ in range(2):
        gateway.queue.release(running)
        running = await gateway.queue.next()
        served.append(running.ask.text)
    assert served == ["second", "third"]


async def test_pictures_move_with_the_group(gateway: Gateway) -> None:
    """Those of the conversation, those of an ask that waits, and those that are still wanted."""
    store = gateway.store
    for number in (1, 2):
        reply = await store.run(store.add_reply, (GROUP, 0), 5)
        pieces = [Piece(5, f"question {number}", 0)]
        ask = await store.run(store.add_ask, reply.id, USER, (GROUP, 0), "en", pieces)
        for name in ("first", "second"):
            wanted = WantedDocument(name, "photo", "", 5)
            ask = await store.run(store.want_another, ask, wanted)
        ask = await store.run(store.add_document, ask, wanted, b"picture")
        if number == 1:
            await store.run(store.finish_ask, ask, "answer", "answer", NOTHING)

    await gateway.updates(MOVE)

    (waits,) = await store.run(store.asks, (SUPERGROUP, 0))
    turns = await store.run(store.turns_before, waits, 9)
    assert [len(turn.pictures) for turn in turns] == [1, 0]
    assert (len(waits.pictures), waits.lacks_document) == (1, True)
    replies = await store.run(store.undelivered_replies)
    assert [reply.document for reply in replies] == ["", "first"]
