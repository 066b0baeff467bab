"""A running pair to be looked at, and a small Compose project that may be bent at will."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.doctor.examination import examine
from scripts.doctor.finding import Check, Finding
from scripts.node.kinds import kinds
from scripts.node.node import Container, Node
from scripts.node.tools import Tools
from scripts.pair import Pair
from tests.conftest import ROOT, STATE, running
from tests.integration.lab import PEER
from tests.operating import Nodes

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


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    remove_target()  # of an interrupted run: it would keep the network
    pair = Pair(name="test-doctor", subnet=SUBNET, state=STATE / "doctor", engine="stub")
    with contextmanager(running)(pair):
        nodes = Nodes(pair)
        nodes.write_overlays()
        yield nodes


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
