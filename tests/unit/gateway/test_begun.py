"""An ask that waits again after a crash has been answered in part: that part is not forgotten."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Checkpoint, Store, Usage
from services.wire import Batch
from tests.unit.fakes import USER, message, open_store, press, put_menu

LONG = "x" * 3000
SPENT = Usage(10, 1, 5)


@dataclass
class Gateway:
    store: Store
    inbox: Inbox

    async def accept(self, update: dict[str, Any]) -> None:
        await self.inbox.accept(Batch(bot_id=1, updates=[update]))

    async def begin(self, text: str) -> None:
        """Answer an ask in part, as a gateway does that then dies."""
        await self.accept(message(1, text))
        [ask] = await self.store.run(self.store.asks)
        await self.store.run(self.store.take_ask, ask.id)
        await self.store.run(self.store.save, [Checkpoint(ask.id, ask.reply_id, "so far", SPENT)])
        await self.store.run(self.store.requeue_asks)

    async def texts(self) -> list[str]:
        return [reply.text for reply in await self.store.run(self.store.undelivered_replies)]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with open_store(tmp_path) as store:
        access = Access(store, frozenset({USER}))
        yield Gateway(store, Inbox(store, Queue(), Outbox(store, []), access, Limits(9, 9, 9000)))


@pytest.mark.parametrize("how", ["command", "button"])
async def test_stop_keeps_what_was_said_and_what_it_cost(gateway: Gateway, how: str) -> None:
    """It is as if the answer were being written: its user has seen it."""
    await gateway.begin("question")
    [ask] = await gateway.store.run(gateway.store.asks)
    press = {"kind": "press", "press_id": "1", "press_data": f"stop:{ask.id}"}

    await gateway.accept(message(2, "/stop") if how == "command" else message(2, None, **press))

    [usage] = await gateway.store.run(gateway.store.usage, 1)
    assert await gateway.texts() == ["so far\n\n(stopped)"]
    assert usage.usage == SPENT


async def test_forget_keeps_nothing_of_it(gateway: Gateway) -> None:
    """Only its cost is noted."""
    await gateway.begin("question")

    await gateway.store.run(put_menu, gateway.store)
    await gateway.accept(press(2, "forget"))

    [usage] = await gateway.store.run(gateway.store.usage, 1)
    assert (await gateway.texts())[0] == "(stopped)"
    assert usage.usage == SPENT


@pytest.mark.parametrize(
    ("first", "change"),
    [
        ("question", {"text": "another", "kind": "edit", "edited_at": 5, "message_id": 1001}),
        (LONG, {"text": "the end of the paste"}),
    ],
    ids=["edited", "lengthened"],
)
async def test_changed_question_is_answered_from_the_beginning(
    gateway: Gateway, first: str, change: dict[str, Any]
) -> None:
    """The answer to the old wording is not gone on with."""
    await gateway.begin(first)

    await gateway.accept(message(2, **({"text": ""} | change)))

    [ask] = await gateway.store.run(gateway.store.asks)
    taken = await gateway.store.run(gateway.store.take_ask, ask.id)
    assert taken
    assert taken[0].text != first
    assert taken[1] == ""
