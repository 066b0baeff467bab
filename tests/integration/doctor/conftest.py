"""A running pair to be looked at, and a small Compose project that may be bent at will."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.doctor.examination import examine
from scripts.doctor.finding import Check, Finding
from scripts.node.kinds import kinds
from scripts.node.node import Container, Node
from scripts.node.tools import Tools
from scripts.pair import USER, Pair
from scripts.telegram_user import TelegramUser
from tests.conftest import ROOT, STATE, running
from tests.integration.lab import PEER, VERSION

SUBNET = "198.18.8"
TARGET_NAME = "test-doctor-target"
TARGET = f"{SUBNET}.200"
"""Where canaries go: a machine of nobody else's on the test internet."""


class Later(Tools):
    """This machine, some time from now: nobody waits for minutes to see something grow old."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def now(self) -> float:
        return super().now() + self._seconds


@dataclass
class Nodes:
    """The running pair, as an operator calls it on either node."""

    pair: Pair

    @property
    def user(self) -> TelegramUser:
        return TelegramUser(self.pair.control_socket, USER)

    def node(self, kind: str, tools: Tools | None = None) -> Node:
        options, files = self.compose_of(kind)
        return Node(kinds()[kind], tools or Tools(), ROOT, options, files)

    def compose_of(self, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What an operator gives to Compose: options, and files."""
        project = f"{self.pair.name}-{kind}"
        words = self.pair.compose(project)[2:]
        files = tuple(words[at + 1] for at, word in enumerate(words) if word == "-f")
        cut = words.index("-f")
        # The overlays of tests want variables, which have to stand in a file like the others.
        return (*words[:cut], "--env-file", str(self.pair.state / "overlays.env")), files

    def command(self, kind: str, sub_command: str, *arguments: str) -> list[str]:
        options, files = self.compose_of(kind)
        named = [word for file in files for word in ("-f", file)]
        command = [str(ROOT / "scripts/adyton"), sub_command, "--node", kind]
        return [*command, *options, *named, *arguments]

    def container(self, kind: str, service: str) -> str:
        return self.pair.container(f"{self.pair.name}-{kind}", service)

    def find(self, kind: str, *checks: Check, tools: Tools | None = None) -> list[Finding]:
        return list(examine(self.node(kind, tools), checks))

    def problems(self, kind: str, *checks: Check, tools: Tools | None = None) -> set[str]:
        """Names of the problems that checks find."""
        return problems_of(self.find(kind, *checks, tools=tools))

    def bridge(self) -> str:
        """The test internet as an interface of this machine."""
        told = docker("network", "inspect", "-f", "{{.Id}}", self.pair.internet)
        return f"br-{told[:12]}"


def problems_of(findings: Sequence[Finding]) -> set[str]:
    return {finding.problem for finding in findings if finding.problem}


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    remove_target()  # of an interrupted run: it would keep the network
    pair = Pair(name="test-doctor", subnet=SUBNET, state=STATE / "doctor", engine="stub")
    with contextmanager(running)(pair):
        variables = {**pair.environment(), "VERSION": VERSION}
        wanted = ("SUBNET", "INTERNET", "STATE", "VERSION")
        lines = [f"{name}={variables[name]}\n" for name in wanted]
        (pair.state / "overlays.env").write_text("".join(lines), encoding="utf-8")
        yield Nodes(pair)


@dataclass
class Bench:
    """A Compose project without a purpose, at which things are bent."""

    folder: Path
    project: str

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        return file

    def compose(self, file: Path, *command: str) -> None:
        docker("compose", "-p", self.project, "-f", str(file), *command)

    def up(self, file: Path) -> None:
        self.compose(file, "up", "--detach", "--no-build", "--pull=never")

    def down(self) -> None:
        label = f"label=com.docker.compose.project={self.project}"
        for listed, remove in (
            (("ps", "-aq"), ("rm", "-f", "-v")),
            (("network", "ls", "-q"), ("network", "rm")),
            (("volume", "ls", "-q"), ("volume", "rm")),
        ):
            found = docker(*listed, "--filter", label).split()
            if found:
                docker(*remove, *found)

    def node(self, file: Path) -> Node:
        return Node(kinds()["relay"], Tools(), ROOT, ("-p", self.project), (str(file),))

    def find(self, file: Path, *checks: Check) -> list[Finding]:
        return list(examine(self.node(file), checks))

    def name(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    def container(self, service: str) -> Container:
        (raw,) = json.loads(docker("inspect", self.name(service)))
        return Container(raw)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, "doctor-bench")
    bench.down()
    try:
        yield bench
    finally:
        bench.down()


@pytest.fixture(scope="package")
def target(nodes: Nodes) -> Iterator[str]:
    """A machine on the test internet that canaries can be sent to."""
    docker(
        *("run", "--detach", "--name", TARGET_NAME, "--label", f"lab={TARGET_NAME}"),
        *("--pull=never", "--network", nodes.pair.internet, "--ip", TARGET),
        *(PEER, "sleep", "infinity"),
    )
    try:
        yield TARGET
    finally:
        remove_target()


def remove_target() -> None:
    subprocess.run(["docker", "rm", "-f", TARGET_NAME], capture_output=True, check=False)


Undo = Callable[..., None]


@pytest.fixture
def afterwards() -> Iterator[Undo]:
    """Collects Docker commands that put things right again, whatever the test found."""
    commands: list[tuple[str, ...]] = []
    yield lambda *command: commands.append(command)
    for command in reversed(commands):
        docker(*command)
