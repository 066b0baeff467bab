"""Whatever Telegram does, each answer stands in its chat once, and no chat holds up another."""

import asyncio
from typing import Any

import pytest

from tests.unit.fakes import USER, until
from tests.unit.path.conftest import Path_

FAULTS: list[dict[str, Any]] = [
    {"method": "sendMessage", "kind": "status", "status": 500},
    {"method": "sendMessage", "kind": "retry_after", "seconds": 1},
    {"method": "editMessageText", "kind": "status", "status": 502},
    {"method": "editMessageText", "kind": "retry_after", "seconds": 2},
    {"method": "editMessageText", "kind": "reset"},
    {"method": "getUpdates", "kind": "status", "status": 502},
    {"method": "getUpdates", "kind": "lose_answer"},
    {"method": "sendChatAction", "kind": "status", "status": 500},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault['method']}-{fault['kind']}")
async def test_passing_fault_costs_nothing(path: Path_, fault: dict[str, Any]) -> None:
    """After a fault that passes there is exactly one answer in exactly one message."""
    await path.post("/fault", fault | {"count": 1})

    await path.say("hello")

    assert await path.wait_for_answers(1) == ["fine"]
    assert len(await path.shown()) == 1
    assert len(path.engine.requests) == 1


async def test_lost_answer_to_a_placeholder_leaves_it_empty(path: Path_) -> None:
    """If Telegram took the placeholder but its answer was lost, text still stands once."""
    await path.post("/fault", {"method": "sendMessage", "kind": "lose_answer", "count": 1})

    await path.say("hello")
    await path.wait_for_answers(1)

    texts = [message["text"] for message in await path.shown()]
    assert sorted(texts) == ["fine", "…"]


async def test_unanswered_final_is_asserted_again(path: Path_) -> None:
    """An edit of which no answer came may land late, so the final is repeated once it is quiet."""
    await path.post("/fault", {"method": "editMessageText", "kind": "lose_answer", "count": 1})

    await path.say("hello")
    await path.wait_for_answers(1)

    async def edits() -> int:
        return len(await path.calls("editMessageText"))

    while await edits() < 3:  # the lost one, its repetition, and the one after the quiet moment
        await asyncio.sleep(0.05)
    assert [message["text"] for message in await path.shown()] == ["fine"]


async def test_user_who_blocked_the_bot_is_let_go(path: Path_) -> None:
    """The reply is settled as undeliverable, and others are served as before."""
    held = asyncio.Event()
    path.engine.scripts.append(["never seen", held])
    await path.say("hello", user=8)
    await until(lambda: path.engine.requests, "the engine is asked")
    await path.post("/block", {"chat_id": 8})
    held.set()

    await path.say("hello")
    assert await path.wait_for_answers(1) == ["fine"]

    await path.kill("relay")
    await path.post("/limits", {})
    await path.start_relay()
    await path.say("again")
    assert len(await path.wait_for_answers(2)) == 2


async def test_deleted_answer_stays_deleted(path: Path_) -> None:
    """A user who deletes the growing answer gets no second one, and the chat goes on."""
    go_on = asyncio.Event()
    path.engine.scripts.append(["beginning", go_on, " end"])
    await path.say("hello")
    while not (shown := await path.shown()) or shown[0]["text"] == "…":
        await asyncio.sleep(0.02)
    await path.post(
        "/fault",
        {
            "method": "editMessageText",
            "kind": "status",
            "status": 400,
            "description": "Bad Request: message to edit not found",
            "count": 3,
        },
    )
    go_on.set()
    await path.post("/say", {"user": {"id": USER, "first_name": "U"}, "text": "next"})

    async def sent() -> int:
        return len(await path.calls("sendMessage"))

    while await sent() < 2:
        await asyncio.sleep(0.02)
    assert await sent() == 2


async def test_strange_updates_do_not_stop_the_relay(path: Path_) -> None:
    """Kinds that nobody knows, broken and foreign updates are skipped; the next one is served."""
    for update in (
        {"poll": {"id": "1"}},
        {"kind_of_tomorrow": {"a": 1}},
        {"message": {"message_id": 1}},
        {"message": None},
    ):
        await path.post("/update", update)

    await path.say("hello")

    assert await path.wait_for_answers(1) == ["fine"]
