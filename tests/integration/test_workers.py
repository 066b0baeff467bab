"""Several boxes with an engine each: the Compose files of the first and of a worker, stub engines.

The router, both ends of the tunnel and the worker's door run as in production, each in its
namespace. The gateway is the real one too, as a process of this machine.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from python_on_whales import DockerClient

from scripts.bundle import fill_in
from scripts.commands import uninstall
from scripts.commands.__main__ import main
from scripts.doctor import census, rules, states, tunnel
from scripts.doctor.examination import examine
from scripts.doctor.finding import Check, Level
from scripts.doctor.model import workers
from scripts.keys import make_preshared_key, make_private_key, public_key_of
from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.tools import Tools
from scripts.prove.proof import Plan, prove
from scripts.setup import compose_environment
from services.gateway.engine import Finished, open_engine
from tests.bench.gateway import FIRST_USER, free_port, held_namespace, running_gateway
from tests.bench.processes import Environments
from tests.bench.program import Program
from tests.integration.lab import ROOT, VERSION, Lab, wait_until

SLOTS = 8
TOKENS_A_SECOND = 10
ANSWER_TOKENS = 40
"""As tests/stubs/slots.yml has it."""
SOCKET = "run/engine/engine.sock"
ROUTER_SOCKET = "run/router/engine.sock"
FIRST = ("engine", "workers", "workers-uplink", "router")
WORKER = ("wireguard", "uplink", "door", "engine")


@dataclass(frozen=True)
class Box:
    """One machine's Compose project."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pid(self, service: str) -> int:
        """The first process of a service's container, on this machine."""
        container = self.compose("ps", "-q", service).strip()
        return int(DockerClient().container.inspect(container).state.pid or 0)

    def path(self, service: str, path: str) -> Path:
        """A file of a container, as root of this machine finds it."""
        return Path(f"/proc/{self.pid(service)}/root/{path}")

    def interfaces(self, service: str) -> set[str]:
        lines = Path(f"/proc/{self.pid(service)}/net/dev").read_text().splitlines()[2:]
        return {line.partition(":")[0].strip() for line in lines}

    def engine(self) -> httpx.Client:
        """The stub engine's own socket, and its record."""
        transport = httpx.HTTPTransport(uds=str(self.path("engine", SOCKET)))
        return httpx.Client(transport=transport, base_url="http://engine", timeout=20)

    def asked(self) -> list[dict[str, Any]]:
        with self.engine() as client:
            return list(client.get("/control/record").json())


@dataclass(frozen=True)
class Boxes:
    first: Box
    worker: Box

    @property
    def router(self) -> Path:
        return self.first.path("router", ROUTER_SOCKET)

    def engines_up(self) -> int:
        """How many the router believes to be there, by its log."""
        said = self.first.compose("logs", "--no-log-prefix", "router")
        state = {n: f"Server engines/{n} is UP" for n in ("1", "2")}
        down = {n: f"Server engines/{n} is DOWN" for n in state}
        return sum(said.rfind(up) >= said.rfind(down[n]) for n, up in state.items())

    def wait_for_both(self) -> None:
        wait_until(lambda: self.engines_up() == 2, "the router has both engines", 60)


@pytest.fixture(scope="module")
def boxes(docker: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boxes]:
    """Two boxes on a network of their own, joined by the tunnel."""
    state = tmp_path_factory.mktemp("workers")
    with Lab(docker, "workers-lab", "198.18.94") as lab:
        environment = compose_environment(
            {"SUBNET": lab.subnet, "INTERNET": lab.name, "VERSION": VERSION, "STATE": str(state)}
        )
        first, worker = settings_of_boxes(state, lab.subnet)
        stub = ["tests/stubs/engine.yml", "tests/stubs/slots.yml"]
        found = Boxes(
            Box(
                "first",
                command("workers-lab-first", first, "compose.gpu.yml", "compose.gpu.router.yml",
                        *stub, "tests/stubs/router.yml"),
                environment,
            ),
            Box(
                "worker",
                command("workers-lab-worker", worker, "compose.gpu.worker.yml", *stub,
                        "tests/stubs/gpu.yml"),
                environment,
            ),
        )  # fmt: skip
        try:
            for box, services in ((found.first, FIRST), (found.worker, WORKER)):
                box.compose("down", "--volumes", "--timeout=1")
                box.compose("up", "--detach", "--no-build", "--pull=never", "--wait", *services)
            found.wait_for_both()
            yield found
        finally:
            for box in (found.first, found.worker):
                box.compose("down", "--volumes", "--timeout=1")


def settings_of_boxes(state: Path, subnet: str) -> tuple[Path, Path]:
    """Keys and settings as docs/scaling.md has them made; returns the two env files."""
    private = {box: make_private_key() for box in ("first", "worker")}
    shared = make_preshared_key()
    written = {
        "first": ({"workers_private_key": private["first"], "workers_preshared_key": shared},
            ".env.gpu.example", {
                "WORKERS": f"10.67.0.2={public_key_of(private['worker'])}",
                "WORKERS_LISTEN": "127.0.0.1:51821",
                "TOTAL_SLOTS": str(2 * SLOTS),
                "ENGINE_SLOTS": str(SLOTS),
            }),
        "worker": ({"tunnel_private_key": private["worker"], "tunnel_preshared_key": shared},
            ".env.worker.example", {
                "TUNNEL_ENDPOINT": f"{subnet}.10:51820",
                "TUNNEL_PEER_KEY": public_key_of(private["first"]),
                "ENGINE_SLOTS": str(SLOTS),
            }),
    }  # fmt: skip
    for box, (keys, example, settings) in written.items():
        folder, file = state / box, state / f"{box}.env"
        folder.mkdir()
        for name, key in keys.items():
            (folder / name).write_text(key, encoding="ascii")
            (folder / name).chmod(0o400)
        own = {"SECRETS": str(folder), "ENV_FILE": str(file)}
        text = (ROOT / example).read_text(encoding="utf-8")
        file.write_text(fill_in(text, settings | own), encoding="utf-8")
    return state / "first.env", state / "worker.env"


def command(project: str, env_file: Path, *files: str) -> list[str]:
    named = [word for file in files for word in ("-f", str(ROOT / file))]
    return ["docker", "compose", "--project-directory", str(ROOT), "-p", project,
            "--env-file", str(env_file), *named]  # fmt: skip


@pytest.fixture(autouse=True)
def whole(boxes: Boxes) -> None:
    """Whatever the test before has broken is there again."""
    boxes.wait_for_both()


async def load(socket: Path, asks: int, at_once: int, chats: int) -> float:
    """Ask so often, as the gateway does: a chat's asks one after the other, and so many at once.

    Returns the tokens a second.
    """
    answered = 0
    numbers, slots = iter(range(asks)), asyncio.Semaphore(at_once)
    async with open_engine(socket, at_once) as engine:

        async def chat(name: str) -> None:
            nonlocal answered
            for _ in numbers:
                question = [{"role": "user", "content": name}]
                async with slots:
                    async for item in engine.stream(question, 100, 0.0, chat=name):
                        answered += item.answer_tokens if isinstance(item, Finished) else 0

        began = time.monotonic()
        await asyncio.gather(*(chat(f"chat {n}") for n in range(chats)))
        return answered / (time.monotonic() - began)


def test_nothing_but_the_tunnel_leads_to_a_worker(boxes: Boxes) -> None:
    """The router and the door see `lo` and `wg0`, the engines `lo` alone."""
    assert boxes.first.interfaces("router") == {"lo", "wg0"}
    assert boxes.worker.interfaces("door") == {"lo", "wg0"}
    assert boxes.first.interfaces("engine") == boxes.worker.interfaces("engine") == {"lo"}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 200), ("/v1/models", 200), ("/control/record", 404), ("/tokenize", 404)],
)
def test_the_door_lets_four_calls_through(boxes: Boxes, path: str, status: int) -> None:
    """Whatever else the worker's engine offers stays there; asked from the router's namespace."""
    container = boxes.first.compose("ps", "-q", "router").strip()
    asked = f"GET {path} HTTP/1.0\\r\\nHost: engine\\r\\n\\r\\n"

    said = subprocess.run(
        ["docker", "exec", container, "sh", "-c",
         f"printf '{asked}' | socat -T 5 -,ignoreeof TCP-CONNECT:10.67.0.2:8000"],
        capture_output=True, text=True, check=True, timeout=20,
    ).stdout  # fmt: skip

    assert said.split()[1] == str(status), said


def test_worker_begins_nothing(boxes: Boxes) -> None:
    """It answers the router; neither the first box's end of the tunnel nor the router hears it."""
    refused = refused_out(boxes)
    container = boxes.worker.compose("ps", "-q", "door").strip()

    for port in (8000, 8080, 22):
        tried = subprocess.run(
            ["docker", "exec", container, "socat", "-u", "OPEN:/dev/null",
             f"TCP-CONNECT:10.67.0.1:{port},connect-timeout=1"],
            capture_output=True, check=False, timeout=20,
        )  # fmt: skip
        assert tried.returncode != 0

    assert refused_out(boxes) >= refused + 3, "control: its own rules have refused it"


def refused_out(boxes: Boxes) -> int:
    container = boxes.worker.compose("ps", "-q", "wireguard").strip()
    listing = ["nft", "-j", "list", "counter", "inet", "node", "refused_out"]
    shown = subprocess.run(
        ["docker", "exec", container, *listing],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (counter,) = (it["counter"] for it in json.loads(shown.stdout)["nftables"] if "counter" in it)
    return int(counter["packets"])


def node_of(box: Box, kind: str, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A box as the operator's tools look at it."""
    for name, value in box.environment.items():
        monkeypatch.setenv(name, value)
    words = list(box.command)[2:]
    files = tuple(words[at + 1] for at, word in enumerate(words) if word == "-f")
    return Node(kinds()[kind], Tools(), ROOT, tuple(words[: words.index("-f")]), files)


@pytest.mark.parametrize(
    ("name", "kind", "checks"),
    [
        ("first", "model", (census.CHECK, rules.CHECK, workers.CHECK)),
        ("worker", "worker", (states.CHECK, census.CHECK, rules.CHECK, tunnel.CHECK)),
    ],
)
def test_doctor_knows_both_ends(
    boxes: Boxes, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, checks: Sequence[Check]
) -> None:
    """Their namespaces and rules are as they should be, and each hears the other."""
    node = node_of(getattr(boxes, name), kind, monkeypatch)

    found = list(examine(node, checks))

    assert {it.check for it in found} == {check.name for check in checks}
    amiss = [it for it in found if it.level in (Level.FAILURE, Level.COULD_NOT_LOOK)]
    assert amiss == []
    assert any("handshake" in it.text for it in found if it.level is Level.OK)


def test_proof_of_a_worker(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its namespaces lets a probe out, and its tunnel is seen at the network between."""
    node = node_of(boxes.worker, "worker", monkeypatch)
    (network,) = node.containers["uplink"].networks.values()
    bridge = f"br-{network['NetworkID'][:12]}"
    address = str(network["IPAddress"])
    target = f"{address.rpartition('.')[0]}.200"

    report = prove(node, Plan(6, (bridge,), target, control=False), lambda what: None)

    assert [it["forbidden"] for it in report["captures"]] == [{}] * len(report["captures"])
    assert {it["seen"] for it in report["canaries"]} == {0}
    assert {it["service"] for it in report["canaries"]} == {"wireguard", "uplink", "engine"}
    passed = [it["passed"] for it in report["controls"] if it["name"] == "tunnel"]
    assert passed == [True, True], "outside, and at the uplink's bridge"


async def test_a_chat_stays_where_it_was(boxes: Boxes) -> None:
    """As long as its engine has a slot; and new ones are shared out evenly."""
    before = {box.name: len(box.asked()) for box in (boxes.first, boxes.worker)}
    chats = SLOTS

    async with open_engine(boxes.router, 2 * SLOTS) as engine:
        for _ in range(3):

            async def ask(name: str) -> None:
                question = [{"role": "user", "content": name}]
                [item async for item in engine.stream(question, 100, 0.0, chat=name)]

            await asyncio.gather(*(ask(f"stays {n}") for n in range(chats)))

    seen = {
        box.name: Counter(
            entry["messages"][-1]["content"] for entry in box.asked()[before[box.name] :]
        )
        for box in (boxes.first, boxes.worker)
    }
    assert all(count == 3 for asked in seen.values() for count in asked.values()), seen
    assert [len(asked) for asked in seen.values()] == [chats // 2, chats // 2]


async def test_two_carry_nearly_twice_as_much_as_one(boxes: Boxes) -> None:
    """With every slot of both taken, and chats that ask again and again."""
    one = await load(boxes.first.path("engine", SOCKET), 3 * SLOTS, SLOTS, 2 * SLOTS)
    two = await load(boxes.router, 6 * SLOTS, 2 * SLOTS, 4 * SLOTS)

    assert one <= SLOTS * TOKENS_A_SECOND * 1.1, "control: one has no more slots"
    assert two >= 1.9 * one


class Here(Environments):
    """What is needed is in this environment."""

    def python(self, name: str) -> str:
        return sys.executable


@pytest.mark.parametrize("lost", ["engine", "door", "uplink"])
async def test_a_lost_worker_loses_no_ask(boxes: Boxes, tmp_path: Path, lost: str) -> None:
    """Away while it answers: the gateway asks again, and every answer is whole and there once.

    The engine and the door are killed and come back, as a process does; the uplink stays away, as
    a machine without power does.
    """
    users = 2 * SLOTS
    before = {box.name: len(box.asked()) for box in (boxes.first, boxes.worker)}
    program = Program(ANSWER_TOKENS)
    settings = {"ENGINE_SLOTS": str(2 * SLOTS)}
    container = boxes.worker.compose("ps", "-q", "uplink").strip()
    pid = boxes.worker.pid(lost)

    async with (
        held_namespace(),
        running_gateway(
            Here(tmp_path), tmp_path, boxes.router, free_port(), users=users, settings=settings
        ) as gateway,
    ):
        asks = [
            asyncio.create_task(gateway.relay.ask(program, FIRST_USER + n)) for n in range(users)
        ]
        with boxes.worker.engine() as engine:

            def answers_all() -> bool:
                running = engine.get("/control/running").json()["running"]
                return bool(running == SLOTS)

            await asyncio.to_thread(wait_until, answers_all, "the worker answers", 30)
        if lost == "uplink":
            DockerClient().container.kill(container)
        else:
            os.kill(pid, signal.SIGKILL)
        try:
            answers = await asyncio.wait_for(asyncio.gather(*asks), 120)
        finally:
            boxes.worker.compose("up", "--detach", "--no-build", "--pull=never", "--wait")

    said = " ".join(f"word{n}" for n in range(1, ANSWER_TOKENS + 1))
    assert [answer.text.strip() for answer in answers] == [said] * users
    asked = len(boxes.first.asked()) - before["first"] + len(boxes.worker.asked())
    if lost != "engine":  # which forgets what it was asked
        asked -= before["worker"] + SLOTS
    assert asked >= users, "control: what the worker was answering was asked again"


def test_worker_is_upgraded_and_removed(
    boxes: Boxes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By its own commands: its door runs on a newer image, and the router hears it again; then
    nothing of it is left, and what the other box needs is. The last test: the worker is gone.
    """
    monkeypatch.chdir(ROOT)  # which `uninstall` leaves
    for name, value in {**boxes.worker.environment, "IMAGES": "workers-lab"}.items():
        monkeypatch.setenv(name, value)
    for name in ("UNITS", "OPT", "HARDENED"):  # this machine's own
        monkeypatch.setattr(uninstall, name, tmp_path / name)
    box = ["--node", "worker", *boxes.worker.command[2:]]
    project = boxes.worker.command[boxes.worker.command.index("-p") + 1]
    newer = [f"workers-lab/{name}:{VERSION}" for name in ("router", "wireguard")]
    engine = boxes.worker.pid("engine")
    door = boxes.worker.compose("ps", "-q", "door").strip()
    docker = DockerClient()
    try:
        run("docker", "commit", "--change=LABEL newer=yes", door, newer[0])
        run("docker", "tag", f"node/wireguard:{VERSION}", newer[1])

        assert main(["upgrade", *box]) == 0

        assert "workers-lab/router" in capsys.readouterr().out
        door = boxes.worker.compose("ps", "-q", "door").strip()
        assert docker.container.inspect(door).config.image == newer[0]
        assert boxes.worker.pid("engine") == engine, "it was the same already"
        boxes.wait_for_both()

        assert main(["uninstall", "--dry-run", *box]) == 0
        listed = capsys.readouterr().out
        assert "stubs" not in listed, "the other box's engine is of that image, too"
        assert main(["uninstall", "--yes", *box]) == 0

        assert "nothing of that is left" in capsys.readouterr().out
        label = f"label=com.docker.compose.project={project}"
        for kind in ("container", "volume", "network"):
            every = ["--all"] if kind == "container" else []
            assert run("docker", kind, "ls", *every, "-q", "--filter", label) == ""
        assert [name for name in newer if docker.image.exists(name)] == []
        assert boxes.first.pid("engine"), "the other box goes on"
    finally:
        subprocess.run(["docker", "image", "rm", "--force", *newer], capture_output=True)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
