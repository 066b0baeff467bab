"""Owns one virtual machine, its network, and who else is on that: operator and attacker."""

import contextlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.bundle import RELAY, pack
from scripts.setup import ROOT
from scripts.steps import Steps
from tests.conftest import STATE
from tests.hardening import disk
from tests.vm.disk import cache
from tests.vm.login import Login, make_key
from tests.vm.machine import Machine, remove_machines
from tests.vm.network import Namespace
from tests.vm.telling import pytest_runtest_logreport  # noqa: F401  # a hook

MACHINE, MACHINE_V6 = "198.18.7.10", "fd18:7::10"
OPERATOR, OPERATOR_V6 = "198.18.7.1", "fd18:7::1"
ATTACKER, ATTACKER_V6 = "198.18.7.66", "fd18:7::66"
TAP, MAC = "harden0", "52:54:00:18:07:10"
MEMORY = 1024
BOOT_SECONDS = PATIENCE_SECONDS = 900  # emulated, on a machine that does other things meanwhile


@dataclass(frozen=True)
class World:
    """The machine, and the two who call it."""

    machine: Machine
    operator: Namespace
    attacker: Namespace
    state: Path

    @property
    def login(self) -> Login:
        known_hosts = self.state / "known"
        return Login(self.operator, self.state / "key", known_hosts, MACHINE, PATIENCE_SECONDS)

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the operator does, to its end."""
        return self.login.run(command, *options)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The machine with power on, as it was rented."""
    state = STATE / "hardening"
    steps = Steps(3, STATE / "hardening.log", sys.stderr)
    with contextlib.ExitStack() as cleanup:
        with steps.step("removing what an earlier run left"):
            remove_machines(state)
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir(mode=0o700, parents=True)
        with steps.step("network"):
            operator = cleanup.enter_context(namespace())
            attacker = cleanup.enter_context(namespace())
            lay_network(operator, attacker)
        with steps.step("disk of the machine") as step, cache():
            key = make_key(state / "key")
            files = lay_out(state / "files")
            words = (MACHINE, MACHINE_V6, OPERATOR, OPERATOR, key, "left-open")
            system = disk.make_system(step, files, words, state / "machine.disk")
        machine = Machine("machine", system, MEMORY, MAC, TAP, state)
        cleanup.callback(machine.pull_plug)
        cleanup.callback(keep_console, machine)
        machine.power_on(operator.enter)
        machine.wait_until_up(BOOT_SECONDS)
        yield World(machine, operator, attacker, state)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """One that lives as long as its holder."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo there && exec sleep infinity"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        made = Namespace(holder.pid)
        try:
            yield made
        finally:
            made.close()
    finally:
        holder.kill()
        holder.wait()


def lay_network(operator: Namespace, attacker: Namespace) -> None:
    """A bridge in the operator's namespace, with the machine's port and the attacker's cable."""
    ip = operator.ip
    ip("link", "add", "lan", "type", "bridge")
    ip("tuntap", "add", "dev", TAP, "mode", "tap")
    ip("link", "set", TAP, "master", "lan", "up")
    pid = attacker.path.split("/")[2]
    ip("link", "add", "cable", "type", "veth", "peer", "name", "eth0", "netns", pid)
    ip("link", "set", "cable", "master", "lan", "up")
    ip("link", "set", "lan", "up")
    for who, device, v4, v6 in (
        (operator, "lan", OPERATOR, OPERATOR_V6),
        (attacker, "eth0", ATTACKER, ATTACKER_V6),
    ):
        who.ip("link", "set", device, "up")
        who.ip("address", "add", f"{v4}/24", "dev", device)
        who.ip("-6", "address", "add", f"{v6}/64", "dev", device, "nodad")


def lay_out(files: Path) -> Path:
    """The relay node's own files, as its bundle has them."""
    content = pack(RELAY, (ROOT / RELAY.example).read_text(encoding="utf-8"), {})
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(files, filter="fully_trusted")
    return files


def keep_console(machine: Machine) -> None:
    """For a post-mortem."""
    kept = STATE / "hardening-last"
    kept.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(machine.console, kept)
