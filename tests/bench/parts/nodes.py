"""Both nodes from their product Compose files, tunnels and all: times, memory, sizes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from scripts.pair import VERSION, Pair, containers_of
from scripts.setup import ROOT
from scripts.steps import Step, Steps
from tests.bench.figures import Spread, percentile
from tests.bench.http import Address, Pool, write_request
from tests.bench.processes import MIB, NotReady
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run

CHATS = 32
STREAMING = 200
PERIOD_SECONDS = 0.25
"""Between two questions: with placeholder, first edit and final each, within Telegram's limits."""
FIRST_USER = 1001
RELAY_IMAGES = ("wireguard", "egress", "relay")
STARTS = 3
START_SECONDS = 120

TELL_ENGINE = """
import http.client, socket, sys
method, path, *body = sys.argv[1:]
connection = http.client.HTTPConnection("engine")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/engine/engine.sock")
connection.request(method, path, body[0] if body else None, {"Content-Type": "application/json"})
print(connection.getresponse().read().decode())
"""
"""The engine has no network: it is told from within its container."""


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "nodes",
        "Both nodes, with tunnels",
        [
            "Both nodes run from the product Compose files on this machine, joined by a network "
            "that plays the internet, with the stub Bot API server and the stub engine of the "
            "tests in containers of their own. It runs only when it is named, and needs Docker.",
            "An update is available when the stub has it, and an edit visible when it has come "
            "there, both by the stub's own record. The stub engine begins at once: what it takes "
            "for the first token is in the figures. Its own record says when it had said "
            "everything.",
            "Memory is what all processes of the relay node's containers hold together (PSS), "
            f"while {STREAMING} chats stream. It is not measured under a limit for the whole node, "
            "nor in a virtual machine. Images are listed with the layers that they share, so "
            "together they take less.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure one pair from nothing, and leave nothing of it behind."""
    pair = Pair(
        name="bench",
        subnet="198.18.9",
        state=ROOT / ".bench" / "pair",
        engine="stub",
        users=tuple(range(FIRST_USER, FIRST_USER + STREAMING)),
        extra_settings=(("ENGINE_SLOTS", str(STREAMING)),),
    )
    steps = Steps(3, run.directory / "nodes.log")
    with pair.hold(), steps.step("both nodes") as step, _running(pair, step):
        _measure_starts(run, part, pair, step)
        pair.wait_for_contact(step)
        telegram = Pool(Address(pair.control_socket))
        await _measure_chain(run, part, pair, telegram)
        await _measure_memory(run, part, pair, telegram)
        telegram.close()
    _measure_images(part)


@contextlib.contextmanager
def _running(pair: Pair, step: Step) -> Iterator[None]:
    pair.down(step, volumes=True)
    try:
        pair.prepare(step)
        pair.start_internet(step)
        yield
    finally:
        pair.down(step, volumes=True)


def _measure_starts(run: Run, part: Part, pair: Pair, step: Step) -> None:
    """Start each node several times with everything there; the last start stays."""
    found: dict[str, list[float]] = {pair.model_node: [], pair.relay_node: []}
    for number in range(run.choose(STARTS, 1)):
        for project, seconds in found.items():
            if number:
                _compose(pair, step, project, "down")
            began = time.monotonic()
            _compose(
                *(pair, step, project, "up", "--detach", "--no-build", "--pull=never", "--wait"),
                f"--wait-timeout={START_SECONDS}",
            )
            seconds.append(time.monotonic() - began)
    for name, seconds in zip(("model", "relay"), found.values(), strict=True):
        healthy = Spread.of(seconds)
        part.targets.append(Target(f"Nodes: {name} node healthy", healthy, "s", "at most", 10))


def _compose(pair: Pair, step: Step, project: str, *arguments: str) -> None:
    step.run(
        pair.compose(project, *arguments),
        doing=f"docker compose {arguments[0]} of {project}",
        timeout=START_SECONDS + 60,
        env=pair.environment(),
        cwd=ROOT,
    )


async def _measure_chain(run: Run, part: Part, pair: Pair, telegram: Pool) -> None:
    """Let the chats ask in turn; the engine repeats what it is asked, 40 words a second."""
    _tell_engine(pair, "POST", "/control/script", {"speed": 40})
    questions = run.choose(128, 16)
    said: dict[str, float] = {}
    began = time.monotonic()
    for number in range(questions + 4):
        await asyncio.sleep(max(0.0, began + number * PERIOD_SECONDS - time.monotonic()))
        text = f"Q{number}x says these ten words and nothing more than that"
        user = {"id": FIRST_USER + number % CHATS, "first_name": "U", "language_code": "en"}
        await _control(telegram, "POST", "/say", {"user": user, "text": text})
    await asyncio.sleep(3)  # the last finals
    record = (await _control(telegram, "GET", "/record"))["entries"]
    said = {_mark(one["text"]): one["time"] for one in record if one["kind"] == "say"}
    edits: dict[str, list[tuple[float, str]]] = {}
    for one in record:
        if one["kind"] == "call" and one["method"].lower() == "editmessagetext":
            text = str(one["params"].get("text", ""))
            edits.setdefault(_mark(text), []).append((one["time"], text))
    ends = {
        _mark(str(one["messages"][-1]["content"])): one["ended"]
        for one in json.loads(_tell_engine(pair, "GET", "/control/record"))
        if one["outcome"] == "finished"
    }
    marks = [f"Q{number}x" for number in range(4, questions + 4)]  # the first warm up
    missing = [mark for mark in marks if mark not in edits or mark not in ends]
    if missing:
        raise NotReady(
            f"{len(missing)} of {questions} questions have no answer, {missing[0]} first"
        )
    first = [1000 * (edits[mark][0][0] - said[mark]) for mark in marks]
    final = [_first_whole(edits[mark]) - ends[mark] for mark in marks]
    p50, p99 = (Spread.of([percentile(first, share)]) for share in (0.5, 0.99))
    last = Spread.of([percentile(final, 0.99)])
    part.targets += [
        Target("Nodes: first visible edit, p50", p50, "ms", "at most", 30),
        Target("Nodes: first visible edit, p99", p99, "ms", "at most", 100),
        Target("Nodes: final after the last token, p99", last, "s", "at most", 1.2),
    ]
    shares = [n / 100 for n in range(1, 100)]
    part.plots.append(
        Plot(
            "nodes-first-edit",
            "First visible edit, through both tunnels",
            *("ms", "share of answers"),
            {"both nodes": [(percentile(first, share), share) for share in shares]},
        )
    )


def _mark(text: str) -> str:
    return text.split(maxsplit=1)[0] if text.strip() else ""


def _first_whole(edits: list[tuple[float, str]]) -> float:
    """Find when the whole text stood there first."""
    whole = max((text for _, text in edits), key=len)
    return next(at for at, text in edits if text == whole)


async def _measure_memory(run: Run, part: Part, pair: Pair, telegram: Pool) -> None:
    seconds = run.choose(40, 8)
    script = {"speed": 12, "content": {"words": 12 * (seconds + 10)}}
    _tell_engine(pair, "POST", "/control/script", script)
    for number in range(STREAMING):
        user = {"id": FIRST_USER + number, "first_name": "U", "language_code": "en"}
        await _control(telegram, "POST", "/say", {"user": user, "text": "Speak at length."})
    points = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        points.append((now, _resident_mib(pair)))
        await asyncio.sleep(1)
    most = Spread.of([max(mib for _, mib in points)])
    part.targets.append(
        Target(f"Nodes: relay node's memory, {STREAMING} chats", most, "MiB", "at most", 150)
    )
    part.plots.append(
        Plot(
            "nodes-memory",
            f"The relay node's memory while {STREAMING} chats stream",
            *("s", "MiB"),
            {"all containers": points},
        )
    )


def _resident_mib(pair: Pair) -> float:
    total = 0
    for container in containers_of(pair.relay_node):
        for pid in _output("docker", "top", container["Names"], "-eo", "pid").split()[1:]:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    total += int(line.split()[1]) * 1024 if line.startswith("Pss:") else 0
    return total / MIB


def _measure_images(part: Part) -> None:
    sizes = {
        name: int(
            _output("docker", "image", "inspect", "-f", "{{.Size}}", f"node/{name}:{VERSION}")
        )
        / 1e6
        for name in (*RELAY_IMAGES, "gateway")
    }
    together = Spread.of([sum(sizes[name] for name in RELAY_IMAGES)])
    part.targets += [
        Target("Nodes: relay node's images", together, "MB", "at most", 350),
        Target("Nodes: gateway's image", Spread.of([sizes["gateway"]]), "MB", "at most", 250),
    ]
    part.tables.append(Table("Images", ("", "MB"), list(sizes.items())))


def _tell_engine(pair: Pair, method: str, path: str, body: object = None) -> str:
    container = pair.container(pair.model_node, "engine")
    written = [json.dumps(body)] if body is not None else []
    return _output(
        *("docker", "exec", container, "/opt/venv/bin/python", "-c", TELL_ENGINE),
        *(method, path, *written),
    )


async def _control(telegram: Pool, method: str, path: str, body: object = None) -> Any:
    written = orjson.dumps(body) if body is not None else b""
    status, answer = await telegram.call(write_request(method, path, None, written))
    if status != 200:
        raise NotReady(f"the stub Bot API server answered {path} with {status}")
    return orjson.loads(answer)


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"{' '.join(argv[:3])}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
