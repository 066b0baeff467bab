"""Owns the promises about updates: order, confirmation, redelivery, long polling, conflicts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.stubs.telegram.budgets import Limits
from tests.stubs.telegram.client import Clock, Refused, Session, started
from tests.stubs.telegram.stub import Options
from tests.stubs.telegram.updates import KINDS, OTHER_POLLER

FREE = Options(limits=Limits(repeat_guard=False, conflict_seconds=0.0))


async def ids(telegram: Session, **parameters: object) -> list[int]:
    """Call getUpdates and return the ids of what came."""
    return [update["update_id"] for update in await telegram.result("getUpdates", **parameters)]


async def until_polled(telegram: Session) -> None:
    """Wait until a getUpdates call is waiting."""
    deadline = time.monotonic() + 5
    while not (await telegram.get("state"))["active_poller"]:
        assert time.monotonic() < deadline, "nobody polls"


async def test_update_comes_again_until_a_higher_offset_confirms_it() -> None:
    """An update is delivered until a later call has an offset above it, and never after."""
    async with started(FREE) as telegram:
        first = (await telegram.say(7, "one"))["update_id"]
        second = (await telegram.say(7, "two"))["update_id"]

        assert second == first + 1
        assert await ids(telegram) == [first, second]
        assert await ids(telegram, offset=first) == [first, second]
        assert await ids(telegram, offset=second) == [second]
        assert await ids(telegram, offset=0) == [second]
        assert await ids(telegram, offset=second + 1) == []
        assert await ids(telegram, offset=0) == []

        kinds = [
            entry["kind"]
            for entry in await telegram.entries(update_id=first)
            if entry["kind"] != "say"
        ]
        assert kinds == ["queued", "delivered", "redelivered", "confirmed"]


async def test_limit_takes_the_oldest() -> None:
    """At most `limit` updates come at once, oldest first; limits outside 1..100 are clamped."""
    async with started(FREE) as telegram:
        batch = [{"kind": "say", "user": {"id": 7}, "text": str(n)} for n in range(120)]
        numbers = [answer["update_id"] for answer in await telegram.post("batch", batch)]

        assert await ids(telegram, limit=3) == numbers[:3]
        assert await ids(telegram) == numbers[:100]
        assert await ids(telegram, limit=1000) == numbers[:100]
        assert await ids(telegram, limit=-5) == numbers[:1]


async def test_negative_offset_keeps_the_newest_only() -> None:
    """Offset -n forgets all but the last n updates for good."""
    async with started(FREE) as telegram:
        numbers = [(await telegram.say(7, str(n)))["update_id"] for n in range(5)]

        assert await ids(telegram, offset=-2) == numbers[3:]
        assert await ids(telegram, offset=0) == numbers[3:]
        dropped = await telegram.entries(kind="dropped")
        assert [entry["update_id"] for entry in dropped] == numbers[:3]


async def test_offset_far_in_the_future_confirms_nothing() -> None:
    """An offset more than ten above the next id starts over at the oldest update."""
    async with started(FREE) as telegram:
        number = (await telegram.say(7, "x"))["update_id"]

        assert await ids(telegram, offset=number + 100) == [number]
        assert (await telegram.get("state"))["pending_update_count"] == 1


async def test_long_poll_ends_with_the_first_update() -> None:
    """A waiting call answers as soon as an update comes, long before its timeout."""
    async with started(FREE) as telegram:
        await telegram.result("getMe")
        poll = asyncio.create_task(ids(telegram, timeout=30))
        await until_polled(telegram)
        began = time.monotonic()

        number = (await telegram.say(7, "x"))["update_id"]

        assert await poll == [number]
        assert time.monotonic() - began < 1


async def test_long_poll_ends_empty_at_its_timeout() -> None:
    """Without updates a call waits its timeout out and answers with an empty list."""
    async with started(FREE) as telegram:
        began = time.monotonic()

        assert await ids(telegram, timeout=1) == []

        assert 0.9 < time.monotonic() - began < 2


async def test_batch_arrives_in_one_answer() -> None:
    """What is queued by one batch wakes a waiting call once, with all of it."""
    async with started(FREE) as telegram:
        poll = asyncio.create_task(ids(telegram, timeout=30))
        await until_polled(telegram)

        batch = [{"kind": "say", "user": {"id": n}, "text": "x"} for n in range(1, 51)]
        numbers = [answer["update_id"] for answer in await telegram.post("batch", batch)]

        assert await poll == numbers


async def test_second_poller_ends_the_first() -> None:
    """One call may wait at a time: a second one ends the first with 409 and takes its place."""
    async with started(FREE) as telegram:
        first = asyncio.create_task(telegram.call("getUpdates", timeout=30))
        await until_polled(telegram)
        second = asyncio.create_task(telegram.call("getUpdates", timeout=30))

        answer = await first
        await telegram.say(7, "x")

        assert answer == {"ok": False, "error_code": 409, "description": OTHER_POLLER}
        assert len((await second)["result"]) == 1


async def test_repeated_conflicts_are_answered_slowly() -> None:
    """Only the first conflict of a while is answered at once; the next ones wait."""
    options = Options(limits=Limits(repeat_guard=False, conflict_seconds=0.4))
    async with started(options) as telegram:
        await telegram.result("setWebhook", url="https://example.org/hook")
        began = time.monotonic()

        assert "webhook is active" in await telegram.error("getUpdates")
        assert time.monotonic() - began < 0.3
        assert "webhook is active" in await telegram.error("getUpdates")
        assert time.monotonic() - began > 0.4


async def test_webhook_and_polling_exclude_each_other() -> None:
    """setWebhook ends a waiting call and forbids new ones until deleteWebhook."""
    async with started(FREE) as telegram:
        poll = asyncio.create_task(telegram.error("getUpdates", timeout=30))
        await until_polled(telegram)

        await telegram.result("setWebhook", url="https://example.org/hook")

        assert await poll == "Conflict: terminated by setWebhook request"
        assert await telegram.error("getUpdates") == (
            "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to "
            "delete the webhook first"
        )
        assert (await telegram.result("getWebhookInfo"))["url"] == "https://example.org/hook"
        assert (await telegram.call("deleteWebhook"))["description"] == "Webhook was deleted"
        again = await telegram.call("deleteWebhook")
        assert again["description"] == "Webhook is already deleted"
        assert await ids(telegram) == []


async def test_delete_webhook_can_drop_what_is_pending() -> None:
    """drop_pending_updates forgets the queue; without it the queue stays."""
    async with started(FREE) as telegram:
        await telegram.say(7, "x")

        await telegram.result("deleteWebhook")
        assert (await telegram.result("getWebhookInfo"))["pending_update_count"] == 1
        await telegram.result("deleteWebhook", drop_pending_updates=True)

        assert (await telegram.result("getWebhookInfo"))["pending_update_count"] == 0


async def test_allowed_updates_decide_what_is_queued_and_are_remembered() -> None:
    """Kinds that the bot did not list are not queued; a call without a list changes nothing."""
    async with started(FREE) as telegram:
        await ids(telegram, allowed_updates=["message"])
        await ids(telegram)

        said = (await telegram.say(7, "x"))["update_id"]
        edited = await telegram.post("edit", {"user": {"id": 7}, "message_id": 1, "text": "y"})

        assert edited["update_id"] is None
        assert await ids(telegram) == [said]
        assert (await telegram.result("getWebhookInfo"))["allowed_updates"] == ["message"]


async def test_default_kinds_leave_out_three() -> None:
    """Unasked, a bot gets no chat_member and no reactions; an empty list means this default."""
    async with started(FREE) as telegram:
        await ids(telegram, allowed_updates=["message_reaction"])
        await ids(telegram, allowed_updates=[])

        allowed = (await telegram.get("state"))["allowed_updates"]

        assert set(KINDS) - set(allowed) == {
            "chat_member",
            "message_reaction",
            "message_reaction_count",
        }
        assert "allowed_updates" not in await telegram.result("getWebhookInfo")


@pytest.mark.parametrize("garbage", ["{}", "nonsense", "[1]", '"message"'])
async def test_malformed_allowed_updates_change_nothing(garbage: str) -> None:
    """What is no JSON list of names is ignored, as on the real server."""
    async with started(FREE) as telegram:
        await ids(telegram, allowed_updates=["message"])

        await ids(telegram, allowed_updates=garbage)

        assert (await telegram.get("state"))["allowed_updates"] == ["message"]


@pytest.mark.parametrize(("kind", "lifetime"), [("message", 86_400), ("callback_query", 150)])
async def test_unconfirmed_updates_expire(kind: str, lifetime: int) -> None:
    """Messages are kept for 24 hours, button presses for 150 seconds."""
    clock = Clock()
    async with started(FREE, clock) as telegram:
        number = (await telegram.post("update", {kind: {"id": "1"}}))["update_id"]

        clock.now += lifetime - 1
        assert await ids(telegram) == [number]
        clock.now += 1

        assert await ids(telegram) == []
        assert [e["update_id"] for e in await telegram.entries(kind="expired")] == [number]


async def test_repeated_offset_gives_one_update_at_first() -> None:
    """The same offset again within 0.5 s gives one update only, later all of them."""
    clock = Clock()
    async with started(Options(), clock) as telegram:
        numbers = [(await telegram.say(7, str(n)))["update_id"] for n in range(3)]

        assert await ids(telegram, offset=numbers[0]) == numbers
        assert await ids(telegram, offset=numbers[0]) == numbers[:1]
        clock.now += 1
        assert await ids(telegram, offset=numbers[0]) == numbers


async def test_repeated_short_poll_is_made_to_wait() -> None:
    """The same offset again within 3 s makes a call without timeout wait like a long poll."""
    async with started() as telegram:
        await ids(telegram, offset=5)
        poll = asyncio.create_task(ids(telegram, offset=5))
        await until_polled(telegram)

        number = (await telegram.say(7, "x"))["update_id"]

        assert await poll == [number]


async def test_update_of_any_kind_can_be_injected() -> None:
    """Raw updates are delivered as they are, kinds unknown to the stub included."""
    async with started(FREE) as telegram:
        await ids(telegram, allowed_updates=["message"])

        await telegram.post("update", {"hologram": {"depth": 3}, "update_id": 77})
        refused = await telegram.post("update", {"poll": {"id": "1"}})
        await telegram.post("update", {"poll": {"id": "1"}, "force": True})

        assert refused["update_id"] is None
        assert await telegram.result("getUpdates") == [
            {"update_id": 77, "hologram": {"depth": 3}},
            {"update_id": 78, "poll": {"id": "1"}},
        ]


async def test_ids_may_step_back_only_over_an_empty_queue() -> None:
    """Telegram restarts ids at random after a quiet week; while updates wait they only grow."""
    async with started(FREE) as telegram:
        number = (await telegram.say(7, "x"))["update_id"]

        with pytest.raises(Refused, match="while updates are pending"):
            await telegram.post("update", {"message": {}, "update_id": number - 1000})
        await ids(telegram, offset=number + 1)
        await telegram.post("update", {"message": {}, "update_id": number - 1000})

        assert await ids(telegram) == [number - 1000]


async def test_big_answers_are_cut() -> None:
    """An answer holds at most about 4 MB of updates; the rest comes with the next call."""
    async with started(FREE) as telegram:
        for n in range(6):
            await telegram.post("update", {"message": {"filler": str(n) * 900_000}})

        assert len(await ids(telegram)) == 4


async def test_edits_reach_the_bot() -> None:
    """A user's edit comes as edited_message with the new text and the old id."""
    async with started(FREE) as telegram:
        said = await telegram.say(7, "one")

        await telegram.post(
            "edit", {"user": {"id": 7}, "message_id": said["message_id"], "text": "two"}
        )

        updates: list[dict[str, Any]] = await telegram.result("getUpdates")
        assert updates[1]["edited_message"]["text"] == "two"
        assert updates[1]["edited_message"]["message_id"] == said["message_id"]
        assert updates[1]["edited_message"]["edit_date"] >= updates[0]["message"]["date"]
