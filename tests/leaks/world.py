"""Owns the running pair under capture, what is done to its containers, and its unprotected twin.

Beside the nodes' eight containers stand three hostile workloads
(relay.yml, model.yml), which send from their namespaces' first moment to the end, and a neighbour
that would hear them.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from python_on_whales import DockerClient

from scripts.pair import Pair
from scripts.setup import ROOT
from tests.conftest import STATE, USERS, running
from tests.faults.nodes import STEADY_SECONDS, open_nodes
from tests.integration.lab import PEER, Lab, wait_until
from tests.leaks.capture import Frame, in_namespace, write_pcap
from tests.leaks.guard import Guard
from tests.leaks.hostile import KINDS
from tests.leaks.wire import Watch, Wire, bridge_of, docker_says, pid_of

SUBNET, CONTROL_SUBNET, SIX_SUBNET, DELAYED_SUBNET, GUARDED_SUBNET, OTHER_SUBNET = (
    "198.18.6", "198.18.70", "198.18.71", "198.18.72", "198.18.73", "198.18.74"
)  # fmt: skip
NEIGHBOUR = 99
AFTER_RECOVERY_SECONDS = 10.0
RECONCILE_SECONDS = 30.0
MOUNT = f"{ROOT}/tests/leaks/hostile.py:/hostile.py:ro"
RELAY_NODE = ("wireguard", "uplink", "egress", "relay")
MODEL_NODE = ("wireguard", "uplink", "gateway", "engine")
NODES = {"relay": RELAY_NODE, "model": MODEL_NODE}
HOSTILES = (("relay", "hostile"), ("model", "hostile"), ("model", "hostile-engine"))


@dataclass
class Burst:
    """What one hostile workload has tried."""

    probed: Counter[str]
    answered: int


def burst(
    container: str,
    subnet: str,
    *,
    endpoint: int,
    name: str,
    rounds: int = 3,
    capabilities: Sequence[str] = (),
    without: Sequence[str] = (),
    before: str = "true",
) -> Burst:
    """Run the hostile workload as root, as Docker starts it, in a container's namespace."""
    plan = {
        "neighbour": f"{subnet}.{NEIGHBOUR}",
        "endpoint": f"{subnet}.{endpoint}",
        "resolver": f"{subnet}.53",
        "gateway": f"{subnet}.1",
        "name": name,
        "without": list(without),
    }
    said = docker_says(
        "run", "--rm", "--label", "lab=leaks-burst", f"--network=container:{container}",
        *(f"--cap-add={capability}" for capability in capabilities),
        "--volume", MOUNT, PEER,
        "sh", "-ec", f'{before}\nexec python3 /hostile.py "$0" "$1"', json.dumps(plan), str(rounds),
    )  # fmt: skip
    report = json.loads(said.splitlines()[-1])
    return Burst(Counter(report["probed"]), report["answered"])


def tried(containers: Sequence[str], began: float) -> int:
    """How much hostile workloads have tried since a time, by their logs."""
    lines = [
        line
        for container in containers
        for line in docker_says("logs", "--since", f"{began:.3f}", container).splitlines()
    ]
    return sum(sum(json.loads(line)["probed"].values()) for line in lines if line[:1] == "{")


class Timer:
    """Plays the nodes' timer: scripts/reconcile every 30 s."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._ended = threading.Event()
        self._working = threading.Lock()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep it from acting within the block."""
        with self._working:
            yield

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._ended.wait(RECONCILE_SECONDS):
                with self._working:
                    for line in asyncio.run(self._reconcile()):
                        print(f"timer: {line}", file=sys.stderr, flush=True)
        except BaseException as error:
            self._failure = error

    async def _reconcile(self) -> list[str]:
        async with open_nodes(self._pair) as nodes:
            return await nodes.reconcile()


class World:
    """The running pair."""

    def __init__(
        self, pair: Pair, wire: Wire, neighbours: Lab, timer: Timer, cold_start: Watch
    ) -> None:
        self.pair = pair
        self.wire = wire
        self.neighbours = neighbours
        self.timer = timer
        self.cold_start = cold_start
        """What was seen from before the first container until the nodes were in contact."""
        self.cold_start_tries = [tried([self.container(*hostile)], 0) for hostile in HOSTILES]

    def container(self, node: str, service: str) -> str:
        project = {"relay": self.pair.relay_node, "model": self.pair.model_node}[node]
        return self.pair.container(project, service)

    def pid(self, node: str, service: str) -> int:
        return pid_of(self.container(node, service))

    def process(self, node: str, service: str, text: str) -> int:
        """The host's number of a container's only process with this in its command line."""
        listed = docker_says("top", self.container(node, service), "-eo", "pid,args").splitlines()
        lines = [line for line in listed[1:] if text in line and "docker-init" not in line]
        found = [int(line.split()[0]) for line in lines]
        assert len(found) == 1, f"{text!r} in {node} {service}: {found}"
        return found[0]

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch C1 and C2; what leaked is kept as evidence, and nothing may be lost."""
        with self.wire.watch() as watch:
            yield watch
        if watch.leaks:
            write_pcap(watch.leaks, STATE / "leaks" / f"{time.time():.0f}.pcap")
        assert self.wire.lost() == 0, "the capture lost frames: it proves nothing"

    def burst(
        self,
        node: str,
        service: str,
        *,
        rounds: int = 3,
        capabilities: Sequence[str] = (),
        without: Sequence[str] = (),
        before: str = "true",
    ) -> Burst:
        return burst(
            self.container(node, service),
            self.pair.subnet,
            endpoint={"relay": 30, "model": 10}[node],
            name="telegram",
            rounds=rounds,
            capabilities=capabilities,
            without=without,
            before=before,
        )

    def tried_since(self, began: float) -> int:
        """How much the standing hostile workloads have tried since a time."""
        return tried([self.container(*hostile) for hostile in HOSTILES], began)

    # Recovery

    def link_works(self) -> bool:
        """Whether the gateway answers the relay, seen from the namespace that the relay is in."""
        try:
            return in_namespace(self.pid("relay", "relay"), gateway_answers)
        except (OSError, RuntimeError):
            return False

    def wait_for_link(self, began: float, seconds: float) -> float:
        """Wait until the link works; seconds since it began to be disturbed (monotonic)."""
        wait_until(self.link_works, "the gateway answers the relay", seconds)
        return time.monotonic() - began

    def wait_until_steady(self, node: str, *services: str) -> None:
        """Wait until containers have run so long that their next end is not held against them."""

        def are_steady() -> bool:
            return all(
                state["Running"]
                and time.time() - datetime.fromisoformat(state["StartedAt"]).timestamp()
                > STEADY_SECONDS
                for state in self.states(node, *services)
            )

        wait_until(are_steady, f"{', '.join(services)} run for {STEADY_SECONDS} s", 90)

    def wait_until_well(self, seconds: float = 90) -> None:
        """Wait until all containers of both nodes run and are healthy, and the link works."""

        def are_well() -> bool:
            return all(
                state["Running"] and state.get("Health", {}).get("Status") == "healthy"
                for node, services in NODES.items()
                for state in self.states(node, *services)
            )

        wait_until(are_well, "all containers are healthy", seconds)
        wait_until(self.link_works, "the gateway answers the relay", seconds)

    def states(self, node: str, *services: str) -> list[dict[str, Any]]:
        names = [self.container(node, service) for service in services]
        try:
            said = docker_says("inspect", "--format", "{{json .State}}", *names)
        except RuntimeError:  # one of them is just being made anew
            return [{"Running": False}]
        return [json.loads(line) for line in said.splitlines()]

    def outlast(self) -> None:
        """Let the capture go on for as long after a recovery as a leak may take to show."""
        time.sleep(AFTER_RECOVERY_SECONDS)


def explain(frames: Sequence[Frame]) -> str:
    """The first of the frames that leaked, for a failed test."""
    return "\n".join(map(str, frames[:20]))


def gateway_answers() -> bool:
    """Whether the gateway says anything to somebody who is in the relay's namespace."""
    with socket.create_connection(("10.66.0.2", 8080), 0.5) as connection:
        connection.settimeout(1)
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(12).startswith(b"HTTP/")


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """End a process from the host, and wait until it is gone."""
    os.kill(pid, number)
    wait_until(lambda: not Path(f"/proc/{pid}/ns").exists() or is_zombie(pid), "it is gone", 5)


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2][1] == "Z"
    return True


@contextmanager
def running_world(docker: DockerClient, guard: Guard) -> Iterator[World]:
    """Start the pair under capture; the capture runs before the network's first container."""
    pair = Pair(
        name="test-leaks",
        subnet=SUBNET,
        state=STATE / "leaks-pair",
        engine="stub",
        users=USERS,
        relay_overlays=("tests/leaks/relay.yml",),
        model_overlays=("tests/leaks/model.yml",),
    )
    neighbours = Lab(docker, pair.internet, pair.subnet)
    wires: list[Wire] = []

    @contextmanager
    def props(pair: Pair) -> Iterator[None]:
        make_network(pair)
        guard.watch(bridge_of(pair.internet))
        with ExitStack() as stack:
            wire = Wire(bridge_of(pair.internet), pair.subnet)
            stack.callback(wire.close)
            wires.append(wire)
            stack.callback(neighbours.remove_leftovers)
            neighbour = neighbours.run(
                "neighbour", PEER, ["sleep", "infinity"], address=NEIGHBOUR, hardened=False
            )
            wire.add_bystander(neighbour.name)
            yield

    neighbours.remove_leftovers()
    with contextmanager(running)(pair, props):
        for stub in ("telegram", "resolver"):
            wires[0].add_bystander(pair.container(pair.internet, stub))
        cold_start = Watch(wires[0], 0, 0, 0)
        wires[0].settle()
        cold_start.end()
        timer = Timer(pair)
        try:
            yield World(pair, wires[0], neighbours, timer, cold_start)
        finally:
            timer.end()


def make_network(pair: Pair) -> None:
    """Make the test internet as Compose would, before anything is started on it."""
    docker_says(
        "network", "create", "--internal", f"--subnet={pair.subnet}.0/24",
        f"--label=com.docker.compose.project={pair.internet}",
        "--label=com.docker.compose.network=internet", pair.internet,
    )  # fmt: skip


# The same without protection

ADDRESSES = "169.254.169.254 10.99.0.1 172.31.99.1 192.168.99.1"


@dataclass
class Control:
    """A plain container on a plain network, seen by the same capture."""

    wire: Wire
    neighbour: str
    """Also has the addresses of the tunnel's end, the resolver and private networks."""
    plain: str
    """Has a way to all of them, and nothing in its way."""
    seen: Counter[str] = field(default_factory=Counter)
    """Frames of the hostile workload by kind."""
    answered: int = 0

    def seen_of(self, kinds: Sequence[str]) -> int:
        return sum(self.seen[kind] for kind in kinds) + self.answered * ("dns-docker" in kinds)


@contextmanager
def running_control(docker: DockerClient, guard: Guard) -> Iterator[Control]:
    options = ["--ipv6", "--subnet=fd00:70::/64"]
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(docker, "leaks-control", CONTROL_SUBNET, options))
        guard.watch(bridge_of(lab.name))
        wire = Wire(bridge_of(lab.name), lab.subnet)
        stack.callback(wire.close)
        idle = ["sh", "-c", "sysctl -qw net.ipv4.ip_forward=1; exec sleep infinity"]
        neighbour = lab.run(
            "neighbour", PEER, idle, address=NEIGHBOUR, capabilities=["NET_ADMIN"], hardened=False
        )
        extra = [f"{lab.subnet}.10/24", f"{lab.subnet}.53/24"]
        extra += [f"{address}/32" for address in ADDRESSES.split()]
        for address in extra:
            docker_says("exec", neighbour.name, "ip", "address", "add", address, "dev", "eth0")
        wire.add_bystander(neighbour.name)
        plain = lab.run(
            "plain",
            PEER,
            idle,
            address=40,
            capabilities=["NET_ADMIN"],
            hardened=False,
            sysctls={"net.ipv4.ip_forward": "1"},
        )
        for address in ADDRESSES.split():
            docker_says("exec", plain.name, "ip", "route", "add", address, "dev", "eth0")
        control = Control(wire, neighbour.name, plain.name)
        with wire.watch() as watch:
            done = burst(plain.name, lab.subnet, endpoint=10, name=neighbour.name, rounds=3)
        control.seen = watch.kinds()
        control.answered = done.answered
        assert set(done.probed) == set(KINDS)
        yield control
