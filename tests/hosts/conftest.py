"""Owns two machines as they are rented, with nothing of the project on them, and their network."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.pair import Pair
from scripts.steps import Step, Steps
from scripts.telegram_user import TelegramUser
from tests.conftest import STATE
from tests.hardening import disk
from tests.vm.conftest import start_internet
from tests.vm.disk import cache
from tests.vm.login import Login, make_key
from tests.vm.machine import Machine, remove_machines
from tests.vm.network import Namespace, lay_network
from tests.vm.telling import pytest_runtest_logreport  # noqa: F401  # a hook

SUBNET = "198.19.2"
TELEGRAM, RESOLVER, GATEWAY = f"{SUBNET}.20", f"{SUBNET}.53", f"{SUBNET}.1"
STRANGER = f"{SUBNET}.99"
USER = 1001
PATIENCE_SECONDS = 1800  # emulated processors, on a machine that does other things meanwhile


@dataclass(frozen=True)
class Host:
    """One machine, and how its operator gets in."""

    node: str
    """What it is to become."""
    address: str
    machine: Machine
    login: Login

    @property
    def fingerprint(self) -> str:
        """Of its SSH key, as its console shows it."""
        shown = self.machine.run("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
        return shown.split()[1]


@dataclass(frozen=True)
class World:
    """Both hosts, and who else is on their network."""

    namespace: Namespace
    state: Path
    relay: Host
    model: Host
    user: TelegramUser

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.relay, self.model


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Both hosts with power on; the stub Bot API server and the resolver beside them."""
    pair = Pair(name="test-hosts", subnet=SUBNET, state=STATE / "hosts", engine="stub")
    steps = Steps(4, STATE / "hosts.log", sys.stderr)
    with pair.hold(), contextlib.ExitStack() as cleanup:
        with steps.step("removing what an earlier run left") as step:
            remove_machines(pair.state)
            pair.down(step, volumes=True)
        cleanup.callback(remove, steps, pair)
        with steps.step("network, stub Bot API server and resolver") as step:
            for name in ("telegram", "resolver"):
                (pair.state / name).mkdir(mode=0o777)
                (pair.state / name).chmod(0o777)
            namespace = start_internet(step, pair)
            cleanup.callback(namespace.close)
            ports = {"hosts-relay": "52:54:00:18:02:10", "hosts-model": "52:54:00:18:02:30"}
            lay_network(namespace, [GATEWAY, TELEGRAM, RESOLVER, STRANGER], ports)
        with steps.step("disks of both hosts") as step, cache():
            key = make_key(pair.state / "key")
            relay, model = (
                make_host(step, pair.state, namespace, node, number, memory, key)
                for node, number, memory in (("relay", 10, 512), ("model", 30, 1024))
            )
        with steps.step("power on"):
            for host in (relay, model):
                cleanup.callback(host.machine.pull_plug)
                host.machine.power_on(namespace.enter)
            for host in (relay, model):
                host.machine.wait_until_up(PATIENCE_SECONDS)
                # Whether some unit has failed is not asked: what a node needs is seen later.
                host.machine.run("systemctl is-system-running --wait; true", PATIENCE_SECONDS)
        user = TelegramUser(pair.control_socket, USER)
        yield World(namespace, pair.state, relay, model, user)


def make_host(
    step: Step, state: Path, namespace: Namespace, node: str, number: int, memory: int, key: str
) -> Host:
    address = f"{SUBNET}.{number}"
    nothing = state / "nothing"
    nothing.mkdir(exist_ok=True)
    words = (address, f"fd18:2::{number}", GATEWAY, RESOLVER, key)
    system = disk.make_system(step, nothing, words, state / f"{node}.disk")
    machine = Machine(node, system, memory, f"52:54:00:18:02:{number}", f"hosts-{node}", state)
    login = Login(namespace, state / "key", state / "known", address, PATIENCE_SECONDS)
    return Host(node, address, machine, login)


def remove(steps: Steps, pair: Pair) -> None:
    with steps.step("removing the hosts and their network") as step:
        kept = STATE / "hosts-last"  # for a post-mortem
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        for pattern in ("*.console", "*.qemu", "nodes/deploy.log"):
            for path in pair.state.glob(pattern):
                shutil.copy(path, kept)
        remove_machines(pair.state)
        pair.down(step, volumes=True)
