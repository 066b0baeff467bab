"""From nothing to a running pair: no moment in which something could have left."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from python_on_whales import DockerClient

from scripts.pair import Pair
from scripts.setup import ROOT, compose_environment
from scripts.steps import Steps
from tests.conftest import STATE, USERS
from tests.integration.lab import PEER, WIREGUARD, Lab, wait_until
from tests.leaks.capture import IPV6, Frame, in_namespace, write_pcap
from tests.leaks.guard import Guard
from tests.leaks.report import Report
from tests.leaks.wire import Wire, bridge_of, pid_of, veth_of
from tests.leaks.world import (
    DELAYED_SUBNET,
    NEIGHBOUR,
    NODES,
    SIX_SUBNET,
    Control,
    World,
    explain,
    make_network,
    tried,
)

FLOW_PORT = 4060
RULES = ROOT / "wireguard" / "rules.sh"


def test_nothing_leaves_while_the_nodes_start(
    world: World, control: Control, report: Report
) -> None:
    """From before the first container: PASS0, though three workloads sent from the beginning."""
    row = report.row(1, "cold start, sending from the first instruction")
    row.probed, row.leaked = sum(world.cold_start_tries), len(world.cold_start.leaks)
    row.control = control.seen.total()

    assert world.cold_start.leaks == [], explain(world.cold_start.leaks)
    assert min(world.cold_start_tries) > 0
    assert world.cold_start.passed > 0, "control: the tunnel was seen"


@pytest.mark.parametrize("file", ["compose.vps.yml", "compose.gpu.yml"])
def test_networks_of_the_nodes_have_no_ipv6(file: str) -> None:
    """Where the daemon has IPv6, too: before a container's first process, nothing else stops it."""
    example = ROOT / (".env.vps.example" if "vps" in file else ".env.gpu.example")
    done = subprocess.run(
        ["docker", "compose", "--env-file", example, "-f", file, "config", "--format=json"],
        cwd=ROOT,
        env=compose_environment(),
        capture_output=True,
        check=True,
    )

    networks = json.loads(done.stdout)["networks"]
    assert networks
    assert {network.get("enable_ipv6") for network in networks.values()} == {False}


IPV6_OFF = {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}


@pytest.mark.parametrize("is_protected", [False, True])
def test_kernel_says_nothing_by_ipv6(
    docker: DockerClient, guard: Guard, report: Report, is_protected: bool
) -> None:
    """A container that starts as the Compose files have it gives its kernel no cause to speak IPv6.

    Sysctls alone would not do: Docker configures the interface before they hold, and on a network
    with IPv6 their container's kernel has been seen to report its groups (MLD) before that.
    """
    options = [] if is_protected else ["--ipv6", "--subnet=fd00:71::/64"]
    sysctls = IPV6_OFF if is_protected else {}
    with Lab(docker, "leaks-six", SIX_SUBNET, options) as lab:
        guard.watch(bridge_of(lab.name))
        wire = Wire(bridge_of(lab.name), lab.subnet)
        try:
            with wire.watch() as watch:
                lab.run("starting", WIREGUARD, ["sleep", "infinity"], address=30, sysctls=sysctls)
                time.sleep(3)  # detecting duplicate addresses takes two
            assert wire.lost() == 0
        finally:
            wire.close()

    row = report.row(19, "IPv6 of the kernel's own, at the start")
    spoken = sum(frame.ethertype == IPV6 for frame in watch.leaks)
    if is_protected:
        row.probed, row.leaked = 1, len(watch.leaks)
        assert watch.leaks == [], explain(watch.leaks)
    else:
        row.control = spoken
        assert spoken > 0, "control: without protection it does"


@dataclass
class Delayed:
    """Both ends of a tunnel whose rules load late."""

    pair: Pair
    wire: Wire

    def container(self, node: str, service: str) -> str:
        project = {"relay": self.pair.relay_node, "model": self.pair.model_node}[node]
        return self.pair.container(project, service)

    def has_rules(self, node: str, service: str) -> bool:
        done = subprocess.run(
            ["docker", "logs", self.container(node, service)], capture_output=True, check=False
        )
        return b"action=rules-loaded" in done.stdout

    def is_up(self, node: str, service: str) -> bool:
        try:
            return pid_of(self.container(node, service)) > 0
        except RuntimeError:
            return False


@contextmanager
def delayed_pair(
    docker: DockerClient, guard: Guard, holder_seconds: float, outside_seconds: float
) -> Iterator[tuple[Delayed, list[subprocess.Popen[bytes]]]]:
    """Start both ends with rules that come this much late, under capture."""
    pair = Pair(
        name="leaks-delayed",
        subnet=DELAYED_SUBNET,
        state=STATE / "leaks-delayed",
        engine="stub",
        users=USERS[:1],
        relay_overlays=("tests/leaks/relay.yml", "tests/leaks/delayed.yml")
        + ("tests/leaks/delayed_egress.yml",),
        model_overlays=("tests/leaks/model.yml", "tests/leaks/delayed.yml"),
    )
    neighbours = Lab(docker, pair.internet, pair.subnet)
    steps = Steps(3, STATE / "leaks-delayed.log", sys.stderr)
    neighbours.remove_leftovers()
    with ExitStack() as stack:
        stack.enter_context(pair.hold())
        with steps.step("removing what an earlier run left") as step:
            pair.down(step, volumes=True)
        with steps.step("keys and settings") as step:
            pair.prepare(step)
        stack.callback(_remove, pair, steps)
        _write_rules(pair, holder_seconds, outside_seconds)
        make_network(pair)
        guard.watch(bridge_of(pair.internet))
        wire = Wire(bridge_of(pair.internet), pair.subnet)
        stack.callback(wire.close)
        stack.callback(neighbours.remove_leftovers)
        echo = ["socat", f"TCP-LISTEN:{FLOW_PORT},fork,reuseaddr", "EXEC:cat"]
        neighbour = neighbours.run("neighbour", PEER, echo, address=NEIGHBOUR, hardened=False)
        wire.add_bystander(neighbour.name)
        starting = [
            subprocess.Popen(
                pair.compose(project, "up", "--detach", "--no-build", "--pull=never", *services),
                env=pair.environment(),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for project, services in (
                (pair.relay_node, ("wireguard", "uplink", "egress", "hostile")),
                (pair.model_node, ("wireguard", "uplink", "hostile")),
            )
        ]
        try:
            yield Delayed(pair, wire), starting
        finally:
            for process in starting:
                process.wait(90)


def _write_rules(pair: Pair, holder_seconds: float, outside_seconds: float) -> None:
    folder = pair.state / "delayed"
    folder.mkdir(exist_ok=True)
    text = RULES.read_text(encoding="utf-8")
    begin = "load_rules() { # FILE NAME=VALUE...\n"
    assert begin in text
    for name, seconds in (("wireguard", holder_seconds), ("uplink", outside_seconds)):
        late = text.replace(begin, f"{begin}  sleep {seconds}\n")
        (folder / f"{name}.sh").write_text(late, encoding="utf-8")


def _remove(pair: Pair, steps: Steps) -> None:
    with steps.step("removing the pair") as step:
        pair.down(step, volumes=True)


OUTSIDE = (("relay", "uplink"), ("model", "uplink"), ("relay", "egress"))


@pytest.mark.parametrize(
    ("holder_seconds", "outside_seconds"), [(5.0, 0.5), (0.5, 5.0)], ids=["holder", "outside"]
)
def test_rules_that_come_late(
    docker: DockerClient,
    guard: Guard,
    control: Control,
    report: Report,
    holder_seconds: float,
    outside_seconds: float,
) -> None:
    """Rules are late by half a second or by five: PASS0, since there is no way out without them.

    A flow that was opened outside, before the rules, is seen until they load and never after.
    """
    with delayed_pair(docker, guard, holder_seconds, outside_seconds) as (delayed, starting):
        flows: list[Flow] = []
        for node, service in OUTSIDE if outside_seconds > 1 else ():
            wait_until(lambda n=node, s=service: delayed.is_up(n, s), f"{node} {service}", 60)  # type: ignore[misc]
            flows.append(Flow(delayed, node, service))
        while flows and not all(flow.has_rules() for flow in flows):
            for flow in flows:
                flow.send()
            time.sleep(0.05)
        for process in starting:
            process.wait(90)
        for node in NODES:
            wait_until(lambda n=node: delayed.has_rules(n, "uplink"), f"{node} has rules", 30)  # type: ignore[misc]
        after = [0, 0]
        with delayed.wire.watch() as watch:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                for flow in flows:
                    after[0] += flow.send()
                time.sleep(0.05)
        for flow in flows:
            flow.close()
        after[1] = sum(is_of_flow(frame) for frame in watch.leaks)
        before = [frame for frame in delayed.wire.frames if is_of_flow(frame)]
        others = [
            frame
            for frame in delayed.wire.frames
            if delayed.wire.is_judged(frame) and not is_of_flow(frame)
        ]
        hostiles = [delayed.container(node, "hostile") for node in NODES]
        wait_until(lambda: all(tried([name], 0) for name in hostiles), "they have tried", 10)
        count = tried(hostiles, 0)
        assert delayed.wire.lost() == 0

    row = report.row(2, "rules late by 0.5 to 5 s")
    row.probed += count
    row.leaked += len(others)
    row.control = control.seen.total()
    if others:
        write_pcap(others, STATE / "leaks" / "late-rules.pcap")
    assert others == [], explain(others)
    if flows:
        row = report.row(3, "flow opened before the rules, outside")
        row.probed, row.leaked, row.control = after[0], after[1], len(before) - after[1]
        assert after[0] > 0
        assert {frame.interface for frame in before} == {flow.veth for flow in flows}, "control"
        assert after[1] == 0, explain(watch.leaks)


class Flow:
    """A conversation over TCP and UDP with the neighbour, from an outside namespace."""

    def __init__(self, delayed: Delayed, node: str, service: str) -> None:
        self._delayed, self._node, self._service = delayed, node, service
        container = delayed.container(node, service)
        self.veth = veth_of(container)
        neighbour = (f"{DELAYED_SUBNET}.{NEIGHBOUR}", FLOW_PORT)

        def open_both() -> tuple[socket.socket, socket.socket]:
            tcp = socket.create_connection(neighbour, 3)
            tcp.setblocking(False)
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.connect(neighbour)
            return tcp, udp

        assert not self.has_rules(), "the rules were there before the flow"
        self._sockets = in_namespace(pid_of(container), open_both)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def has_rules(self) -> bool:
        return self._delayed.has_rules(self._node, self._service)

    def send(self) -> int:
        """Go on with both; a refusal of the kernel is a try as well."""
        for sock in self._sockets:
            try:
                sock.send(b"still here?")
            except OSError:
                continue
        return len(self._sockets)


def is_of_flow(frame: Frame) -> bool:
    return frame.ports[1] == FLOW_PORT
