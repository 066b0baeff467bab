"""Owns the two nodes as an operator installs them on machines, and what can be asked of them."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import bundle
from scripts.bundle import Bundle
from scripts.pair import Pair
from scripts.setup import ROOT
from tests.vm.machine import Machine

VERSION = "0.1.0"
SOCKET = "/run/docker.sock"


@dataclass(frozen=True)
class Plan:
    """What one node is made of."""

    project: str
    """The Compose project, the instance of the systemd units, and the directory in /opt."""
    last_number: int
    """Of its address."""
    memory: int
    """MiB."""
    live_restore: bool
    """Whether its containers outlive Docker's daemon: one node shows this way, the other that."""
    images: tuple[str, ...]
    bundle: Bundle
    """What an operator is given for it by `init`."""
    overlays: tuple[str, ...]
    """Compose files on top of the node's own."""
    services: tuple[str, ...]
    members: tuple[str, ...]
    """The services that live in the namespace of the holder."""

    @property
    def tap(self) -> str:
        return f"vm-{self.project}"

    @property
    def mac(self) -> str:
        return f"52:54:00:00:00:{self.last_number:02d}"


RELAY = Plan(
    project="relay",
    last_number=10,
    memory=512,
    live_restore=True,
    images=tuple(f"node/{name}:{VERSION}" for name in ("wireguard", "egress", "relay")),
    bundle=bundle.RELAY,
    overlays=("tests/vm/relay.yml",),
    services=("wireguard", "uplink", "egress", "relay"),
    members=("relay",),
)
MODEL = Plan(
    project="model",
    last_number=30,
    memory=1024,
    live_restore=False,
    images=(f"node/wireguard:{VERSION}", f"node/gateway:{VERSION}", f"node-test/stubs:{VERSION}"),
    bundle=bundle.MODEL,
    overlays=("tests/stubs/engine.yml", "tests/vm/model.yml"),
    services=("wireguard", "uplink", "gateway", "engine"),
    members=("gateway",),
)


def lay_out(plan: Plan, pair: Pair, target: Path) -> None:
    """Everything that an operator puts onto the machine, at the paths where it belongs there."""
    settings = (pair.state / f"{plan.project}.env").read_text(encoding="utf-8").splitlines()
    files = [plan.bundle.compose_file, *(Path(overlay).name for overlay in plan.overlays)]
    kept = [line for line in settings if not line.startswith(("SECRETS=", "ENV_FILE="))]
    if plan is RELAY:
        kept.append("TELEGRAM_CA_FILE=./telegram_ca.pem")
    secrets = {
        secret.name: secret.read_text(encoding="utf-8")
        for secret in (pair.state / plan.project).iterdir()
    }
    archive = bundle.pack(
        plan.bundle, "\n".join([f"COMPOSE_FILE={':'.join(files)}", *kept, ""]), secrets
    )
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xp", "-C", str(target)], input=archive, check=True)
    home = target / "opt" / plan.project
    for overlay in plan.overlays:
        shutil.copy2(ROOT / overlay, home / Path(overlay).name)
    if plan is RELAY:
        shutil.copyfile(pair.state / "telegram" / "ca.pem", home / "telegram_ca.pem")
    # As `systemctl enable node@NAME` does it: nothing else is to be enabled.
    units = target / "etc" / "systemd" / "system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True)
    unit = "/etc/systemd/system/node@.service"
    (wants / f"node@{plan.project}.service").symlink_to(unit)


@dataclass(frozen=True)
class State:
    """One container, as Docker and the kernel see it."""

    status: str
    health: str
    started_at: str
    network: str
    processes: str
    """The inodes of its namespaces, as /proc shows them."""


class Node:
    """One of the two nodes on its machine."""

    def __init__(self, plan: Plan, machine: Machine, address: str) -> None:
        self.plan = plan
        self.machine = machine
        self.address = address

    def __str__(self) -> str:
        return self.plan.project

    def states(self) -> Mapping[str, State] | None:
        """All containers of the node, by service; None if Docker does not answer or one is missing.

        Docker's own client costs an emulated core seconds each time, which the node needs itself.
        """
        urls = " ".join(
            f"http://docker/containers/{self.plan.project}-{service}-1/json"
            for service in self.plan.services
        )
        answers = self.machine.ask(
            f"curl --silent --fail --max-time 30 --write-out '\\n' --unix-socket {SOCKET} {urls}"
        )
        if answers is None:
            return None
        described = [json.loads(line) for line in answers.splitlines() if line.strip()]
        states = [container["State"] for container in described]
        pids = [int(state["Pid"]) for state in states]
        places = self.machine.ask(
            "".join(
                f"echo $(readlink /proc/{pid}/ns/net || echo none)"
                f" $(readlink /proc/{pid}/ns/pid || echo none)\n"
                for pid in pids
            )
        )
        if places is None or len(described) != len(self.plan.services):
            return None
        return {
            service: State(
                state["Status"],
                state.get("Health", {}).get(
                    "Status", "none"
                ),  # a container that never ran has none
                state["StartedAt"],
                *place,
            )
            for service, state, place in zip(
                self.plan.services, states, map(_pair, places.splitlines()), strict=True
            )
        }

    def is_whole(self) -> bool:
        """Every container healthy, and every member in the namespace of the present holder."""
        states = self.states()
        if states is None:
            return False
        if any((s.status, s.health) != ("running", "healthy") for s in states.values()):
            return False
        holder = states["wireguard"]
        at_home = all(states[name].network == holder.network for name in self.plan.members)
        return at_home and states["uplink"].processes == holder.processes

    def in_container(self, service: str, command: str) -> str:
        """What a command prints in one of its containers."""
        return self.machine.run(f"docker exec {self.plan.project}-{service}-1 {command}")

    def journal(self) -> str:
        """What its units have said since this boot."""
        said = self.machine.ask(
            f"journalctl -b --no-pager -o short-monotonic -u 'node*@{self.plan.project}*'"
            " -u docker | tail -n 60; docker ps -a"
        )
        return said or "it does not answer"


def _pair(line: str) -> tuple[str, str]:
    network, processes = line.split()
    return network, processes
