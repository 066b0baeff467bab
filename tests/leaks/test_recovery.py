"""Whatever ends, is paused, or is taken apart: nothing leaves meanwhile, and the link comes back.

Three hostile workloads send in the nodes' namespaces all the time, and the timer of both nodes is
played. LEAKS_ROUNDS says how often each fault comes.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.setup import ROOT
from tests.integration.lab import PEER, attempt, wait_until
from tests.integration.tunnels import Keys, start_holder, start_uplink
from tests.leaks.capture import in_namespace
from tests.leaks.hostile import WIREGUARD_PORT
from tests.leaks.report import Report, Row
from tests.leaks.wire import PORT_UNREACHABLE, Watch, docker_says, pid_of
from tests.leaks.world import (
    CONTROL_SUBNET,
    MODEL_NODE,
    NODES,
    RELAY_NODE,
    SUBNET,
    Control,
    World,
    explain,
    kill,
)

ROUNDS = int(os.environ.get("LEAKS_ROUNDS", "3"))
UPLINK_SECONDS = 5.0
HOLDER_SECONDS = 60.0
PAUSE_SECONDS = 15.0
"""Beyond three tries of a handshake and one health check; not so long that Docker calls anything
unhealthy, which would restart it after the pause and blur the figure."""

MOST_REFUSALS = 7
"""What the kernel's own limit lets one start of a container say by ICMP (six at once, one a
second) before its sysctls hold."""

ADMIN = ("NET_ADMIN",)


@contextmanager
def judged(world: World, control: Control, row: Row) -> Iterator[Watch]:
    """Judge everything from before the fault until 10 s after the recovery."""
    began = time.time()
    with world.watch() as watch:
        yield watch
        world.outlast()
    row.probed += world.tried_since(began)
    row.leaked += len(watch.leaks)
    row.control = control.seen.total()
    if watch.refusals:
        row.note += f"{watch.refusals} refusals of the kernel's before an uplink's first process; "
    assert watch.leaks == [], explain(watch.leaks)
    assert watch.refusals <= MOST_REFUSALS * 2 * ROUNDS
    assert watch.passed > 0, "control: the tunnel was seen"
    assert row.probed > 0
    assert row.control > 0


def test_killed_wireguard_process(world: World, control: Control, report: Report) -> None:
    """The process that carries the tunnel is killed: back within 5 s, at either end."""
    row = report.row(4, "SIGKILL of the WireGuard process")
    with judged(world, control, row):
        for _ in range(ROUNDS):
            for node in NODES:
                wait_until_noted(world)
                began = time.monotonic()
                kill(world.process(node, "uplink", "wireguard-go"))
                row.recovery_seconds.append(world.wait_for_link(began, 30))
    assert max(row.recovery_seconds) <= UPLINK_SECONDS


def test_restarted_uplink(world: World, control: Control, report: Report) -> None:
    """The uplink is restarted: back within 5 s; relay and gateway are the same processes."""
    row = report.row(5, "restart of the uplink")
    with judged(world, control, row):
        workloads = [world.pid("relay", "relay"), world.pid("model", "gateway")]
        for _ in range(ROUNDS):
            for node in NODES:
                world.wait_until_steady(node, "uplink")
                wait_until_noted(world)
                began = time.monotonic()
                docker_says("restart", "--time=3", world.container(node, "uplink"))
                row.recovery_seconds.append(world.wait_for_link(began, 30))
        assert [world.pid("relay", "relay"), world.pid("model", "gateway")] == workloads
    assert max(row.recovery_seconds) <= UPLINK_SECONDS


def wait_until_noted(world: World) -> None:
    """Wait until the listening end has noted where its peer is: it does so every five seconds."""
    uplink = world.container("relay", "uplink")

    def is_noted() -> bool:
        try:
            noted = docker_says(
                "exec", world.container("relay", "wireguard"), "cat", "/run/peer-endpoint"
            )
            return docker_says("exec", uplink, "wg", "show", "all", "endpoints").endswith(noted)
        except RuntimeError:
            return False

    wait_until(is_noted, "the peer's endpoint is noted", 15)


@pytest.mark.parametrize("node", NODES)
def test_starting_uplink_answers_nobody(
    world: World, control: Control, report: Report, node: str
) -> None:
    """Datagrams by the thousand while an uplink starts: a handful of ICMP, and nothing else.

    Between Docker's attaching the interface and the container's sysctls, no process of the product
    runs. From the sysctls on there is no ICMP, and from the rules on there is nothing.
    """
    row = report.row(24, "datagrams while an uplink starts")
    neighbour = pid_of(f"{world.pair.internet}-neighbour")
    number = {"relay": 10, "model": 30}[node]
    world.wait_until_steady(node, "uplink")
    wait_until_noted(world)
    with control.wire.watch() as seen, shower(pid_of(control.neighbour), f"{CONTROL_SUBNET}.40"):
        time.sleep(0.5)
    with world.watch() as watch, shower(neighbour, f"{SUBNET}.{number}") as sent:
        began = time.monotonic()
        docker_says("restart", "--time=3", world.container(node, "uplink"))
        world.wait_for_link(began, 30)

    row.probed += len(sent)
    row.leaked += len(watch.leaks)
    row.control += len(seen.leaks)
    row.note = (
        "known: the kernel's before the container's first process, to whoever sends just then"
    )
    others = [f for f in watch.leaks if f.protocol != 1 or f.transport[:2] != PORT_UNREACHABLE]
    assert others == [], explain(others)
    assert len(watch.leaks) <= MOST_REFUSALS
    assert any(frame.protocol == 1 for frame in seen.leaks), "control: without protection, ICMP"
    assert len(sent) > 100


@contextmanager
def shower(pid: int, address: str) -> Iterator[list[int]]:
    """Send datagrams to the tunnel's port and to another, a thousand a second."""
    sent: list[int] = []
    ended = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not ended.wait(0.001):
                for port in (WIREGUARD_PORT, 9):
                    with contextlib.suppress(OSError):
                        sock.sendto(b"anybody there?", (address, port))
                        sent.append(port)

    thread = threading.Thread(target=in_namespace, args=(pid, send))
    thread.start()
    try:
        yield sent
    finally:
        ended.set()
        thread.join()


def test_holder_that_ends(world: World, control: Control, report: Report) -> None:
    """The holder takes its whole node's namespace with it: healed within 60 s, by itself.

    Killed and restarted in turn, at either node: ROUNDS times at least, and each of the four once.
    """
    row = report.row(6, "SIGKILL and restart of the holder")
    ways = [(how, node) for how in ("SIGKILL", "restart") for node in NODES]
    with judged(world, control, row):
        for number in range(max(ROUNDS, len(ways))):
            how, node = ways[number % len(ways)]
            world.wait_until_well()
            world.wait_until_steady(node, *NODES[node])
            began = time.monotonic()
            if how == "SIGKILL":
                kill(world.pid(node, "wireguard"))
            else:
                docker_says("restart", "--time=3", world.container(node, "wireguard"))
            row.recovery_seconds.append(world.wait_for_link(began, 120))
    assert max(row.recovery_seconds) <= HOLDER_SECONDS


def test_holder_that_stays_away(world: World, control: Control, report: Report) -> None:
    """Both holders are stopped for 20 s and started: the timer brings everything back."""
    row = report.row(7, "holder stopped for 20 s")
    world.wait_until_well()
    with judged(world, control, row):
        holders = [world.container(node, "wireguard") for node in NODES]
        with world.timer.held():
            docker_says("stop", *holders)
            time.sleep(20)
            docker_says("start", *holders)
        row.recovery_seconds.append(world.wait_for_link(time.monotonic(), 120))
    assert max(row.recovery_seconds) <= HOLDER_SECONDS


def test_holder_made_anew(world: World, control: Control, report: Report) -> None:
    """Both holders alone are made anew: the timer brings their members into the new namespaces."""
    row = report.row(8, "holder force-recreated alone")
    world.wait_until_well()
    with judged(world, control, row):
        began = time.monotonic()
        flags = ["--detach", "--no-deps", "--force-recreate", "--no-build", "--pull=never"]
        for project in (world.pair.relay_node, world.pair.model_node):
            subprocess.run(
                world.pair.compose(project, "up", *flags, "wireguard"),
                env=world.pair.environment(),
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
        row.recovery_seconds.append(world.wait_for_link(began, 120))
    assert max(row.recovery_seconds) <= HOLDER_SECONDS


@pytest.mark.parametrize("node", NODES)
def test_paused_node(world: World, control: Control, report: Report, node: str) -> None:
    """All services of a node stand still; the hostile workloads in its namespaces do not."""
    row = report.row(11, f"all services paused for {PAUSE_SECONDS:.0f} s")
    world.wait_until_well()
    services = {"relay": RELAY_NODE, "model": MODEL_NODE}[node]
    containers = [world.container(node, service) for service in services]
    with judged(world, control, row):
        docker_says("pause", *containers)
        try:
            time.sleep(PAUSE_SECONDS)
        finally:
            docker_says("unpause", *containers)
        row.recovery_seconds.append(world.wait_for_link(time.monotonic(), 60))


DAMAGES = {
    "wg0 down": "ip link set wg0 down",
    "wg0 deleted": "ip link delete wg0",
    "routes deleted": "ip route flush table main",
    "default route": "ip route add default dev wg0",
    "address of the outside": "ip address add 198.18.6.77/24 dev wg0; ip link set wg0 mtu 9000",
}


def test_damaged_tunnel(world: World, control: Control, report: Report) -> None:
    """Root with NET_ADMIN takes the tunnel apart and sends: nothing leaves, and a new one comes."""
    row = report.row(13, "wg0 down, deleted; routes deleted, added")
    with judged(world, control, row):
        for damage in DAMAGES.values():
            wait_until(world.link_works, "control: the link works", 60)
            for node in NODES:
                done = world.burst(node, "wireguard", capabilities=ADMIN, before=damage)
                row.probed += done.probed.total()
            began = time.monotonic()
            for node in NODES:
                attempt_to_delete(world, node)
            row.recovery_seconds.append(world.wait_for_link(began, 60))


def attempt_to_delete(world: World, node: str) -> None:
    """Remove a spoilt wg0, as an operator would; there may be none."""
    subprocess.run(
        ["docker", "exec", world.container(node, "wireguard"), "ip", "link", "delete", "wg0"],
        capture_output=True,
        check=False,
    )


def test_endpoint_that_fails(
    world: World, control: Control, report: Report, tmp_path: Path
) -> None:
    """The VPS is away, refuses, or is somebody else: few tries, no other packet, and back."""
    row = report.row(22, "VPS unreachable, refusing, with a wrong key")
    row.note = "a clock that is a day back: tests/integration/test_tunnel_refusals.py"
    world.wait_until_well()
    uplink = world.container("relay", "uplink")
    neighbour = f"{world.pair.internet}-neighbour"
    address = f"{world.pair.subnet}.10/24"
    with judged(world, control, row), world.timer.held():
        docker_says("stop", uplink)
        try:
            expect_few_tries(world, "unreachable")
            move_address("add", neighbour, address)
            try:
                expect_few_tries(world, "refusing")
            finally:
                move_address("delete", neighbour, address)
            with impostor(world, tmp_path):
                expect_few_tries(world, "a wrong key")
            assert handshake_age(world) > 10, "control: the model node has no handshake"
        finally:
            began = time.monotonic()
            docker_says("start", uplink)
        row.recovery_seconds.append(world.wait_for_link(began, 60))


def expect_few_tries(world: World, what: str, seconds: float = 8) -> None:
    """WireGuard asks for a handshake every 5 s; nothing of ours adds to that."""
    with world.wire.watch() as watch:
        time.sleep(seconds)
    assert watch.initiations <= seconds / 5 + 2, what
    assert watch.passed < 40, what


def move_address(action: str, container: str, address: str) -> None:
    docker_says(
        "run", "--rm", "--label", "lab=leaks-burst", "--cap-add=NET_ADMIN",
        f"--network=container:{container}", PEER, "ip", "address", action, address, "dev", "eth0",
    )  # fmt: skip


@contextmanager
def impostor(world: World, folder: Path) -> Iterator[None]:
    """Somebody with other keys at the VPS' address."""
    lab = world.neighbours
    holder = start_holder(lab, "listen", "impostor")
    uplink = start_uplink(lab, Keys(folder), "listen", holder, name="impostor", address=10)
    try:
        wait_until(lambda: attempt(uplink, "health")[0], "the impostor listens", 20)
        yield
    finally:
        uplink.remove(force=True)
        holder.remove(force=True)


def handshake_age(world: World) -> int:
    """What the product's own `status` says, as an operator would ask."""
    said = docker_says("exec", world.container("model", "uplink"), "status")
    fields = dict(line.split("=", 1) for line in said.splitlines())
    age = fields["handshake_age_seconds"]
    return 10**6 if age == "never" else int(age)


def test_flushed_rules(world: World, control: Control, report: Report) -> None:
    """All rules are gone in all containers, and root with NET_ADMIN sends: still nothing leaves.

    The last of this file, since only new namespaces bring all rules back.
    """
    row = report.row(12, "nft flush ruleset in every container")
    world.wait_until_well()
    outside = [(node, "uplink") for node in NODES] + [("relay", "egress")]
    with world.timer.held(), judged(world, control, row):
        for node, service in [*((node, "wireguard") for node in NODES), *outside]:
            docker_says("exec", world.container(node, service), "nft", "flush", "ruleset")
        for node, service in (("relay", "wireguard"), ("model", "wireguard"), ("model", "engine")):
            done = world.burst(node, service, capabilities=ADMIN, before="nft flush ruleset")
            row.probed += done.probed.total()
        assert not health(world, "relay", "wireguard"), "control: the rules are gone"
        began = time.monotonic()
        docker_says("restart", "--time=3", world.container("relay", "egress"))
        docker_says("restart", "--time=3", *(world.container(node, "wireguard") for node in NODES))
        row.recovery_seconds.append(world.wait_for_link(began, 120))
    everywhere = [*((node, "wireguard") for node in NODES), *outside]
    wait_until(
        lambda: all(health(world, node, service) for node, service in everywhere),
        "all rules are back",
        60,
    )


def health(world: World, node: str, service: str) -> bool:
    done = subprocess.run(
        ["docker", "exec", world.container(node, service), "health"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
