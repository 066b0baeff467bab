"""The engine client against the stub engine: every end that a stream can have, and abort."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from services.gateway.engine import (
    CannotResume,
    CannotSee,
    Engine,
    EngineFailed,
    EngineUnavailable,
    Finished,
    NoSuchModel,
    Piece,
    PromptTooLong,
    Thought,
    open_engine,
)
from tests.stubs.engine.server import build_app

ASK = [{"role": "user", "content": "say it"}]


@dataclass
class Stub:
    engine: Engine
    control: aiohttp.ClientSession

    async def script(self, **script: Any) -> None:
        async with self.control.post("http://engine/control/script", json=script) as response:
            assert response.status == 200, await response.text()

    async def record(self) -> list[dict[str, Any]]:
        async with self.control.get("http://engine/control/record") as response:
            return list(await response.json())

    async def speak(self) -> tuple[str, Finished | None]:
        text, finished = "", None
        async for item in self.engine.stream(ASK, 100, 0.0):
            match item:
                case Piece(piece):
                    text += piece
                case Finished():
                    finished = item
        return text, finished


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncGenerator[Stub]:
    socket = tmp_path / "engine.sock"
    runner = web.AppRunner(
        build_app("stub", 500, also=["large"]), handler_cancellation=True, access_log=None
    )
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    async with (
        open_engine(socket, 4) as engine,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as control,
    ):
        yield Stub(engine, control)
    await runner.cleanup()


async def test_answer_comes_in_pieces_with_its_cost(stub: Stub) -> None:
    """All text arrives in order, then one Finished with the engine's own token counts."""
    await stub.script(content={"words": 20})

    text, finished = await stub.speak()

    assert text.split() == [f"word{n}" for n in range(1, 21)]
    assert finished is not None
    assert finished.reason == "stop"
    assert finished.answer_tokens >= 20
    assert finished.prompt_tokens > 0


async def test_text_of_any_alphabet_survives(stub: Stub) -> None:
    """Characters of several bytes are never broken, wherever the stream is cut."""
    story = 'Ответ — «да» \U0001f600 \u4f60\u597d, "quoted" \\ back\n\tend'
    await stub.script(content={"text": story})

    assert (await stub.speak())[0] == story


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "cut", "after_tokens": 3},
        {"kind": "error", "after_tokens": 3},
        {"kind": "garbage", "after_tokens": 3},
        {"kind": "refuse"},
    ],
    ids=lambda fault: str(fault["kind"]),
)
async def test_broken_answer_is_an_error(stub: Stub, fault: dict[str, Any]) -> None:
    """An answer that is not whole is never taken for one that is."""
    await stub.script(content={"words": 10}, fault=fault)

    with pytest.raises(EngineFailed):
        await stub.speak()


async def test_prompt_too_long(stub: Stub) -> None:
    """The engine's refusal of a long prompt is told apart from its other errors."""
    await stub.script(fault={"kind": "context_overflow"})

    with pytest.raises(PromptTooLong):
        await stub.speak()


async def test_cut_answer_goes_on(stub: Stub) -> None:
    """Given its beginning as the last message, the engine says the rest and nothing twice."""
    await stub.script(content={"text": "one two three four"})
    messages = [*ASK, {"role": "assistant", "content": "one two"}]

    items = [item async for item in stub.engine.stream(messages, 9, 0.0, 7, resume=True)]

    assert "".join(item.text for item in items if isinstance(item, Piece)) == " three four"
    parameters = (await stub.record())[-1]["parameters"]
    assert parameters["continue_final_message"] is True
    assert parameters["add_generation_prompt"] is False
    assert parameters["priority"] == 7


async def test_thoughts_within_the_text_are_told_from_the_answer(stub: Stub) -> None:
    """An engine that was not told of its model's format; what goes on with an answer is answer."""
    await stub.script(content={"text": "<think> it may be </think> yes it is"})

    items = [item async for item in stub.engine.stream(ASK, 9, 0.0)]
    resumed = [item async for item in stub.engine.stream(ASK, 9, 0.0, resume=True)]

    assert "".join(item.text for item in items if isinstance(item, Thought)) == " it may be "
    assert "".join(item.text for item in items if isinstance(item, Piece)) == " yes it is"
    assert isinstance(items[-1], Finished)
    said = "".join(item.text for item in resumed if isinstance(item, Piece))
    assert said == "<think> it may be </think> yes it is"


async def test_engine_that_cannot_go_on_says_so(stub: Stub) -> None:
    """A refusal is told apart from a failure, so that the answer can begin anew."""
    await stub.script(fault={"kind": "status", "status": 400})
    messages = [*ASK, {"role": "assistant", "content": "one two"}]

    with pytest.raises(CannotResume):
        await anext(stub.engine.stream(messages, 9, 0.0, resume=True))


async def test_prompt_is_counted_by_the_engine(stub: Stub, tmp_path: Path) -> None:
    """The number is the one that the engine will charge; an absent engine is unavailable."""
    await stub.script(content={"words": 2})
    prompt = [{"role": "system", "content": "be kind and brief"}, *ASK]

    counted = await stub.engine.count_prompt(prompt)
    items = [item async for item in stub.engine.stream(prompt, 9, 0.0)]

    assert isinstance(items[-1], Finished)
    assert counted == items[-1].prompt_tokens
    async with open_engine(tmp_path / "absent.sock", 1) as absent:
        with pytest.raises(EngineUnavailable):
            await absent.count_prompt(prompt)


async def test_engine_that_does_not_count_is_asked_once(tmp_path: Path) -> None:
    """Then the gateway estimates, and costs such an engine no further questions."""
    asked = 0

    async def refuse(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"error": "not found"}, status=404)

    async def name(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "plain"}]})

    app = web.Application()
    app.router.add_get("/v1/models", name)
    app.router.add_post("/v1/messages/count_tokens", refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "plain.sock").start()
    async with open_engine(tmp_path / "plain.sock", 1) as engine:
        assert await engine.count_prompt(ASK, "plain") is None
        assert await engine.count_prompt(ASK, "plain") is None
        assert await engine.count_prompt(ASK) is None
    await runner.cleanup()
    assert asked == 1


async def test_model_is_asked_for_by_name(stub: Stub) -> None:
    """The engine is told which; without a name it is the first that it lists."""
    for model in ("large", "", "stub"):
        assert await stub.engine.count_prompt(ASK, model)
        async for _ in stub.engine.stream(ASK, 9, 0.0, model=model):
            pass

    asked = [entry["parameters"]["model"] for entry in await stub.record()]
    assert asked == ["large", "stub", "stub"]


async def test_reasoning_model_is_asked_not_to_think(stub: Stub) -> None:
    """Only where it is wanted: chat templates know the word, and others disregard it."""
    for thinks in (True, False):
        async for _ in stub.engine.stream(ASK, 9, 0.0, thinks=thinks):
            pass

    asked = [entry["parameters"].get("chat_template_kwargs") for entry in await stub.record()]
    assert asked == [None, {"enable_thinking": False}]


async def test_model_that_is_not_served_is_told_apart(stub: Stub) -> None:
    """From a failure, and from an engine that does not count: the next prompt is counted again."""
    with pytest.raises(NoSuchModel):
        await stub.engine.count_prompt(ASK, "gone")
    with pytest.raises(NoSuchModel):
        await anext(stub.engine.stream(ASK, 9, 0.0, model="gone"))
    with pytest.raises(NoSuchModel):
        await anext(stub.engine.stream(ASK, 9, 0.0, resume=True, model="gone"))

    assert await stub.engine.count_prompt(ASK, "large")
    assert await stub.record() == []


async def test_engine_that_serves_another_model_goes_on_counting(stub: Stub) -> None:
    """It was restarted with another one: its refusal says nothing of its tokenizer."""
    stub.engine._name = "of yesterday"

    assert await stub.engine.count_prompt(ASK) is None
    assert await stub.engine.count_prompt(ASK)


async def test_starting_engine_is_unavailable(stub: Stub, tmp_path: Path) -> None:
    """No socket, or 503: not ready, which is no failure of the ask."""
    await stub.script(fault={"kind": "status", "status": 503})
    with pytest.raises(EngineUnavailable):
        await stub.speak()

    async with open_engine(tmp_path / "absent.sock", 1) as absent:
        assert not await absent.is_ready()
        with pytest.raises(EngineUnavailable):
            await anext(absent.stream(ASK, 1, 0.0))
    assert await stub.engine.is_ready()


async def test_closing_the_stream_stops_the_engine(stub: Stub) -> None:
    """Leaving in mid answer aborts the generation; the engine's own record says so."""
    await stub.script(content={"words": 100_000}, speed=100)
    stream = stub.engine.stream(ASK, 400, 0.0)
    assert isinstance(await anext(stream), Piece)

    await stream.aclose()

    loop = asyncio.get_running_loop()
    deadline = loop.time() + 5
    while (outcome := (await stub.record())[-1]["outcome"]) == "running":
        assert loop.time() < deadline
        await asyncio.sleep(0.02)
    assert outcome == "aborted"


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}
LOOK = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "say it"}]}]


async def test_pictures_go_beside_the_text(stub: Stub) -> None:
    """As they were given."""
    items = [item async for item in stub.engine.stream(LOOK, 100, 0.0)]

    assert isinstance(items[-1], Finished)
    assert (await stub.record())[0]["messages"] == LOOK


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "At most 0 image(s) may be provided in one prompt.", CannotSee),
        (422, "odd", CannotSee),
        (500, "image input is not supported - hint: you may need to provide the mmproj", CannotSee),
        (500, "out of memory", EngineFailed),
        (400, "maximum context length is 500 tokens", PromptTooLong),
        (503, "loading", EngineUnavailable),
    ],
)
async def test_engine_that_refuses_pictures(
    tmp_path: Path, status: int, message: str, expected: type[Exception]
) -> None:
    """It is told apart from one that breaks off; a text alone is never refused for that."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "blind"}]})

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": message, "type": "x"}}, status=status)

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "blind.sock").start()
    try:
        async with open_engine(tmp_path / "blind.sock", 1) as engine:
            with pytest.raises(expected):
                await anext(engine.stream(LOOK, 100, 0.0))
            otherwise = EngineFailed if expected is CannotSee else expected
            with pytest.raises(otherwise):
                await anext(engine.stream(ASK, 100, 0.0))
    finally:
        await runner.cleanup()


async def test_chats_are_told_apart_and_named_to_nobody(tmp_path: Path) -> None:
    """A router sends a chat where it was before; what it sees of it is another name each time."""
    seen: list[str | None] = []
    app = build_app("stub", 500)

    async def note(request: web.Request, _: web.StreamResponse) -> None:
        if request.path == "/v1/chat/completions":
            seen.append(request.headers.get("X-Session-ID"))

    app.on_response_prepare.append(note)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "engine.sock").start()

    for chats in (["(11, 0)", "(11, 0)", "(11, 7)", ""], ["(11, 0)"]):
        async with open_engine(tmp_path / "engine.sock", 4) as engine:
            for chat in chats:
                [item async for item in engine.stream(ASK, 100, 0.0, chat=chat)]
    await runner.cleanup()

    first, again, topic, none, restarted = seen
    assert first == again
    assert none is None
    assert len({first, topic, restarted}) == 3
    for name in (first, topic, restarted):
        assert name
        assert len(name) == 32
