"""What the gateway relies on holds for every engine: the stub, llama.cpp, vLLM (tests/vllm).

The engines run as in Compose: no network, no capability, a read-only root, a socket in a volume.
"""

import asyncio
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from python_on_whales import Container, DockerClient
from python_on_whales.components.container.models import ContainerState

from services.gateway.engine import Engine as Client
from services.gateway.engine import Finished, Piece, open_engine

VERSION = os.environ.get("VERSION", "0.1.0")
CONTEXT_TOKENS = 1024
SLOTS = 2
CANARY = "turquoise-pangolin-9417"


@dataclass(frozen=True)
class Kind:
    """One engine: its image, how it is started, and how its own state is read."""

    image: str
    ready_seconds: float
    count_running: Callable[[httpx.Client], float]
    command: list[str] = field(default_factory=list)
    entrypoint: str | None = None
    flags: str = ""
    stop_seconds: float = 2.5
    """From SIGTERM to its end, while it answers."""


def _running_in_stub(client: httpx.Client) -> float:
    return float(client.get("/control/running").json()["running"])


def _running_in_llamacpp(client: httpx.Client) -> float:
    return sum(bool(slot["is_processing"]) for slot in client.get("/slots").json())


def _running_in_vllm(client: httpx.Client) -> float:
    metrics = client.get("/metrics").text
    numbers = re.findall(
        r"^vllm:num_requests_(?:running|waiting){.*} (\S+)$", metrics, re.MULTILINE
    )
    assert len(numbers) == 2, metrics
    return sum(float(number) for number in numbers)


KINDS = {
    "stub": Kind(
        f"node-test/stubs:{VERSION}",
        20,
        _running_in_stub,
        ["-m", "tests.stubs.engine", "--socket", "/run/engine/engine.sock", "--name", "small"]
        + ["--context-tokens", str(CONTEXT_TOKENS)],
        "/opt/venv/bin/python",
    ),
    "llamacpp": Kind(f"node/engine-llamacpp:{VERSION}", 30, _running_in_llamacpp),
    "vllm-cpu": Kind(
        f"node/engine-vllm-cpu:{VERSION}",
        240,
        _running_in_vllm,
        flags="--enforce-eager",
        stop_seconds=15,
    ),
}


@dataclass(frozen=True)
class Engine:
    """A running engine, and a client on its socket."""

    name: str
    kind: Kind
    container: Container
    socket: Path
    client: httpx.Client

    def state(self) -> ContainerState:
        """The container's state now; the object's own is that of its last reading."""
        return DockerClient().container.inspect(self.container.id).state

    def running(self) -> float:
        return self.kind.count_running(self.client)

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.state().running, self.container.logs()
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket)) != 0:
                    return False
            return self.client.get("/health").status_code == 200

        wait_for(is_ready, self.kind.ready_seconds, "the engine is ready")


def connect(path: Path) -> httpx.Client:
    # A request written to a connection that the engine is about to close would be lost.
    limits = httpx.Limits(max_keepalive_connections=0)
    transport = httpx.HTTPTransport(uds=str(path), limits=limits)
    return httpx.Client(transport=transport, base_url="http://engine", timeout=60)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s it is not so that {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=["stub", "llamacpp"])
def engine(
    request: pytest.FixtureRequest, docker: DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Each engine in turn, started once for all tests of this module."""
    yield from started(request.param, docker, tmp_path_factory.mktemp("engine"))


def started(name: str, docker: DockerClient, directory: Path) -> Iterator[Engine]:
    """Yield an engine whose socket is in that directory, and remove it in the end."""
    kind = KINDS[name]
    directory.chmod(0o777)  # the engine's user is nobody on the host
    label = f"engines={name}"
    for leftover in docker.container.list(all=True, filters=[("label", label)]):
        leftover.remove(force=True)
    container = docker.container.run(
        kind.image,
        kind.command,
        detach=True,
        entrypoint=kind.entrypoint,
        labels=dict([label.split("=")]),
        networks=["none"],
        user=f"10004:{os.getgid()}",  # this process is in the socket's group
        cap_drop=["ALL"],
        security_options=["no-new-privileges:true"],
        read_only=True,
        shm_size="1g",
        tmpfs=[
            f"/{name}:exec,nosuid,nodev,size=1g,uid=10004,mode=0700" for name in ("tmp", "cache")
        ],
        volumes=[(directory, "/run/engine", "rw")],
        envs={
            "ENGINE_NAME": "small",
            "ENGINE_SLOTS": str(SLOTS),
            "CONTEXT_TOKENS": str(CONTEXT_TOKENS),
            "ENGINE_FLAGS": kind.flags,
        },
    )
    try:
        with connect(directory / "engine.sock") as client:
            engine = Engine(name, kind, container, directory / "engine.sock", client)
            engine.wait_until_ready()
            yield engine
    finally:
        container.remove(force=True)


@pytest.fixture(autouse=True)
def script(request: pytest.FixtureRequest) -> None:
    """The stub talks at a real engine's speed, and as long as it may."""
    if "engine" in request.fixturenames:
        engine: Engine = request.getfixturevalue("engine")
        if engine.name == "stub":
            tell(engine, content={"words": 2000}, speed=100)


def tell(engine: Engine, **settings: Any) -> None:
    engine.client.post("/control/script", json=settings).raise_for_status()


def ask(question: str = "Tell me a long story.", **parameters: Any) -> dict[str, Any]:
    """A request as the gateway makes it; it does not end before max_tokens."""
    return {
        "model": "small",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": question},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": 8,
        "ignore_eos": True,
    } | parameters


def stream(engine: Engine, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks; checks what holds for every stream."""
    with (
        connect(engine.socket) as client,
        client.stream("POST", "/v1/chat/completions", json=request) as response,
    ):
        if response.status_code != 200:
            pytest.fail(response.read().decode())
        assert response.headers["content-type"].startswith("text/event-stream")
        is_done = False
        for line in response.iter_lines():
            if line == "" or line.startswith(":"):
                continue
            assert not is_done, "something follows [DONE]"
            data = line.removeprefix("data: ")
            assert data != line
            is_done = data == "[DONE]"
            if not is_done:
                yield json.loads(data)
        assert is_done


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def finish_of(chunks: list[dict[str, Any]]) -> str:
    (reason,) = (
        c["choices"][0]["finish_reason"]
        for c in chunks
        if c["choices"] and c["choices"][0]["finish_reason"]
    )
    return str(reason)


def count(engine: Engine, request: dict[str, Any]) -> int:
    system, *messages = request["messages"]
    response = engine.client.post(
        "/v1/messages/count_tokens",
        json={"model": "small", "system": system["content"], "messages": messages},
    )
    return int(response.json()["input_tokens"])


@pytest.mark.quick
def test_streams_role_deltas_finish_usage(engine: Engine) -> None:
    """A stream is: the role, text in deltas, one finish reason, the usage, [DONE]."""
    first, *middle, usage = stream(engine, ask(max_tokens=8))

    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert not first["choices"][0]["delta"]["content"]
    assert text_of(middle)
    assert finish_of(middle) == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + 8


def test_says_what_it_serves(engine: Engine) -> None:
    """The first model of the list has the name that requests must give."""
    (model,) = engine.client.get("/v1/models").json()["data"]

    assert model["id"] == "small"


def test_counts_tokens_as_it_charges_them(engine: Engine) -> None:
    """What count_tokens says before is what the usage says after."""
    request = ask("Как дела? 👋")

    *_, usage = stream(engine, request)

    assert count(engine, request) == usage["usage"]["prompt_tokens"]


@pytest.mark.quick
def test_stops_generating_when_the_stream_is_closed(engine: Engine) -> None:
    """Left alone it still runs after 2 s; closed, by the engine's own count nothing runs in 2 s."""
    chunks = stream(engine, ask(max_tokens=900))
    begin = time.monotonic()
    while time.monotonic() < begin + 2:
        next(chunks)
    assert engine.running() == 1

    chunks.close()  # type: ignore[attr-defined]  # a generator, typed as the iterator it is used as

    wait_for(lambda: engine.running() == 0, 2, "nothing runs")


def test_stops_at_a_stop_string(engine: Engine) -> None:
    """The answer ends before the stop string, with finish_reason stop."""
    whole = text_of(list(stream(engine, ask(max_tokens=40))))
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]

    chunks = list(stream(engine, ask(max_tokens=40, stop=[middle])))

    assert text_of(chunks) == whole.partition(middle)[0]
    assert finish_of(chunks) == "stop"


def test_answers_as_many_as_it_has_slots_at_once(engine: Engine) -> None:
    """Two streams on two slots both speak before either has ended."""
    together = threading.Barrier(SLOTS, timeout=60)

    def read() -> int:
        chunks = stream(engine, ask(max_tokens=100))
        for _ in range(3):
            next(chunks)
        together.wait()
        *_, usage = chunks
        return int(usage["usage"]["completion_tokens"])

    with ThreadPoolExecutor(SLOTS) as pool:
        readers = [pool.submit(read) for _ in range(SLOTS)]

    assert [reader.result() for reader in readers] == [100] * SLOTS


def test_makes_further_requests_wait(engine: Engine) -> None:
    """More requests than slots are all answered whole, and health is answered meanwhile."""
    with ThreadPoolExecutor(8) as pool:
        readers = [
            pool.submit(lambda: list(stream(engine, ask(max_tokens=30)))[-1]) for _ in range(8)
        ]
        wait_for(lambda: engine.running() > 0, 10, "they run")
        assert engine.client.get("/health", timeout=5).status_code == 200

    assert [reader.result()["usage"]["completion_tokens"] for reader in readers] == [30] * 8


@pytest.mark.parametrize("is_stream", [True, False])
def test_tells_that_a_question_is_too_long(engine: Engine, is_stream: bool) -> None:
    """400 with a JSON error that names the context, and nothing else does."""
    parameters = {} if is_stream else {"stream": False, "stream_options": None}
    response = engine.client.post(
        "/v1/chat/completions", json=ask("word " * CONTEXT_TOKENS, **parameters)
    )
    wrong = engine.client.post("/v1/chat/completions", json=ask(max_tokens="many"))

    assert response.status_code == 400
    assert is_overflow(response.json())
    assert wrong.status_code == 400
    assert not is_overflow(wrong.json())


def is_overflow(body: dict[str, Any]) -> bool:
    names = {body["error"]["type"], body["error"].get("param")}
    return bool(names & {"exceed_context_size_error", "input_tokens"})


def test_ends_an_answer_at_the_edge_of_the_context(engine: Engine) -> None:
    """An answer that would not fit ends with finish_reason length, near the context's size."""
    request = ask("word " * (CONTEXT_TOKENS - 200), max_tokens=CONTEXT_TOKENS)

    *chunks, usage = stream(engine, request)

    assert finish_of(chunks) == "length"
    assert CONTEXT_TOKENS - 1 <= usage["usage"]["total_tokens"] <= CONTEXT_TOKENS


def test_continues_an_answer(engine: Engine) -> None:
    """With continue_final_message the stream goes on where the last message ends."""
    if engine.name == "stub":
        tell(engine, content={"text": "one two three four five six seven"})
    messages = [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "one two three"},
    ]
    request = ask(messages=messages, max_tokens=2)
    request |= {"continue_final_message": True, "add_generation_prompt": False}

    chunks = list(stream(engine, request))

    assert text_of(chunks) == " four five"


def test_takes_a_priority(engine: Engine) -> None:
    """A priority is accepted, whether the engine minds it or not."""
    *_, usage = stream(engine, ask(priority=5))

    assert usage["usage"]["completion_tokens"] == 8


def test_gateway_counts_and_resumes(engine: Engine) -> None:
    """By the gateway's own client: a prompt costs what it counted, and a cut answer goes on."""
    question = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Сколько будет 2 × 2? Count to ten, please. 👋"},
    ]
    if engine.name == "stub":
        tell(engine, content={"text": "one two three four five six seven"})

    async def converse() -> tuple[int | None, Finished, str, str]:
        async with open_engine(engine.socket, SLOTS) as client:
            counted = await client.count_prompt(question)
            said, finished = await hear(client, question, resume=False)
            beginning = said[: len(said) // 2].rstrip()
            going_on = [*question, {"role": "assistant", "content": beginning}]
            rest, _ = await hear(client, going_on, resume=True)
            return counted, finished, said, beginning + rest

    async def hear(
        client: Client, messages: list[dict[str, str]], *, resume: bool
    ) -> tuple[str, Finished]:
        text = ""
        finished = None
        async for item in client.stream(messages, 24, 0.0, 3, resume=resume):
            match item:
                case Piece(piece):
                    text += piece
                case Finished():
                    finished = item
        assert finished
        return text, finished

    counted, finished, whole, resumed = asyncio.run(converse())

    assert counted == finished.prompt_tokens
    assert len(resumed) > len(whole) // 2
    if engine.name == "stub":
        assert resumed == whole


def test_logs_no_content(engine: Engine) -> None:
    """Neither a question nor what a malformed request quotes reaches the log."""
    list(stream(engine, ask(CANARY)))
    for wrong in (
        {"messages": CANARY},
        ask(max_tokens=CANARY),
        ask(messages=[{"role": CANARY, "content": CANARY}]),
        ask(CANARY * CONTEXT_TOKENS),
    ):
        engine.client.post("/v1/chat/completions", json=wrong)
    broken = f'{{"messages": "{CANARY}'
    assert engine.client.post("/v1/chat/completions", content=broken).status_code == 400

    assert CANARY not in str(engine.container.logs())


def test_opens_its_socket_to_its_group_alone(engine: Engine) -> None:
    """Owner and group may use the socket, others may not."""
    mode = engine.socket.stat().st_mode & 0o777

    assert mode & 0o666 == 0o660
    assert mode & 0o007 == 0


def test_comes_back_after_a_kill(engine: Engine) -> None:
    """The socket that a killed engine left behind does not stop the next one."""
    engine.container.kill()
    assert engine.socket.exists()

    engine.container.start()

    engine.wait_until_ready()
    assert text_of(list(stream(engine, ask())))


def test_stops_on_sigterm(engine: Engine) -> None:
    """SIGTERM ends an engine that is answering, with exit code 0; vLLM takes its time for it."""
    chunks = stream(engine, ask(max_tokens=900))
    next(chunks)
    begin = time.monotonic()

    engine.container.stop(time=20)

    assert time.monotonic() - begin < engine.kind.stop_seconds
    assert engine.state().exit_code == 0
