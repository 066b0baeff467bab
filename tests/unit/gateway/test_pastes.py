"""What a client has cut into several messages is asked as one, and only that."""

from pathlib import Path
from typing import Any

import pytest

from services.gateway.access import Access
from services.gateway.inbox import PASTE_SECONDS, Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.wire import Batch
from tests.unit.fakes import USER, message, open_store

FULL = "x" * 4096
LONG = "word " * 700  # 3,500 units: cut at a space
NOW = 1_700_000_000


async def asks_of(directory: Path, *batches: list[dict[str, Any]]) -> tuple[list[str], Queue]:
    """What is asked after these batches, in order, and the queue."""
    async with open_store(directory) as store:
        queue = Queue()
        inbox = Inbox(
            store, queue, Outbox(store, []), Access(store, frozenset({USER, 8})), Limits(9, 9, 9000)
        )
        for batch in batches:
            await inbox.accept(Batch(bot_id=1, updates=batch))
        return [ask.text for ask in await store.run(store.asks)], queue


@pytest.mark.parametrize("is_one_batch", [True, False])
async def test_pieces_become_one_ask(tmp_path: Path, is_one_batch: bool) -> None:
    """However they arrive, and whatever the clock does in between."""
    pieces = [
        message(1, FULL),
        message(2, LONG, sent_at=NOW + 1),
        message(3, "end", sent_at=NOW + 1),
    ]
    batches = [pieces] if is_one_batch else [[piece] for piece in pieces]

    texts, queue = await asks_of(tmp_path, *batches)

    assert texts == [FULL + LONG.strip() + "\nend"]
    assert len(queue.waiting()) == 1


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"text": "short"}, {}, "what is not long was not cut"),
        ({"text": FULL}, {"sent_at": NOW + 2}, "it came later"),
        ({"text": FULL}, {"sent_at": NOW - 1}, "it is older"),
        ({"text": FULL}, {"user_id": 8}, "somebody else wrote it"),
        ({"text": FULL}, {"thread_id": 5}, "it is in another topic"),
        ({"text": FULL}, {"kind": "edit", "edited_at": 5}, "it is an edit"),
    ],
)
async def test_other_messages_stay_apart(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], why: str
) -> None:
    """Two messages are two asks."""
    texts, _ = await asks_of(tmp_path, [message(1, **first), message(2, "next", **second)])

    assert texts == [first["text"], "next"], why


async def test_command_after_a_long_message_is_a_command(tmp_path: Path) -> None:
    """/stop is heard whatever came before it; a path that begins a piece is none."""
    assert (await asks_of(tmp_path, [message(1, FULL), message(2, "/stop")]))[0] == []
    texts, _ = await asks_of(tmp_path, [message(3, FULL), message(4, "/usr/bin/env")])
    assert texts == [FULL + "/usr/bin/env"]


async def test_edit_of_a_piece_rewords_it(tmp_path: Path) -> None:
    """As long as the ask waits, each of its messages can be corrected."""
    edit = message(9, "fin", kind="edit", edited_at=5, message_id=1002)

    texts, _ = await asks_of(tmp_path, [message(1, FULL), message(2, "end")], [edit])

    assert texts == [FULL + "fin"]


async def test_long_message_waits_for_its_next_piece(tmp_path: Path) -> None:
    """It is not asked before the next piece may have come; a short one is asked at once."""
    _, queue = await asks_of(tmp_path, [message(1, LONG)])
    (ask,) = queue.waiting()
    ripe_in = queue._ripe_at[ask.id]
    _, queue = await asks_of(tmp_path, [message(2, "short", user_id=8, chat_id=8)])
    short = queue.waiting()[-1]

    assert PASTE_SECONDS - 0.5 < ripe_in - queue._ripe_at[short.id] <= PASTE_SECONDS + 0.5


async def test_pieces_survive_a_restart(tmp_path: Path) -> None:
    """An ask of several messages is read back as it was."""
    await asks_of(tmp_path, [message(1, FULL), message(2, "end")])
    store = Store(tmp_path / "store.db", "0" * 63 + "1")

    (ask,) = await store.run(store.asks)

    store.close()
    assert [piece.message_id for piece in ask.pieces] == [1001, 1002]
    assert ask.text == FULL + "end"
