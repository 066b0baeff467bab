"""While the gateway is away nothing is lost, and who waits is told so, once; then all is answered.

The clock of the relay is the tests' own, and its patience is short.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from services.gateway.limits import Limits
from services.relay import inbox, pacing
from services.relay.texts import say
from tests.unit.chain import conftest
from tests.unit.chain.conftest import Chain, buttons_of
from tests.unit.fakes import USER

pytestmark = pytest.mark.long

ASLEEP, STILL_ASLEEP = say("asleep", "en"), say("still asleep", "en")
OWN = {ASLEEP, STILL_ASLEEP, say("asleep", "ru"), say("still asleep", "ru")}
RUSSIAN = 8
STRANGER = 99
HOUR = 3600


@dataclass
class Shift:
    """A clock that goes with the real one, and ahead of it."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.seconds


@pytest.fixture
def clock() -> Shift:
    return Shift()


@pytest.fixture
async def asleep(chain: Chain, clock: Shift, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A chain whose gateway has gone, after the relay had seen it once."""
    look_every(0.7, monkeypatch)
    chain.relay_options = {"clock": clock, "patience_seconds": 0.1}
    await restart_relay(chain)
    await chain.say("before")
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()
    # The menus: two languages in private, in groups, and for an admin. What comes later is marks.
    await chain.wait_for_calls("setMyCommands", 6)
    await chain.kill("gateway")
    return chain


# Nothing is lost


async def test_more_than_hundred_waiting_updates_are_answered_in_order(
    asleep: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited, more than one look at the queue shows, is answered in the order of asking."""
    monkeypatch.setattr(conftest, "Limits", lambda *_: Limits(1000, 1000, 3000))
    monkeypatch.setattr(pacing, "CHAT_PER_SECOND", 1000.0)
    monkeypatch.setattr(pacing, "TOTAL_PER_SECOND", 1000.0)
    await asleep.post("/limits", {"budgets": False})
    await restart_relay(asleep)
    count = 130
    answers = [f"answer {number}" for number in range(count)]
    asleep.engine.scripts.extend([answer] for answer in answers)
    await asleep.post(
        "/batch",
        [{"kind": "say", "user": user(USER), "text": f"question {n}"} for n in range(count)],
    )
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])

    await asleep.start_gateway()

    assert await wait_for_answers(asleep, count + 1) == ["fine", *answers]
    questions = [request[-1]["content"] for request in asleep.engine.requests]
    assert questions[1:] == [f"question {number}" for number in range(count)]


async def test_return_is_noticed_at_once(asleep: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rarely the queue is looked at by then, the gateway's return cuts the wait short."""
    look_every(1000.0, monkeypatch)
    asleep.relay_options["patience_seconds"] = 0.0
    await restart_relay(asleep)
    await asleep.say("hello")
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])

    await asleep.start_gateway()

    assert await wait_for_answers(asleep, 2) == ["fine", "fine"]


async def test_strangers_do_not_fill_the_queue(asleep: Chain) -> None:
    """What nobody waits for is forgotten during sleep; what somebody waits for is not."""
    await asleep.say("let me in", user=STRANGER)
    await asleep.say("hello")
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])

    await wait_for(lambda: pending_count(asleep), 1)
    assert await asleep.shown(STRANGER) == []


async def test_unknown_user_may_be_a_guest_before_the_gateway_was_seen(asleep: Chain) -> None:
    """A relay that starts during sleep keeps what unknown users write until it knows the guests."""
    await restart_relay(asleep)
    await asleep.say("am I a guest?", user=STRANGER)
    await asleep.say("hello")
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])
    assert await pending_count(asleep) == 2
    assert await asleep.shown(STRANGER) == []

    await asleep.start_gateway()

    await wait_for_answers(asleep, 2)
    await wait_for(lambda: pending_count(asleep), 0)
    assert await asleep.shown(STRANGER) == []


# Who waits is told


async def test_each_chat_is_told_once_over_restarts(asleep: Chain) -> None:
    """One sentence per chat, below its oldest message, in its language, and no second one."""
    first = await asleep.say("one")
    await asleep.say("two")
    await asleep.post("/say", {"user": user(RUSSIAN, "ru"), "text": "три"})
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])
    await wait_for(lambda: notices(asleep, RUSSIAN), [say("asleep", "ru")])
    notice = (await asleep.shown())[-1]
    assert notice["reply_to_message_id"] == first

    for text in ("three", "four"):
        await restart_relay(asleep)
        # By the second look of the new relay, whatever it has to say has been said.
        for look in range(2):
            await wait_for_reaction(asleep, await asleep.say(f"{text} {look}"))

    assert await notices(asleep, USER) == [ASLEEP]
    assert await notices(asleep, RUSSIAN) == [say("asleep", "ru")]


async def test_every_waiting_message_shows_that_it_waits_until_it_is_taken(asleep: Chain) -> None:
    """Each message carries a sleeping face; with the return, faces and notice go."""
    messages = [await asleep.say(text) for text in ("one", "two", "three")]
    for message in messages:
        await wait_for_reaction(asleep, message)
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])

    await asleep.start_gateway()

    assert await wait_for_answers(asleep, 4) == ["fine"] * 4
    await wait_for(lambda: notices(asleep, USER), [])
    for message in messages:
        await wait_for_reaction(asleep, message, [])


async def test_new_sleep_is_told_anew(asleep: Chain) -> None:
    """What a chat was told in one sleep does not silence the next one."""
    await asleep.say("one")
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])
    await asleep.start_gateway()
    await wait_for_answers(asleep, 2)
    await wait_for(lambda: notices(asleep, USER), [])

    # Telegram's clock counts seconds, and no two sleeps begin within one.
    taken_at = int(time.time())
    async with asyncio.timeout(5):
        while int(time.time()) == taken_at:
            await asyncio.sleep(0.05)
    await asleep.kill("gateway")
    await asleep.say("two")

    await wait_for(lambda: notices(asleep, USER), [ASLEEP])


async def test_warning_comes_once_before_the_message_is_lost(asleep: Chain, clock: Shift) -> None:
    """When the oldest message is 20 hours old its chat is told so, once, also over a restart."""
    await asleep.say("one")
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])
    clock.seconds = 20 * HOUR - 60
    await wait_for_reaction(asleep, await asleep.say("two"))
    await wait_for_reaction(asleep, await asleep.say("three"))
    assert await notices(asleep, USER) == [ASLEEP]

    clock.seconds = 20 * HOUR + 1

    await wait_for(lambda: notices(asleep, USER), [ASLEEP, STILL_ASLEEP])
    await restart_relay(asleep)
    for text in ("four", "five"):
        await wait_for_reaction(asleep, await asleep.say(text))
    assert await notices(asleep, USER) == [ASLEEP, STILL_ASLEEP]


async def test_marker_names_the_oldest_message_and_is_seen_by_nobody(asleep: Chain) -> None:
    """The mark stands in the chat's menu of a language that no client speaks."""
    first = await asleep.say("one")

    async def marks() -> list[Any]:
        return [
            (entry["scope"], [command["description"] for command in entry["commands"]])
            for entry in (await state(asleep))["commands"]
            if entry["language_code"] == "vo"
        ]

    async with asyncio.timeout(10):
        while not await marks():
            await asyncio.sleep(0.02)
    [(scope, [description])] = await marks()
    assert scope.startswith(f"chat:{USER}:")
    assert description.startswith(f"{first}:1:")


async def test_lost_marker_costs_one_more_notice_at_most(asleep: Chain) -> None:
    """If Telegram keeps no mark, a chat is told again by a new relay: better twice than never."""
    await asleep.post(
        "/fault", {"method": "setMyCommands", "kind": "status", "status": 400, "count": None}
    )
    await asleep.say("one")
    await wait_for(lambda: notices(asleep, USER), [ASLEEP])
    for text in ("two", "three"):
        await wait_for_reaction(asleep, await asleep.say(text))
    assert await notices(asleep, USER) == [ASLEEP]

    await restart_relay(asleep)

    await wait_for(lambda: notices(asleep, USER), [ASLEEP, ASLEEP])


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "sendMessage", "kind": "retry_after", "seconds": 2},
        {"method": "sendMessage", "kind": "status", "status": 502},
        {"method": "getMyCommands", "kind": "status", "status": 502},
        {"method": "getMyCommands", "kind": "status", "status": 400},
        {"method": "getMyCommands", "kind": "retry_after", "seconds": 1},
        {"method": "setMyCommands", "kind": "retry_after", "seconds": 1},
        {"method": "setMyCommands", "kind": "lose_answer"},
        {"method": "setMessageReaction", "kind": "retry_after", "seconds": 1},
        {"method": "setMessageReaction", "kind": "status", "status": 502},
    ],
    ids=lambda fault: f"{fault['method']}-{fault['kind']}-{fault.get('status', '')}",
)
async def test_fault_of_telegram_leaves_one_notice(asleep: Chain, fault: dict[str, Any]) -> None:
    """After a fault that passes, the chat has been told once and its message is marked."""
    await asleep.post("/fault", fault | {"count": 1})

    await wait_for_reaction(asleep, await asleep.say("one"))

    await wait_for(lambda: notices(asleep, USER), [ASLEEP])
    await asleep.wait_until_hit()
    for text in ("two", "three"):
        await wait_for_reaction(asleep, await asleep.say(text))
    assert await notices(asleep, USER) == [ASLEEP]


async def test_who_blocked_the_bot_is_asked_once(asleep: Chain) -> None:
    """A notice that can never be shown is not tried again and again."""
    await asleep.say("one", user=RUSSIAN)
    await asleep.kill("relay")
    sent = len(await asleep.calls("sendMessage"))
    await asleep.say("two", user=RUSSIAN)
    await asleep.post("/block", {"chat_id": RUSSIAN})
    await asleep.start_relay()

    for text in ("three", "four", "five"):
        await wait_for_reaction(asleep, await asleep.say(text))

    tried = (await asleep.calls("sendMessage"))[sent:]
    assert [str(call["chat_id"]) for call in tried].count(str(RUSSIAN)) == 1


async def test_hanging_notice_holds_up_no_answer(asleep: Chain) -> None:
    """Telegram never answers to notices and reactions: on return the answer comes all the same."""
    for method in ("setMessageReaction", "getMyCommands"):
        await asleep.post("/fault", {"method": method, "kind": "hang", "count": None})
    await asleep.say("one")
    async with asyncio.timeout(10):
        while not (await state(asleep))["faults"] or await pending_count(asleep) < 1:
            await asyncio.sleep(0.02)

    await asleep.start_gateway()

    assert await wait_for_answers(asleep, 2) == ["fine", "fine"]


# Presses


async def press(chain: Chain, shown: dict[str, Any]) -> None:
    """A user presses the button under this message of the bot."""
    where = {"chat_id": USER, "message_id": shown["message_id"], "data": shown["data"]}
    await chain.post("/press", {"user": user(USER), **where})


async def test_press_during_sleep_is_answered_and_forgotten(asleep: Chain) -> None:
    """Who presses is asked to press again later; the press itself is not carried out later."""
    await asleep.start_gateway()
    go_on = asyncio.Event()
    asleep.engine.scripts.append([go_on, "never seen"])
    await asleep.say("tell me")
    button = await wait_for_button(asleep)
    await asleep.kill("gateway")

    await press(asleep, button)

    await wait_for(lambda: press_answers(asleep), [say("press later", "en")])
    await wait_for(lambda: pending_count(asleep), 0)
    assert await notices(asleep, USER) == []
    await asleep.start_gateway()
    assert await wait_for_answers(asleep, 2) == ["fine", "fine"]  # and not: (stopped)


async def test_answered_press_behind_a_waiting_message_is_not_handed_over(asleep: Chain) -> None:
    """A press that has got its word stays out, also when it cannot be confirmed away yet."""
    await asleep.start_gateway()
    go_on = asyncio.Event()
    asleep.engine.scripts.append([go_on, "never seen"])
    await asleep.say("tell me")
    button = await wait_for_button(asleep)
    await asleep.kill("gateway")
    await asleep.say("me too")
    await press(asleep, button)
    await wait_for(lambda: press_answers(asleep), [say("press later", "en")])
    assert await pending_count(asleep) == 2

    await asleep.start_gateway()

    assert await wait_for_answers(asleep, 3) == ["fine"] * 3
    assert await press_answers(asleep) == [say("press later", "en")]


# Helpers


def user(number: int, language: str = "en") -> dict[str, Any]:
    return {"id": number, "is_bot": False, "first_name": "U", "language_code": language}


def look_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the relay look at the queue this often during sleep."""
    monkeypatch.setattr(inbox, "REPEAT_SECONDS", seconds)
    monkeypatch.setattr(inbox, "MOST_REPEAT_SECONDS", seconds)


async def restart_relay(chain: Chain) -> None:
    await chain.kill("relay")
    await chain.start_relay()


async def state(chain: Chain) -> dict[str, Any]:
    async with chain.control.get("/state") as response:
        return dict(await response.json())


async def pending_count(chain: Chain) -> int:
    return int((await state(chain))["pending_update_count"])


async def wait_for_answers(chain: Chain, count: int) -> list[str]:
    """Wait for so many finished texts that are not the relay's own, in the first user's chat."""
    async with asyncio.timeout(30):
        while True:
            answers = [text for text in await chain.answers() if text not in OWN]
            if len(answers) >= count:
                return answers
            await asyncio.sleep(0.05)


async def notices(chain: Chain, chat_id: int) -> list[str]:
    """List what a chat shows of the relay's own sentences."""
    return [message["text"] for message in await chain.shown(chat_id) if message["text"] in OWN]


async def press_answers(chain: Chain) -> list[str]:
    return [call.get("text", "") for call in await chain.calls("answerCallbackQuery")]


async def wait_for(look: Callable[[], Any], wanted: Any) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 15
    while (seen := await look()) != wanted:
        assert loop.time() < deadline, f"{seen} instead of {wanted}"
        await asyncio.sleep(0.02)


async def wait_for_reaction(chain: Chain, message_id: int, wanted: list[str] | None = None) -> None:
    """Wait until a message carries these reactions: by default, the sleeping face."""

    async def reactions() -> list[str]:
        async with chain.control.get("/record", params={"kind": "say"}) as response:
            said = (await response.json())["entries"]
        chat_id = next(e["chat_id"] for e in said if e["message_id"] == message_id)
        async with chain.control.get(f"/chat/{chat_id}") as response:
            messages = (await response.json())["messages"]
        shown = next(m for m in messages if m["message_id"] == message_id)
        return [reaction["emoji"] for reaction in shown["reactions"]]

    await wait_for(reactions, ["😴"] if wanted is None else wanted)


async def wait_for_button(chain: Chain) -> dict[str, Any]:
    """Wait for an answer with a stop button, and say where it is and what that carries."""
    async with asyncio.timeout(10):
        while True:
            for message in await chain.shown():
                if stop := buttons_of(message, "stop:"):
                    return {"message_id": message["message_id"], "data": stop[0]}
            await asyncio.sleep(0.02)
