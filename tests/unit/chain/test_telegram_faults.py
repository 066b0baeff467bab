"""Whatever Telegram does, each answer stands in its chat once, and no chat holds up another."""

import asyncio
from typing import Any

import pytest

from services.relay.inbox import BadToken
from tests.unit.chain.conftest import Chain
from tests.unit.fakes import USER, until

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
async def test_passing_fault_costs_nothing(chain: Chain, fault: dict[str, Any]) -> None:
    """After a fault that passes there is exactly one answer in exactly one message."""
    await chain.post("/fault", fault | {"count": 1})

    await chain.say("hello")

    assert await chain.wait_for_answers(1) == ["fine"]
    assert len(await chain.shown()) == 1
    assert len(chain.engine.requests) == 1


async def test_lost_answer_to_a_placeholder_leaves_it_empty(chain: Chain) -> None:
    """If Telegram took the placeholder but its answer was lost, text still stands once."""
    await chain.post("/fault", {"method": "sendMessage", "kind": "lose_answer", "count": 1})

    await chain.say("hello")
    await chain.wait_for_answers(1)

    texts = [message["text"] for message in await chain.shown()]
    assert sorted(texts) == ["fine", "…"]


async def test_unanswered_final_is_asserted_again(chain: Chain) -> None:
    """An edit of which no answer came may land late, so the final is repeated once it is quiet."""
    await chain.post("/fault", {"method": "editMessageText", "kind": "lose_answer", "count": 1})

    await chain.say("hello")
    await chain.wait_for_answers(1)

    async def edits() -> int:
        return len(await chain.calls("editMessageText"))

    while await edits() < 3:  # the lost one, its repetition, and the one after the quiet moment
        await asyncio.sleep(0.05)
    assert [message["text"] for message in await chain.shown()] == ["fine"]


async def test_user_who_blocked_the_bot_is_let_go(chain: Chain) -> None:
    """The reply is settled as undeliverable, and others are served as before."""
    held = asyncio.Event()
    chain.engine.scripts.append(["never seen", held])
    await chain.say("hello", user=8)
    await until(lambda: chain.engine.requests, "the engine is asked")
    await chain.post("/block", {"chat_id": 8})
    held.set()

    await chain.say("hello")
    assert await chain.wait_for_answers(1) == ["fine"]

    await chain.kill("relay")
    await chain.post("/limits", {})
    await chain.start_relay()
    await chain.say("again")
    assert len(await chain.wait_for_answers(2)) == 2


async def test_deleted_answer_stays_deleted(chain: Chain) -> None:
    """A user who deletes the growing answer gets no second one, and the chat goes on."""
    go_on = asyncio.Event()
    chain.engine.scripts.append(["beginning", go_on, " end"])
    await chain.say("hello")
    while not (shown := await chain.shown()) or shown[0]["text"] == "…":
        await asyncio.sleep(0.02)
    await chain.post(
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
    await chain.post("/say", {"user": {"id": USER, "first_name": "U"}, "text": "next"})

    async def sent() -> int:
        return len(await chain.calls("sendMessage"))

    while await sent() < 2:
        await asyncio.sleep(0.02)
    assert await sent() == 2


async def test_strange_updates_do_not_stop_the_relay(chain: Chain) -> None:
    """Kinds that nobody knows, broken and foreign updates are skipped; the next one is served."""
    for update in (
        {"poll": {"id": "1"}},
        {"kind_of_tomorrow": {"a": 1}},
        {"message": {"message_id": 1}},
        {"message": None},
    ):
        await chain.post("/update", update)

    await chain.say("hello")

    assert await chain.wait_for_answers(1) == ["fine"]


async def test_revoked_token_stops_the_relay_with_a_sentence(chain: Chain) -> None:
    """Telegram does not know the token any more: the relay ends, and says what to do."""
    await chain.post("/tokens", {"accept": ["999:" + "B" * 35]})
    relay = chain.tasks.pop("relay")

    with pytest.raises(BaseExceptionGroup) as stopped:
        await asyncio.wait_for(relay, 15)

    assert stopped.group_contains(BadToken)
    assert "put the one that BotFather shows" in str(BadToken.__doc__)


async def test_telegram_that_is_away_at_the_start(chain: Chain) -> None:
    """A relay that cannot learn its own name yet tries again, and serves then."""
    await chain.kill("relay")
    await chain.post("/fault", {"method": "getMe", "kind": "status", "status": 502, "count": 2})

    await chain.start_relay()
    await chain.say("hello")

    assert await chain.wait_for_answers(1) == ["fine"]
    await chain.wait_until_hit()


async def test_wrong_token_stops_the_relay_at_the_start(chain: Chain) -> None:
    """A relay that is started with a token that Telegram does not know ends at once."""
    await chain.kill("relay")
    await chain.post("/tokens", {"accept": ["999:" + "B" * 35]})

    await chain.start_relay()
    relay = chain.tasks.pop("relay")

    with pytest.raises(BaseExceptionGroup) as stopped:
        await asyncio.wait_for(relay, 15)
    assert stopped.group_contains(BadToken)
