"""Owns the starting and removal of both machines and of the network that they are on."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.pair import Pair
from scripts.setup import ROOT, answer_of
from scripts.steps import Step, Steps
from tests.conftest import STATE
from tests.vm import disk
from tests.vm.machine import Machine, remove_machines
from tests.vm.network import Capture, Namespace, lay_network
from tests.vm.nodes import MODEL, RELAY, Node, Plan, lay_out
from tests.vm.pace import Pace
from tests.vm.telling import pytest_runtest_logreport  # noqa: F401  # a hook

SUBNET = "198.19.1"
USERS = tuple(range(1001, 1051))
STRANGER = f"{SUBNET}.99"
GATEWAY = f"{SUBNET}.1"


def pytest_runtest_setup() -> None:
    """A run of all stages ends in time, on a slow machine too; RUN_UNTIL is in seconds of 1970."""
    until = os.environ.get("RUN_UNTIL")
    if until and time.time() > int(until):
        pytest.skip("this machine is too slow for all stages in one run: ./scripts/test vm")


@dataclass(frozen=True)
class World:
    """Both machines, off at first, and what is around them."""

    pair: Pair
    namespace: Namespace
    capture: Capture
    relay: Node
    model: Node
    pace: Pace

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.relay, self.model


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The test network with its stubs and captures, and two machines without power."""
    pair = Pair(name="test-vm", subnet=SUBNET, state=STATE / "vm", engine="stub", users=USERS)
    steps = Steps(5, STATE / "vm.log", sys.stderr)
    with pair.hold(), contextlib.ExitStack() as cleanup:
        with steps.step("removing what an earlier run left") as step:
            remove_machines(pair.state)
            pair.down(step, volumes=True)
        cleanup.callback(remove, steps, pair)
        with steps.step("keys and settings") as step:
            pair.prepare(step)
        with steps.step("test network and stubs") as step:
            namespace = start_internet(step, pair)
            cleanup.callback(namespace.close)
            own = [f"{SUBNET}.{number}" for number in (20, 53)]
            lay_network(
                namespace,
                [*own, STRANGER, GATEWAY],
                {plan.tap: plan.mac for plan in (RELAY, MODEL)},
            )
            capture = Capture(namespace, [RELAY.tap, MODEL.tap], pair.state)
            cleanup.callback(capture.stop)
        with steps.step("disks of both machines") as step, disk.cache():
            nodes = [make_node(step, plan, pair) for plan in (RELAY, MODEL)]
        for node in nodes:
            cleanup.callback(node.machine.pull_plug)
        pace = Pace()
        cleanup.callback(pace.stop)
        yield World(pair, namespace, capture, nodes[0], nodes[1], pace)


def start_internet(step: Step, pair: Pair) -> Namespace:
    command = ["docker", "compose", "--project-directory", str(ROOT), "-p", pair.internet]
    for file in ("tests/stubs/internet.yml", "tests/vm/internet.yml"):
        command += ["-f", str(ROOT / file)]
    step.run(
        [*command, "up", "--detach", "--no-build", "--pull=never", "--wait"],
        doing="starting the stub Bot API server and the resolver",
        timeout=90,
        env=pair.environment(),
        cwd=ROOT,
    )
    container = pair.container(pair.internet, "telegram")
    pid = answer_of(["docker", "inspect", "--format", "{{.State.Pid}}", container])
    assert pid not in (None, "0"), f"{container} does not run"
    return Namespace(int(pid or 0))


def make_node(step: Step, plan: Plan, pair: Pair) -> Node:
    address = f"{SUBNET}.{plan.last_number}"
    host = disk.Host(plan.project, address, GATEWAY, f"{SUBNET}.53", plan.live_restore, plan.images)
    files = pair.state / f"{plan.project}.files"
    lay_out(plan, pair, files)
    system = disk.make_system(step, host, files, pair.state / f"{plan.project}.disk")
    machine = Machine(plan.project, system, plan.memory, plan.mac, plan.tap, pair.state)
    return Node(plan, machine, address)


def remove(steps: Steps, pair: Pair) -> None:
    with steps.step("removing the machines and their network") as step:
        keep_captures(pair.state)
        remove_machines(pair.state)
        pair.down(step, volumes=True)


def keep_captures(state: Path) -> None:
    """For a post-mortem: what was seen, and what the consoles said."""
    kept = STATE / "vm-last"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(mode=0o700)
    for pattern in ("*.pcap", "*.console", "*.qemu"):
        for path in state.glob(pattern):
            shutil.move(path, kept)
