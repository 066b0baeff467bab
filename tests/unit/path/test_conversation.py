"""A message goes all the way to the engine and its answer all the way back, whatever happens."""

import asyncio

from services.gateway.engine import EngineFailed, EngineUnavailable, PromptTooLong
from tests.unit.fakes import USER, until
from tests.unit.path.conftest import Path_


async def test_question_gets_its_answer(path: Path_) -> None:
    """The answer is one message: sent empty, filled by edits, its button gone at the end."""
    path.engine.scripts.append(["The capital ", "is Paris."])

    question = await path.say("What is the capital of France?")
    answers = await path.wait_for_answers(1)

    assert answers == ["The capital is Paris."]
    assert path.engine.requests == [
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "What is the capital of France?"},
        ]
    ]
    sent = await path.calls("sendMessage")
    assert [entry["text"] for entry in sent] == ["…"]
    (message,) = await path.shown()
    assert message["reply_to_message_id"] == question


async def test_conversation_is_remembered_until_new(path: Path_) -> None:
    """The second question comes with the first exchange; after /new it comes alone."""
    path.engine.scripts.extend([["one"], ["two"], ["three"]])
    await path.say("first")
    await path.wait_for_answers(1)
    await path.say("second")
    await path.wait_for_answers(2)
    await path.say("/new")
    await path.wait_for_answers(3)
    await path.say("third")

    await path.wait_for_answers(4)

    assert [message["content"] for message in path.engine.requests[1]] == [
        "be brief", "first", "one", "second",
    ]  # fmt: skip
    assert [message["content"] for message in path.engine.requests[2]] == ["be brief", "third"]


async def test_answer_grows_on_the_screen(path: Path_) -> None:
    """While the engine speaks the user sees the beginning, and a button to stop."""
    go_on = asyncio.Event()
    path.engine.scripts.append(["beginning", go_on, " end"])
    await path.say("tell me")

    async def beginning() -> bool:
        shown = await path.shown()
        return bool(shown) and shown[0]["text"] == "beginning" and "reply_markup" in shown[0]

    while not await beginning():
        await asyncio.sleep(0.02)
    go_on.set()

    assert await path.wait_for_answers(1) == ["beginning end"]


async def test_stop_aborts_the_engine(path: Path_) -> None:
    """/stop keeps what was said, says that it was stopped, and ends the engine's work."""
    path.engine.scripts.append(["long story", asyncio.Event()])
    await path.say("tell me")
    await until(lambda: path.engine.requests, "the engine is asked")

    await path.say("/stop")

    assert await path.wait_for_answers(1) == ["long story\n\n(stopped)"]
    assert path.engine.aborted == 1


async def test_stop_button(path: Path_) -> None:
    """A press of the button under the answer stops it and is acknowledged."""
    path.engine.scripts.append(["long story", asyncio.Event()])
    await path.say("tell me")
    while not (shown := await path.shown()) or not shown[0].get("reply_markup"):
        await asyncio.sleep(0.02)
    button = shown[0]["reply_markup"]["inline_keyboard"][0][0]

    await path.post(
        "/press",
        {
            "user": {"id": USER, "first_name": "U", "language_code": "en"},
            "chat_id": USER,
            "message_id": shown[0]["message_id"],
            "data": button["callback_data"],
        },
    )

    assert await path.wait_for_answers(1) == ["long story\n\n(stopped)"]
    answered = await path.calls("answerCallbackQuery")
    assert [entry["text"] for entry in answered] == ["Stopping."]


async def test_long_answer_takes_several_messages(path: Path_) -> None:
    """An answer over 4096 units is cut, nothing is lost, and each part is sent empty first."""
    text = "\n\n".join(f"paragraph {number} " + "x" * 500 for number in range(20))
    path.engine.scripts.append([text])

    await path.say("much")
    answers = await path.wait_for_answers(3)

    assert "".join("".join(answers).split()) == "".join(text.split())
    sent = await path.calls("sendMessage")
    assert {entry["text"] for entry in sent} == {"…"}


async def test_stranger_gets_silence(path: Path_) -> None:
    """Nothing is sent to somebody who is not on the list, and the engine is not asked."""
    await path.say("hello", user=666)
    await path.say("hello")

    await path.wait_for_answers(1)

    assert await path.shown(666) == []
    assert len(path.engine.requests) == 1


async def test_relay_killed_in_mid_answer(path: Path_) -> None:
    """The next relay goes on with the same message: one answer, one message, nothing doubled."""
    go_on = asyncio.Event()
    path.engine.scripts.append(["beginning", go_on, " end"])
    await path.say("tell me")
    while not (shown := await path.shown()) or shown[0]["text"] == "…":
        await asyncio.sleep(0.02)

    await path.kill("relay")
    go_on.set()
    await path.start_relay()

    assert await path.wait_for_answers(1) == ["beginning end"]
    assert len(await path.shown()) == 1


async def test_gateway_killed_in_mid_answer(path: Path_) -> None:
    """The next gateway answers again from the start, into the same message."""
    path.engine.scripts.extend([["beginning", asyncio.Event()], ["second try"]])
    await path.say("tell me")
    while not (shown := await path.shown()) or shown[0]["text"] == "…":
        await asyncio.sleep(0.02)

    await path.kill("gateway")
    await path.start_gateway()

    assert await path.wait_for_answers(1) == ["second try"]
    assert len(await path.shown()) == 1


async def test_message_written_while_the_gateway_is_away(path: Path_) -> None:
    """The update stays with Telegram until the gateway is back, and is then answered once."""
    await path.kill("gateway")
    await path.say("anybody there?")
    await until(lambda: path.tasks["relay"], "the relay runs")
    async with path.control.get("/state") as response:
        assert (await response.json())["pending_update_count"] == 1

    await path.start_gateway()

    assert await path.wait_for_answers(1) == ["fine"]


async def test_engine_that_is_not_up_yet(path: Path_) -> None:
    """The user is told that the bot is waking up; the answer comes when it can."""
    path.engine.scripts.extend([[EngineUnavailable()], ["good morning"]])

    await path.say("hello")
    await path.wait_for_answers(1)

    assert "good morning" in await path.answers()
    edits = await path.calls("editMessageText")
    assert any("waking up" in entry["text"] for entry in edits)


async def test_engine_that_breaks_off(path: Path_) -> None:
    """A cut answer begins anew in the same message; after the last try the user is told."""
    path.engine.scripts.extend([["half", EngineFailed()], ["whole"]])

    await path.say("first")

    assert await path.wait_for_answers(1) == ["whole"]
    assert len(await path.shown()) == 1


async def test_prompt_that_the_engine_finds_too_long(path: Path_) -> None:
    """The oldest turns are left out until the engine takes it."""
    path.engine.scripts.extend([["one"], [PromptTooLong()], [PromptTooLong()], ["two"]])
    await path.say("first")
    await path.wait_for_answers(1)

    await path.say("second")
    await path.wait_for_answers(2)

    assert [message["content"] for message in path.engine.requests[-1]] == ["be brief", "second"]
