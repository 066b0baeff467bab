"""The stub engine behaves like the engine that it stands for, and does what its script says."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.stubs.engine.script import BadScript, parse_script, split_tokens
from tests.stubs.engine.server import build_app


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A running stub with a context of 100 tokens, and a client on its socket."""
    socket = str(tmp_path / "engine.sock")
    runner = web.AppRunner(build_app(context_tokens=100), handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    async with aiohttp.ClientSession(
        "http://engine", connector=aiohttp.UnixConnector(socket)
    ) as client:
        yield client
    await runner.cleanup()


async def test_streams_what_vllm_streams(engine: aiohttp.ClientSession) -> None:
    """Role, one chunk per token, the finish, the usage, [DONE]: in this order, nothing else."""
    await script(engine, content={"text": "two words"})

    *events, end = await stream(engine, stream_options={"include_usage": True})

    assert end == "[DONE]"
    role, first, second, finish, usage = (json.loads(event) for event in events)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["delta"]["content"] for c in (first, second)] == ["two", " words"]
    assert finish["choices"][0]["delta"] == {"content": ""}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2}
    assert len({json.loads(event)["id"] for event in events}) == 1


async def test_serves_each_of_its_names(tmp_path: Path) -> None:
    """They are listed in order; the chunks say which was asked, and no other is there."""
    socket = str(tmp_path / "engine.sock")
    runner = web.AppRunner(build_app("one", also=["two"]))
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    connector = aiohttp.UnixConnector(socket)
    async with aiohttp.ClientSession("http://engine", connector=connector) as client:
        async with client.get("/v1/models") as response:
            assert [m["id"] for m in (await response.json())["data"]] == ["one", "two"]
        body = {"messages": [{"role": "user", "content": "x"}]}
        for name in ("one", "two"):
            async with client.post("/v1/chat/completions", json=body | {"model": name}) as response:
                assert (await response.json())["model"] == name
        for path in ("/v1/chat/completions", "/v1/messages/count_tokens"):
            async with client.post(path, json=body | {"model": "three"}) as response:
                assert response.status == 404
    await runner.cleanup()


async def test_length_comes_with_the_last_token(engine: aiohttp.ClientSession) -> None:
    """At max_tokens the finish is in the chunk of the last token, as in vLLM."""
    await script(engine, content={"words": 9})

    *_, last, end = await stream(engine, max_tokens=2)

    assert end == "[DONE]"
    assert json.loads(last)["choices"][0]["delta"] == {"content": " word2"}
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("plain words", "the usual"),
        ("  leading,\n\ttabs \n and trailing \n", "white space is part of the answer"),
        ("Привет 👋🏽 \u2028 мир", "signs beyond ASCII, and a separator that is no line end here"),
        ('quotes " and \\ and \x00', "what JSON escapes"),
    ],
)
async def test_loses_no_text(engine: aiohttp.ClientSession, text: str, why: str) -> None:
    """The deltas together are the text, sign by sign."""
    await script(engine, content={"text": text})

    assert text_of(await stream(engine)) == text, why
    assert "".join(split_tokens(text)) == text, why


async def test_answers_whole_without_stream(engine: aiohttp.ClientSession) -> None:
    """stream: false gives one JSON object with the same text and usage."""
    async with engine.post("/v1/chat/completions", json=body("say this")) as response:
        answer = await response.json()

    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "say this"}
    assert answer["usage"]["completion_tokens"] == 2


async def test_chooses_content_by_rules(engine: aiohttp.ClientSession) -> None:
    """The first rule whose substring is in the last user message counts; else the default."""
    rules = [
        {"contains": "sea", "content": {"text": "waves"}},
        {"contains": "seal", "content": {"text": "never"}},
    ]
    await script(engine, content="echo", rules=rules)

    assert text_of(await stream(engine, "a seal")) == "waves"
    assert text_of(await stream(engine, "a bear")) == "a bear"


async def test_stops_at_a_stop_string(engine: aiohttp.ClientSession) -> None:
    """What follows a stop string is not generated."""
    await script(engine, content={"text": "one two three"})

    assert text_of(await stream(engine, stop=["three", "two"])) == "one "


async def test_continues_an_answer(engine: aiohttp.ClientSession) -> None:
    """With continue_final_message only what comes after the given beginning is sent."""
    await script(engine, content={"text": "one two three"})
    messages = [{"role": "user", "content": "count"}, {"role": "assistant", "content": "one two"}]

    events = await stream(engine, messages=messages, continue_final_message=True)

    assert text_of(events) == " three"


async def test_keeps_the_speed(engine: aiohttp.ClientSession) -> None:
    """20 tokens at 100 tokens/s after 0.1 s take 0.29 s, with jitter too."""
    await script(engine, content={"words": 20}, speed=100, jitter=1, first_token_seconds=0.1)
    clock = asyncio.get_running_loop().time
    begin = clock()

    await stream(engine)

    assert 0.28 <= clock() - begin < 0.6


async def test_records_requests(engine: aiohttp.ClientSession) -> None:
    """Each request is recorded with its messages, its parameters and its end."""
    await stream(engine, "first", temperature=0.5)
    await stream(engine, "second")

    first, second = await get(engine, "/control/record")
    assert first["messages"] == [{"role": "user", "content": "first"}]
    assert first["parameters"] == {"stream": True, "temperature": 0.5}
    assert (first["outcome"], first["tokens"]) == ("finished", 1)
    assert first["ended"] >= first["started"]
    assert await get(engine, f"/control/record?after={first['id']}") == [second]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"speed": 1000}, "while tokens flow"),
        ({"first_token_seconds": 60}, "before the first token"),
        ({"fault": {"kind": "hang", "after_tokens": 3}}, "while it hangs"),
    ],
)
async def test_stops_when_the_client_goes(
    engine: aiohttp.ClientSession, settings: dict[str, Any], why: str
) -> None:
    """A closed connection ends the generation, and the record says so."""
    await script(engine, content={"words": 80}, **settings)
    task = asyncio.create_task(stream(engine))
    await until(engine, 1)

    task.cancel()

    await until(engine, 0)
    (entry,) = await get(engine, "/control/record")
    assert entry["outcome"] == "aborted", why
    assert entry["tokens"] < 80, why


@pytest.mark.parametrize("count", [1, 2])
async def test_faults_befall_as_many_as_said(engine: aiohttp.ClientSession, count: int) -> None:
    """A fault with a count hits the next ones; those after it get their answer."""
    await script(engine, fault={"kind": "status", "status": 503, "count": count})

    statuses = []
    for _ in range(3):
        async with engine.post("/v1/chat/completions", json=body("x")) as response:
            statuses.append(response.status)

    assert statuses == [503] * count + [200] * (3 - count)


async def test_refuse_closes_without_an_answer(engine: aiohttp.ClientSession) -> None:
    """refuse: the connection ends before a status line."""
    await script(engine, fault={"kind": "refuse"})

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await stream(engine)


async def test_cut_breaks_the_stream(engine: aiohttp.ClientSession) -> None:
    """cut: the tokens up to the fault arrive, then the connection breaks."""
    await script(engine, content={"words": 9}, fault={"kind": "cut", "after_tokens": 2})
    lines: list[str] = []

    with pytest.raises(aiohttp.ClientError):
        await stream(engine, lines=lines)

    assert text_of(lines) == "word1 word2"
    (entry,) = await get(engine, "/control/record")
    assert entry["outcome"] == "faulted"


async def test_garbage_is_one_line(engine: aiohttp.ClientSession) -> None:
    """garbage: one event is no JSON, all others are as they would be."""
    await script(engine, content={"words": 3}, fault={"kind": "garbage", "after_tokens": 1})

    events = await stream(engine)

    broken = [event for event in events[:-1] if not is_json(event)]
    assert len(broken) == 1
    assert text_of([e for e in events if e not in broken]) == "word1 word2 word3"


async def test_error_event_ends_the_stream(engine: aiohttp.ClientSession) -> None:
    """error: status 200, some tokens, then vLLM's error event and [DONE]."""
    await script(engine, content={"words": 3}, fault={"kind": "error", "after_tokens": 1})

    *_, error, end = await stream(engine)

    assert json.loads(error)["error"]["code"] == 500
    assert end == "[DONE]"


async def test_slow_pauses_between_tokens(engine: aiohttp.ClientSession) -> None:
    """slow: after the given tokens each one takes as long as said."""
    fault = {"kind": "slow", "after_tokens": 1, "seconds": 0.1}
    await script(engine, content={"words": 3}, fault=fault)
    clock = asyncio.get_running_loop().time
    begin = clock()

    events = await stream(engine)

    assert text_of(events) == "word1 word2 word3"
    assert 0.29 <= clock() - begin < 0.8


@pytest.mark.parametrize(
    ("question", "parameters", "status", "param"),
    [
        ("word " * 200, {}, 400, "input_tokens"),
        ("x", {"max_tokens": 101}, 400, "max_tokens"),
        ("x", {"model": "other"}, 404, "model"),
        ("x", {"messages": []}, 400, None),
    ],
)
async def test_refuses_as_vllm(
    engine: aiohttp.ClientSession,
    question: str,
    parameters: dict[str, Any],
    status: int,
    param: str | None,
) -> None:
    """What does not fit or is wrong gets vLLM's error object, by the parameter it names."""
    async with engine.post("/v1/chat/completions", json=body(question) | parameters) as response:
        answer = await response.json()

    assert response.status == status
    assert (answer["error"]["code"], answer["error"]["param"]) == (status, param)


async def test_context_overflow_on_demand(engine: aiohttp.ClientSession) -> None:
    """context_overflow: any question is answered as one that is too long."""
    await script(engine, fault={"kind": "context_overflow"})

    async with engine.post("/v1/chat/completions", json=body("x")) as response:
        answer = await response.json()

    assert (response.status, answer["error"]["param"]) == (400, "input_tokens")


async def test_context_ends_the_answer(engine: aiohttp.ClientSession) -> None:
    """An answer that does not fit is cut at the context's edge, with finish_reason length."""
    await script(engine, content={"words": 500})

    *events, usage, _ = await stream(engine, stream_options={"include_usage": True})

    assert json.loads(usage)["usage"]["total_tokens"] == 100
    assert json.loads(events[-1])["choices"][0]["finish_reason"] == "length"


async def test_counts_tokens_alike_everywhere(engine: aiohttp.ClientSession) -> None:
    """Both counting endpoints agree with the usage."""
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a b c"}]
    async with engine.post("/tokenize", json={"messages": messages}) as response:
        tokenized = await response.json()
    async with engine.post(
        "/v1/messages/count_tokens", json={"system": "be kind", "messages": messages[1:]}
    ) as response:
        counted = await response.json()

    *_, usage, _ = await stream(engine, messages=messages, stream_options={"include_usage": True})

    assert tokenized["count"] == counted["input_tokens"] == 13
    assert json.loads(usage)["usage"]["prompt_tokens"] == 13


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sped": 1}, "Script: give an object with some of"),
        ({"speed": 0}, "speed: give tokens per second above 0"),
        ({"jitter": 2}, "jitter: give 0 to 1"),
        ({"content": "text"}, "content: give"),
        ({"content": {"text": "a", "words": 1}}, "content: give"),
        ({"fault": {"kind": "fire"}}, "fault: its kind is one of"),
        ([], "Script: give an object"),
    ],
)
def test_rejects_a_wrong_script(wrong: Any, sentence: str) -> None:
    """A mistake in a test's script is said, never ignored."""
    with pytest.raises(BadScript, match=sentence):
        parse_script(wrong)


async def script(engine: aiohttp.ClientSession, **settings: Any) -> None:
    async with engine.post("/control/script", json=settings) as response:
        assert response.status == 200, await response.text()


def body(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


async def stream(
    engine: aiohttp.ClientSession,
    question: str = "x",
    lines: list[str] | None = None,
    **parameters: Any,
) -> list[str]:
    """Ask, and collect the data of all events, also into `lines` for those who see it break."""
    lines = [] if lines is None else lines
    request = body(question) | {"stream": True} | parameters
    async with engine.post("/v1/chat/completions", json=request) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            if line != b"\n":
                lines.append(line.decode().removeprefix("data: ").removesuffix("\n"))
    return lines


def text_of(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"])


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


async def get(engine: aiohttp.ClientSession, path: str) -> Any:
    async with engine.get(path) as response:
        return await response.json()


async def until(engine: aiohttp.ClientSession, running: int) -> None:
    """Wait until as many requests run, 2 s at most."""
    async with asyncio.timeout(2):
        while (await get(engine, "/control/running"))["running"] != running:
            await asyncio.sleep(0.005)
