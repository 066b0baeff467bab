"""What an attack on both services found, one test each: what it broke holds from now on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from services.gateway.engine import EngineFailed
from services.gateway.outbox import StaleEpoch
from services.relay import delivery, inbox, outbox, pacing
from tests.unit.chain.conftest import Chain
from tests.unit.fakes import USER, until

FROM = {"id": USER, "is_bot": False, "first_name": "U", "language_code": "en"}
CHAT = {"id": USER, "type": "private"}
MESSAGE = {"message_id": 5, "date": 1, "chat": CHAT, "from": FROM, "text": "poison"}
SLOTS = 2

Look = list[tuple[str, bool]]


async def look(chain: Chain) -> Look:
    """Each message of the bot: the beginning of its text, and whether it has a button."""
    return [
        (message["text"][:20], bool(message.get("reply_markup"))) for message in await chain.shown()
    ]


async def wait_for_look(chain: Chain, wanted: Look) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while (seen := await look(chain)) != wanted:
        assert loop.time() < deadline, f"{seen} instead of {wanted}"
        await asyncio.sleep(0.02)


# Updates that once ended the relay, and again after each restart


POISON: dict[str, dict[str, Any]] = {
    "long callback data": {
        "callback_query": {
            "id": "1",
            "from": FROM,
            "chat_instance": "1",
            "data": "x" * 65,
            "message": {"message_id": 1, "date": 1, "chat": CHAT},
        }
    },
    "long language tag": {"message": {**MESSAGE, "from": {**FROM, "language_code": "x" * 36}}},
    "long text": {"message": {**MESSAGE, "text": "x" * 16_385}},
    "lone surrogate": {"message": {**MESSAGE, "text": "a\ud800b"}},
}


@pytest.mark.parametrize("poison", POISON)
async def test_poisoned_update_does_not_stop_the_relay(chain: Chain, poison: str) -> None:
    """Whatever an allowed user's update carries, the next question is answered."""
    await chain.post("/update", {**POISON[poison], "force": True})

    await chain.say("next")

    # Fails as soon as a service stops; what an odd language tag accompanied is answered as well.
    while "next" not in [request[-1]["content"] for request in chain.engine.requests]:
        await chain.wait_for_answers(len(chain.engine.requests) + 1)
    await chain.wait_for_answers(len(chain.engine.requests))


async def test_odd_side_field_does_not_cost_the_text(chain: Chain) -> None:
    """A text is answered even if Telegram wraps it in something that nobody knows yet."""
    odd = {"forward_origin": {"type": "of_tomorrow", "date": 1}}

    await chain.post("/say", {"user": FROM, "text": "hello", "extra": odd})

    assert await chain.wait_for_answers(1) == ["fine"]
    assert chain.engine.requests[0][-1]["content"] == "hello"
