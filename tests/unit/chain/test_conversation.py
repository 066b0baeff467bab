"""A message goes all the way to the engine and its answer all the way back, whatever happens."""

import asyncio

import pytest

from services.gateway import answering
from services.gateway.engine import EngineFailed, EngineUnavailable, PromptTooLong
from tests.unit.chain.conftest import Chain, buttons_of
from tests.unit.fakes import USER, until


async def test_question_gets_its_answer(chain: Chain) -> None:
    """The answer is one message: sent empty, filled by edits, its button gone at the end."""
    chain.engine.scripts.append(["The capital ", "is Paris."])

    question = await chain.say("What is the capital of France?")
    answers = await chain.wait_for_answers(1)

    assert answers == ["The capital is Paris."]
    assert chain.engine.requests == [
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "What is the capital of France?"},
        ]
    ]
    sent = await chain.calls("sendMessage")
    assert [entry["text"] for entry in sent] == ["…"]
    (message,) = await chain.shown()
    assert message["reply_to_message_id"] == question


async def test_conversation_is_remembered_until_new(chain: Chain) -> None:
    """The second question comes with the first exchange; after /new it comes alone."""
    chain.engine.scripts.extend([["one"], ["two"], ["three"]])
    await chain.say("first")
    await chain.wait_for_answers(1)
    await chain.say("second")
    await chain.wait_for_answers(2)
    await chain.say("/new")
    await chain.wait_for_answers(3)
    await chain.say("third")

    await chain.wait_for_answers(4)

    assert [message["content"] for message in chain.engine.requests[1]] == [
        "be brief", "first", "one", "second",
    ]  # fmt: skip
    assert [message["content"] for message in chain.engine.requests[2]] == ["be brief", "third"]


async def test_reply_brings_an_old_message_back(chain: Chain) -> None:
    """After /new, too: what is replied to is quoted to the engine."""
    chain.engine.scripts.extend([["An **old** answer."], ["two"]])
    await chain.say("first")
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()
    (old,) = await chain.shown()
    await chain.say("/new")
    await chain.wait_for_answers(2)

    await chain.post(
        "/say",
        {
            "user": {"id": USER, "first_name": "U", "language_code": "en"},
            "text": "And this?",
            "reply_to_message_id": old["message_id"],
        },
    )

    await chain.wait_for_answers(3)
    assert [message["content"] for message in chain.engine.requests[1]] == [
        "be brief", "> An old answer.\n\nAnd this?",
    ]  # fmt: skip


async def test_answer_grows_on_the_screen(chain: Chain) -> None:
    """While the engine speaks the user sees the beginning, and a button to stop."""
    go_on = asyncio.Event()
    chain.engine.scripts.append(["beginning", go_on, " end"])
    await chain.say("tell me")

    async def beginning() -> bool:
        shown = await chain.shown()
        return (
            bool(shown) and shown[0]["text"] == "beginning" and bool(buttons_of(shown[0], "stop:"))
        )

    while not await beginning():
        await asyncio.sleep(0.02)
    go_on.set()

    assert await chain.wait_for_answers(1) == ["beginning end"]


async def test_final_does_not_wait_for_the_growing_text(chain: Chain) -> None:
    """A short answer stands complete at once, though the pace for growing texts is used up."""
    held = [asyncio.Event() for _ in range(3)]
    chain.engine.scripts.append(["a", held[0], " b", held[1], " c", held[2], " d"])
    await chain.say("tell me")
    for event in held:
        await asyncio.sleep(0.15)  # longer than the gateway's window: each piece is news
        event.set()
    loop = asyncio.get_running_loop()
    complete = loop.time()

    assert await chain.wait_for_answers(1) == ["a b c d"]
    assert loop.time() - complete < 0.7


async def test_steady_stream_is_seen_growing(chain: Chain) -> None:
    """However fast pieces come, the screen is brought up to date at the chat's pace."""
    held = asyncio.Event()
    chain.engine.scripts.append(["start", held])
    await chain.say("tell me")
    await until(lambda: chain.engine.requests, "the engine is asked")
    pieces = asyncio.create_task(_feed(chain))

    seen: set[str] = set()
    while len(seen) < 5:
        seen |= {message["text"] for message in await chain.shown()}
        await asyncio.sleep(0.02)

    pieces.cancel()
    lengths = sorted(len(text) for text in seen)
    assert lengths[-1] - lengths[0] > 50  # several windows of the stream, not one


async def _feed(chain: Chain) -> None:
    while True:
        chain.outbox.grow(1, "piece ")
        await asyncio.sleep(0.02)


async def test_stop_aborts_the_engine(chain: Chain) -> None:
    """/stop keeps what was said, says that it was stopped, and ends the engine's work."""
    chain.engine.scripts.append(["long story", asyncio.Event()])
    await chain.say("tell me")
    await until(lambda: chain.engine.requests, "the engine is asked")

    await chain.say("/stop")

    assert await chain.wait_for_answers(1) == ["long story\n\n(stopped)"]
    assert chain.engine.aborted == 1


async def test_stop_button(chain: Chain) -> None:
    """A press of the button under the answer stops it and is acknowledged."""
    chain.engine.scripts.append(["long story", asyncio.Event()])
    await chain.say("tell me")
    while not (shown := await chain.shown()) or not buttons_of(shown[0], "stop:"):
        await asyncio.sleep(0.02)

    await chain.press(shown[0], "stop:")

    assert await chain.wait_for_answers(1) == ["long story\n\n(stopped)"]
    answered = await chain.calls("answerCallbackQuery")
    assert [entry["text"] for entry in answered] == ["Stopping."]


async def test_long_answer_takes_several_messages(chain: Chain) -> None:
    """An answer over 4096 units is cut, nothing is lost, and each part is sent empty first."""
    text = "\n\n".join(f"paragraph {number} " + "x" * 500 for number in range(20))
    chain.engine.scripts.append([text])

    await chain.say("much")
    answers = await chain.wait_for_answers(3)

    assert "".join("".join(answers).split()) == "".join(text.split())
    sent = await chain.calls("sendMessage")
    assert {entry["text"] for entry in sent} == {"…"}


async def test_stranger_gets_silence(chain: Chain) -> None:
    """Nothing is sent to somebody who is not on the list, and the engine is not asked."""
    await chain.say("hello", user=666)
    await chain.say("hello")

    await chain.wait_for_answers(1)

    assert await chain.shown(666) == []
    assert len(chain.engine.requests) == 1


async def test_relay_killed_in_mid_answer(chain: Chain) -> None:
    """The next relay goes on with the same message: one answer, one message, nothing doubled."""
    go_on = asyncio.Event()
    chain.engine.scripts.append(["beginning", go_on, " end"])
    await chain.say("tell me")
    while not (shown := await chain.shown()) or shown[0]["text"] == "…":
        await asyncio.sleep(0.02)

    await chain.kill("relay")
    go_on.set()
    await chain.start_relay()

    assert await chain.wait_for_answers(1) == ["beginning end"]
    assert len(await chain.shown()) == 1


@pytest.fixture
def nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what answers have gained, until they are complete."""
    monkeypatch.setattr(answering, "SAVE_SECONDS", 600.0)


@pytest.mark.usefixtures("nothing_is_saved")
async def test_gateway_killed_in_mid_answer(chain: Chain) -> None:
    """Before anything was saved: the next gateway begins anew, in the same message."""
    chain.engine.scripts.extend([["beginning", asyncio.Event()], ["second try"]])
    await chain.say("tell me")
    while not (shown := await chain.shown()) or shown[0]["text"] == "…":
        await asyncio.sleep(0.02)

    await chain.kill("gateway")
    await chain.start_gateway()

    assert await chain.wait_for_answers(1) == ["second try"]
    assert len(await chain.shown()) == 1


async def test_message_written_while_the_gateway_is_away(chain: Chain) -> None:
    """The update stays with Telegram until the gateway is back, and is then answered once."""
    await chain.kill("gateway")
    await chain.say("anybody there?")
    await until(lambda: chain.tasks["relay"], "the relay runs")
    async with chain.control.get("/state") as response:
        assert (await response.json())["pending_update_count"] == 1

    await chain.start_gateway()

    assert await chain.wait_for_answers(1) == ["fine"]


async def test_engine_that_is_not_up_yet(chain: Chain) -> None:
    """The user is told that the bot is waking up; the answer comes when it can."""
    up = asyncio.Event()
    chain.engine.scripts.extend([[EngineUnavailable()], [up, "good morning"]])

    await chain.say("hello")
    async with asyncio.timeout(15):
        while not any("waking up" in message["text"] for message in await chain.shown()):
            await asyncio.sleep(0.02)
    up.set()

    await chain.wait_for_answers(1)
    await until_shown(chain, ["good morning"])


async def test_engine_that_breaks_off(chain: Chain) -> None:
    """A cut answer goes on in the same message; if the engine cannot do that, it begins anew."""
    chain.engine.scripts.extend([["half ", EngineFailed()], [" and half"]])

    await chain.say("first")

    assert await chain.wait_for_answers(1) == ["half and half"]
    chain.engine.resumes = False
    chain.engine.scripts.extend([["half ", EngineFailed()], ["whole"]])
    await chain.say("second")
    assert (await chain.wait_for_answers(2))[-1] == "whole"
    assert len(await chain.shown()) == 2


async def test_prompt_that_the_engine_finds_too_long(chain: Chain) -> None:
    """The oldest turns are left out until the engine takes it."""
    chain.engine.scripts.extend([["one"], [PromptTooLong()], [PromptTooLong()], ["two"]])
    await chain.say("first")
    await chain.wait_for_answers(1)

    await chain.say("second")
    await chain.wait_for_answers(2)

    assert [message["content"] for message in chain.engine.requests[-1]] == ["be brief", "second"]


async def test_another_answer_stands_in_the_place_of_a_longer_one(chain: Chain) -> None:
    """Its first message is written anew, the others are deleted; the next one uses no other."""
    long = "word " * 1500
    chain.engine.scripts.extend([[long], ["short"], ["other"]])
    await chain.say("tell me")
    assert len(await chain.wait_for_answers(2)) == 2
    await chain.wait_until_settled()
    first, last = await chain.shown()
    assert not buttons_of(first)

    await chain.press(last, "again:")
    await until_shown(chain, ["short"])
    await chain.wait_until_settled()
    (shown,) = await chain.shown()
    await chain.press(shown, "again:")
    await until_shown(chain, ["other"])

    (shown,) = await chain.shown()
    assert shown["message_id"] == first["message_id"]


async def until_shown(chain: Chain, texts: list[str]) -> None:
    async with asyncio.timeout(15):
        while await chain.answers() != texts or len(await chain.shown()) != len(texts):
            await asyncio.sleep(0.02)


async def test_who_asks_during_a_break_is_told_and_answered_after_it(chain: Chain) -> None:
    """/pause is an admin's; what runs is finished, what waits says why."""
    go_on = asyncio.Event()
    chain.engine.scripts.extend([["one", go_on, " done"], ["two"]])
    await chain.say("first")
    await until(lambda: chain.engine.requests, "the engine is asked")
    await chain.say("/pause")
    await chain.wait_for_answers(1)
    await chain.say("second")
    async with asyncio.timeout(10):
        while "I am taking a break" not in str(await chain.shown()):
            await asyncio.sleep(0.02)
    go_on.set()
    await until(lambda: chain.outbox._entries.keys() and not chain.queue.running_count, "first")
    assert len(chain.engine.requests) == 1

    await chain.say("/resume")

    await until(lambda: len(chain.engine.requests) == 2, "the second question is asked")
    await chain.wait_until_settled()
    texts = [message["text"] for message in await chain.shown()]
    assert texts[0] == "one done"
    assert "two" in texts


async def test_relay_tells_how_long_it_was_cut_off(chain: Chain) -> None:
    """With its next stream: the gateway itself may have been away."""
    await chain.kill("gateway")
    await asyncio.sleep(2.5)  # time itself: whole seconds are told

    await chain.start_gateway()

    await until(lambda: chain.outbox.absence_seconds >= 2, "the relay is back")
