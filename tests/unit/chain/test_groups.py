"""In groups the bot answers who speaks to it, and goes on where the group goes."""

import asyncio
from typing import Any

import pytest

from tests.unit.chain.conftest import Chain
from tests.unit.fakes import USER, until

GROUP = {"id": -5, "type": "group", "title": "G"}
GROUP_ID, SUPERGROUP_ID = -5, -1_000_000_000_005
BOT = "@test_oracle_bot"


async def say_in_group(chain: Chain, text: str, user: int = USER, chat_id: int = GROUP_ID) -> int:
    kind = "group" if chat_id == GROUP_ID else "supergroup"
    chat = {**GROUP, "id": chat_id, "type": kind}
    body = {"user": {"id": user, "first_name": "U", "language_code": "en"}, "chat": chat}
    return int((await chain.post("/say", {**body, "text": text}))["message_id"])


async def texts(chain: Chain, chat_id: int) -> list[str]:
    return [message["text"] for message in await chain.shown(chat_id)]


async def wait_for_texts(chain: Chain, chat_id: int, wanted: list[str]) -> None:
    async with asyncio.timeout(15):
        while await texts(chain, chat_id) != wanted:
            await asyncio.sleep(0.05)


async def test_who_speaks_to_the_bot_is_answered(chain: Chain) -> None:
    """A mention is answered below the question; talk among people, and strangers, are not."""
    await say_in_group(chain, "just talking")
    await say_in_group(chain, f"{BOT} let me in", user=99)
    question = await say_in_group(chain, f"{BOT} tell me")

    assert await chain.wait_for_answers(1, chat_id=GROUP_ID) == ["fine"]

    [answer] = await chain.shown(GROUP_ID)
    assert answer["reply_to_message_id"] == question
    assert [request[-1]["content"] for request in chain.engine.requests] == ["tell me"]


@pytest.mark.parametrize("is_polling", [True, False], ids=["told by the note", "told by a refusal"])
async def test_group_that_moves_in_the_middle_of_an_answer(chain: Chain, is_polling: bool) -> None:
    """The answer goes on in the supergroup, in one message, and the conversation with it."""
    go_on = asyncio.Event()
    chain.engine.scripts.append(["beginning", go_on, " and end"])
    await say_in_group(chain, f"{BOT} tell me")
    await wait_for_texts(chain, GROUP_ID, ["beginning"])
    if not is_polling:
        await break_polling(chain)

    await chain.post("/migrate", {"chat_id": GROUP_ID, "new_chat_id": SUPERGROUP_ID})
    go_on.set()

    await wait_for_texts(chain, SUPERGROUP_ID, ["beginning and end"])
    await chain.wait_until_settled()
    assert await texts(chain, SUPERGROUP_ID) == ["beginning and end"]
    assert await texts(chain, GROUP_ID) == ["beginning"]
    async with chain.control.delete("/fault"):
        await say_in_group(chain, f"{BOT} and then?", chat_id=SUPERGROUP_ID)
    await until(lambda: len(chain.engine.requests) == 2, "the next question is asked")
    assert [it["content"] for it in chain.engine.requests[1][-3:]] == [
        "tell me", "beginning and end", "and then?",
    ]  # fmt: skip


async def break_polling(chain: Chain) -> None:
    """Let no update reach the relay from now on."""
    fault: dict[str, Any] = {"method": "getUpdates", "kind": "status", "status": 502}
    await chain.post("/fault", {**fault, "count": None})
    await chain.say("ends the poll that is under way", user=99)
    query = {"kind": "call", "method": "getupdates", "fault": "status", "wait": "10"}
    async with chain.control.get("/record", params=query) as response:
        assert (await response.json())["entries"]


async def test_guest_is_served_at_once(chain: Chain) -> None:
    """Whom an admin allows at the gateway is let in by the relay, and turned away when denied."""
    guest = 99
    await chain.say("let me in", user=guest)
    await chain.say(f"/allow {guest}")
    await chain.wait_for_answers(1)

    await chain.say("and now?", user=guest)

    assert await chain.wait_for_answers(1, chat_id=guest) == ["fine"]
    assert [request[-1]["content"] for request in chain.engine.requests] == ["and now?"]
