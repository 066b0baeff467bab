"""Owns the promises about speed: budgets per chat, per group and for the bot as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stubs.telegram.budgets import Budgets, Limits
from tests.stubs.telegram.client import Clock, Refused, Session, started
from tests.stubs.telegram.stub import Options

WIDE = Limits(
    private_rate=1.0,
    private_burst=3.0,
    group_rate=0.5,
    group_burst=2.0,
    global_rate=1000.0,
    global_burst=1000.0,
)


async def flood(telegram: Session, chat_id: int, count: int) -> list[bool]:
    """Send messages to a chat; return which of them went through."""
    return [
        (await telegram.call("sendMessage", chat_id=chat_id, text=f"{n}"))["ok"]
        for n in range(count)
    ]


async def test_burst_then_429_with_the_seconds_to_wait() -> None:
    """After the burst a send is 429 with retry_after; after that wait the next one passes."""
    clock = Clock()
    async with started(Options(limits=WIDE), clock) as telegram:
        await telegram.say(7, "hi")

        assert await flood(telegram, 7, 4) == [True, True, True, False]

        address = f"{telegram.bot_address}/sendMessage"
        async with telegram.http.post(address, json={"chat_id": 7, "text": "x"}) as response:
            answer = await response.json()
        assert response.status == 429
        assert response.headers["Retry-After"] == "1"
        assert answer == {
            "ok": False,
            "error_code": 429,
            "description": "Too Many Requests: retry after 1",
            "parameters": {"retry_after": 1},
        }
        clock.now += 1
        assert await flood(telegram, 7, 2) == [True, False]
        clock.now += 100
        assert await flood(telegram, 7, 4) == [True, True, True, False]


async def test_edits_count_like_messages() -> None:
    """An edit uses the chat's budget up, and so does one that changes nothing."""
    clock = Clock()
    async with started(Options(limits=WIDE), clock) as telegram:
        await telegram.say(7, "hi")
        message = await telegram.result("sendMessage", chat_id=7, text="a")
        place = {"chat_id": 7, "message_id": message["message_id"]}

        await telegram.result("editMessageText", **place, text="b")
        assert "not modified" in await telegram.error("editMessageText", **place, text="b")

        assert "retry after" in await telegram.error("editMessageText", **place, text="c")
        assert "retry after" in await telegram.error("sendMessage", chat_id=7, text="c")


async def test_refused_requests_and_actions_cost_nothing() -> None:
    """Malformed sends, 429s and chat actions leave the budget alone."""
    clock = Clock()
    async with started(Options(limits=WIDE), clock) as telegram:
        await telegram.say(7, "hi")

        for _ in range(5):
            await telegram.error("sendMessage", chat_id=7, text="")
            await telegram.result("sendChatAction", chat_id=7, action="typing")

        assert await flood(telegram, 7, 6) == [True] * 3 + [False] * 3
        clock.now += 1
        assert await flood(telegram, 7, 1) == [True]


async def test_chats_have_budgets_of_their_own() -> None:
    """One chat's flood does not slow another; groups have the group's budget."""
    clock = Clock()
    async with started(Options(limits=WIDE), clock) as telegram:
        await telegram.say(7, "hi")
        await telegram.say(8, "hi")
        await telegram.say(7, "hi", chat={"id": -5, "type": "group", "title": "G"})

        assert await flood(telegram, 7, 4) == [True, True, True, False]
        assert await flood(telegram, 8, 4) == [True, True, True, False]
        assert await flood(telegram, -5, 3) == [True, True, False]
        clock.now += 1
        answer = await telegram.call("sendMessage", chat_id=-5, text="x")
        assert answer["parameters"] == {"retry_after": 1}
        clock.now += 1
        assert await flood(telegram, -5, 1) == [True]


async def test_bot_has_one_budget_over_all_chats() -> None:
    """The global budget holds however many chats share it, and comes back with time."""
    clock = Clock()
    limits = replace(WIDE, global_rate=10.0, global_burst=5.0)
    async with started(Options(limits=limits), clock) as telegram:
        for user in range(1, 9):
            await telegram.say(user, "hi")

        passed = [(await flood(telegram, user, 1))[0] for user in range(1, 9)]

        assert passed == [True] * 5 + [False] * 3
        clock.now += 0.2
        assert (await flood(telegram, 7, 1), await flood(telegram, 8, 2)) == ([True], [True, False])


def test_waiting_as_told_is_enough() -> None:
    """A call after exactly retry_after seconds always passes."""
    clock = Clock()
    limits = Limits(group_rate=20 / 60, group_burst=20)
    budgets = Budgets(limits, clock)
    for _ in range(200):
        wait = budgets.charge(-5)
        clock.now += wait
        assert wait == 0 or budgets.charge(-5) == 0

    assert clock.now > 1000


def test_group_gets_twenty_a_minute() -> None:
    """Over an hour a group lets through its burst and then twenty messages a minute."""
    clock = Clock()
    budgets = Budgets(Limits(), clock)
    passed = 0
    for _ in range(36_000):
        passed += budgets.charge(-5) == 0
        clock.now += 0.1

    assert passed == pytest.approx(20 + 60 * 20, abs=2)


async def test_limits_change_at_run_time() -> None:
    """POST /limits changes what it names and refills the budgets; mistakes are named."""
    async with started(Options(limits=WIDE)) as telegram:
        await telegram.say(7, "hi")
        await flood(telegram, 7, 4)

        limits = await telegram.post("limits", {"private_burst": 1})

        assert (limits["private_burst"], limits["private_rate"]) == (1, 1.0)
        assert await flood(telegram, 7, 2) == [True, False]
        await telegram.post("limits", {"budgets": False})
        assert await flood(telegram, 7, 50) == [True] * 50
        with pytest.raises(Refused, match="is unknown"):
            await telegram.post("limits", {"speed": 1})
        with pytest.raises(Refused, match="give a number"):
            await telegram.post("limits", {"private_burst": True})
