"""What the neighbours of a node can get out of it, and one node out of the other: nothing."""

import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.leaks import scan
from tests.leaks.capture import ARP, IPV4, Tap, in_namespace
from tests.leaks.capture import Frame as Captured
from tests.leaks.hostile import udp4
from tests.leaks.report import Report
from tests.leaks.scan import SYN, SYN_ACK, Frame, sender
from tests.leaks.wire import TunnelTap, Wire, docker_says, pid_of, veth_of
from tests.leaks.world import CONTROL_SUBNET, NEIGHBOUR, SUBNET, Control, World, explain

OUTSIDE = (("relay", "uplink", 10), ("relay", "egress", 11), ("model", "uplink", 30))
TUNNEL = {"relay": "10.66.0.1", "model": "10.66.0.2"}
PLAIN = 40
SOME_PORTS = (*range(1, 200), 443, 8080, 51820)


def mac_of(container: str) -> bytes:
    path = Path(f"/proc/{pid_of(container)}/root/sys/class/net/eth0/address")
    return bytes.fromhex(path.read_text(encoding="ascii").strip().replace(":", ""))


def local_address6(mac: bytes) -> str:
    """The link-local address that an interface makes of its own (RFC 4291, appendix A)."""
    packed = b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return socket.inet_ntop(socket.AF_INET6, packed)


class Exchange:
    """Frames that a neighbour sends to a container, and what the container says to them."""

    def __init__(self, wire: Wire, neighbour: str, target: str, frames: Sequence[Frame]) -> None:
        heard: list[Captured] = []
        statistics = Path(f"/proc/{pid_of(target)}/root/sys/class/net/eth0/statistics/rx_packets")
        tap = in_namespace(
            pid_of(neighbour), lambda: Tap(heard.append, interface="eth0", with_outgoing=False)
        )
        with wire.watch() as watch:
            before = int(statistics.read_text(encoding="ascii"))
            # On the target's own wire: the host's rules for internal networks drop some of this.
            self.sent = sender(veth_of(target), mac_of(target), frames)()
            time.sleep(1)  # what wants to answer has done so by then
            self.arrived = int(statistics.read_text(encoding="ascii")) - before
        tap.settle()
        tap.close()
        self.said = watch.leaks
        """What the target sent beyond PASS0."""
        self.arp_answers = [
            frame for frame in heard if frame.ethertype == ARP and frame.data[6:8] == b"\0\2"
        ]
        assert self.arrived >= self.sent, "control: the target's interface took all of them"

    def arp_answers_for(self, address: str) -> int:
        return sum(f.data[14:18] == socket.inet_aton(address) for f in self.arp_answers)


@pytest.fixture(scope="module")
def neighbour(world: World) -> str:
    return f"{world.pair.internet}-neighbour"


@pytest.fixture(scope="module")
def open_twin(control: Control) -> Control:
    """The unprotected container, with what a node has inside: an address and a server."""
    docker_says("exec", control.plain, "ip", "address", "add", f"{TUNNEL['model']}/32", "dev", "lo")
    docker_says("exec", "-d", control.plain, "socat", "TCP-LISTEN:8080,fork", "EXEC:cat")
    docker_says("exec", "-d", control.plain, "socat", "UDP-RECVFROM:8080,fork", "EXEC:cat")
    return control


def lies(source: str, inner: str, other_end: str) -> list[Frame]:
    """A stranger's claims about a tunnel: segments that pretend to come out of it, or go in."""
    return [
        (IPV4, scan.tcp4(from_, inner, port, flags, source_port))
        for from_ in (source, other_end)
        for flags in (SYN, SYN_ACK)
        for port, source_port in ((8080, 40_000), (40_000, 8080), (443, 443))
    ] + [
        (IPV4, scan.echo4(source, inner)),
        (IPV4, udp4(source, inner, 8080, b"anybody there?")),
    ]


@pytest.mark.parametrize(("node", "service", "number"), OUTSIDE)
def test_tunnel_addresses_are_unknown_outside(
    world: World, open_twin: Control, report: Report, neighbour: str,
    node: str, service: str, number: int,
) -> None:  # fmt: skip
    """A neighbour asks for the tunnel's addresses and answers calls that nobody made: silence."""
    row = report.row(23, "ARP and spoofed SYN-ACK for the tunnel's address")
    source = f"{SUBNET}.{NEIGHBOUR}"
    own = mac_of(neighbour)
    inner, other_end = TUNNEL[node], TUNNEL["model" if node == "relay" else "relay"]
    questions = [scan.who_has(address, own, source) for address in TUNNEL.values()]
    questions.append(scan.who_has(f"{SUBNET}.{number}", own, source))

    done = Exchange(
        world.wire, neighbour, world.container(node, service),
        questions + lies(source, inner, other_end),
    )  # fmt: skip
    source = f"{CONTROL_SUBNET}.{NEIGHBOUR}"
    seen = Exchange(
        open_twin.wire, open_twin.neighbour, open_twin.plain,
        [scan.who_has(TUNNEL["model"], mac_of(open_twin.neighbour), source)]
        + lies(source, TUNNEL["model"], other_end),
    )  # fmt: skip

    answered = sum(done.arp_answers_for(address) for address in TUNNEL.values())
    row.probed += done.sent
    row.leaked += len(done.said) + answered
    row.control += len(seen.said) + seen.arp_answers_for(TUNNEL["model"])
    assert done.said == [], explain(done.said)
    assert answered == 0
    assert done.arp_answers_for(f"{SUBNET}.{number}") > 0, "control: it answers for its own"
    assert seen.said, "control: without protection there are answers"
    assert seen.arp_answers_for(TUNNEL["model"]) > 0


@pytest.mark.parametrize(("node", "service", "number"), OUTSIDE)
def test_every_port_is_silent(
    world: World, open_twin: Control, report: Report, neighbour: str,
    node: str, service: str, number: int,
) -> None:  # fmt: skip
    """A TCP greeting and a datagram to every port, and some by IPv6: not one answer."""
    row = report.row(24, "port scan of both nodes, IPv4 and IPv6")
    container = world.container(node, service)
    frames = scan.port_scan(f"{SUBNET}.{NEIGHBOUR}", f"{SUBNET}.{number}")
    own, target = local_address6(mac_of(neighbour)), local_address6(mac_of(container))
    frames += scan.port_scan6(own, target, SOME_PORTS)

    done = Exchange(world.wire, neighbour, container, frames)
    plain = mac_of(open_twin.plain)
    seen = Exchange(
        open_twin.wire, open_twin.neighbour, open_twin.plain,
        scan.port_scan(f"{CONTROL_SUBNET}.{NEIGHBOUR}", f"{CONTROL_SUBNET}.{PLAIN}", SOME_PORTS)
        + scan.port_scan6(
            local_address6(mac_of(open_twin.neighbour)), local_address6(plain), SOME_PORTS
        ),
    )  # fmt: skip

    row.probed += done.sent
    row.leaked += len(done.said)
    row.control += len(seen.said)
    assert done.said == [], explain(done.said)
    assert {f.protocol for f in seen.said} >= {6, 1, 17, -1}, "control: TCP, ICMP, UDP and IPv6"


@pytest.mark.parametrize(("node", "service", "number"), OUTSIDE)
def test_outside_containers_forward_nothing(
    world: World, open_twin: Control, report: Report, neighbour: str,
    node: str, service: str, number: int,
) -> None:  # fmt: skip
    """A neighbour who takes an uplink for a gateway gets neither through nor an answer."""
    row = report.row(25, "a route through the uplink, from a LAN neighbour")
    source = f"{SUBNET}.{NEIGHBOUR}"
    frames = [
        frame
        for inner in (*TUNNEL.values(), "172.17.0.2", f"{SUBNET}.53")
        for frame in (
            *scan.port_scan(source, inner, SOME_PORTS),
            (IPV4, scan.echo4(source, inner)),
        )
    ]

    done = Exchange(world.wire, neighbour, world.container(node, service), frames)
    source = f"{CONTROL_SUBNET}.{NEIGHBOUR}"
    seen = Exchange(
        open_twin.wire, open_twin.neighbour, open_twin.plain,
        scan.port_scan(source, TUNNEL["model"], SOME_PORTS)
        + scan.port_scan(source, f"{CONTROL_SUBNET}.53", SOME_PORTS),
    )  # fmt: skip

    row.probed += done.sent
    row.leaked += len(done.said)
    row.control += len(seen.said)
    assert done.said == [], explain(done.said)
    assert any(f.source == TUNNEL["model"] for f in seen.said), "control: an inner answer"
    assert any(f.destination.endswith(".53") for f in seen.said), "control: forwarded"


def test_compromised_model_node_hears_nothing(
    world: World, open_twin: Control, report: Report
) -> None:
    """Root beside the gateway sends to every port of the relay through the tunnel: no answer.

    What arrives there is counted, so the scan was real. Only packet sockets get so far: what
    ordinary and raw sockets send does not even reach wg0.
    """
    row = report.row(28, "compromised model node scans the relay node")
    holder, victim = world.pid("model", "wireguard"), world.pid("relay", "wireguard")
    ports = [port for port in scan.EVERY_PORT if port % 16 == 0 or port in SOME_PORTS]
    frames = scan.port_scan(TUNNEL["model"], TUNNEL["relay"], ports)
    frames += [(IPV4, scan.echo4(TUNNEL["model"], TUNNEL["relay"]))]
    here, there = TunnelTap(holder), TunnelTap(victim)
    try:
        with world.watch() as watch:
            burst = world.burst("model", "wireguard")
            here.settle()
            by_sockets = {kind for kind in burst.probed if kind not in BY_PACKET_SOCKET}
            leaving = here.kinds_sent()
            sent = in_namespace(holder, sender("wg0", b"", frames, pace=10))
            time.sleep(1)
            there.settle()
    finally:
        lost = here.close() + there.close()
    arrived = [f for f in there.received if f.source == TUNNEL["model"]]
    answers = [f for f in there.sent if not f.has_canary]

    row.probed = sent + burst.probed.total()
    row.leaked = len(watch.leaks) + len(answers) + sum(leaving[kind] for kind in by_sockets)
    row.control = len(arrived)
    assert watch.leaks == [], explain(watch.leaks)
    assert answers == [], explain(answers)
    assert by_sockets & set(leaving) == set(), "the model node never begins"
    assert set(leaving) & BY_PACKET_SOCKET, "control: what packet sockets send is seen"
    assert len(arrived) > sent / 2, "control: the scan arrived"
    assert lost == 0


BY_PACKET_SOCKET = {
    "frame", "frame-unknown", "frame-vlan", "endpoint-frame", "frame6", "fragment",
}  # fmt: skip
