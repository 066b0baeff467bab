"""Owns what is watched and what may be seen there: the verdict on every frame of a test network.

The capture points, where every outside network is an internal Docker bridge:

- C2, the outside of both nodes: the host's end of each veth that is attached to the bridge. What a
  container of a node sends is seen there before any rule of the host, whoever it is for, from the
  moment Docker makes the veth: one socket hears all interfaces of the host, also those to come.
- C1, the host's outside interfaces. On a node, C1 and C2 differ by Docker's address translation,
  which an internal bridge does not have; so PASS0 is judged at C2, and at C1 nothing of a test's
  addresses and no canary may be seen at all, in either direction.
- C3, wg0: a socket in the holder's namespace (`TunnelTap`).

PASS0 is judged on every single frame: ARP; UDP between the tunnel's two ends on its port, which
must look like WireGuard and hold no canary; TCP from the egress to Telegram's port 443; DNS from
the egress to its resolver for one name. Whatever else one of the nodes sends is a leak. What
bystanders send (the stubs and the tests' own neighbours) is not judged.

One exception is counted apart and has a bound, `refusals`: between Docker's attaching an uplink's
interface and its sysctls and rules, the kernel may answer a datagram of the other end with "port
unreachable". Nothing in the container runs so early; it says nothing but that the port was closed.
"""

import contextlib
import json
import re
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.leaks.capture import (
    ARP,
    IPV4,
    IPV6,
    Frame,
    Tap,
    all_but,
    in_namespace,
    tests_own,
)
from tests.leaks.hostile import CANARY, KINDS, PORTS, WIREGUARD_PORT

MOST_KEPT = 50_000
"""Frames that are kept for a verdict; with more there is none."""

NAME = "api.telegram.org"
ICMP, UDP = 1, 17
PORT_UNREACHABLE = b"\3\3"


class Wire:
    """C1 and C2 of one test network, from before its first container until it is closed."""

    def __init__(self, bridge: str, subnet: str) -> None:
        self.bridge = bridge
        self.subnet = subnet
        self.passed = 0
        self.initiations = 0
        """WireGuard's requests for a handshake, by either end."""
        self.fragments = 0
        """Later parts of the tunnel's datagrams."""
        self.refusals = 0
        """ICMP's "port unreachable" from one end of the tunnel to the other."""
        self.frames: list[Frame] = []
        """Candidates: frames beyond PASS0 on this network, and what C1 has seen."""
        self._bystanders: set[str] = set()
        self._masters: dict[str, str] = {}
        outside = outside_interfaces()
        self._foreign = {name for _, name in socket.if_nameindex()}  # none of this network's yet
        self._taps: list[Tap] = []
        self._taps.append(
            Tap(self._take_inside, program=all_but(sorted(self._foreign)), with_outgoing=False)
        )
        self._taps += [
            Tap(self._take_outside, interface=name, program=tests_own()) for name in outside
        ]

    def close(self) -> None:
        for tap in self._taps:
            tap.close()

    def add_bystander(self, container: str) -> None:
        """Do not judge what this running container sends, or has sent since it started."""
        self._bystanders.add(veth_of(container))

    @contextlib.contextmanager
    def watch(self) -> "Iterator[Watch]":
        """Watch what happens within the block."""
        self.settle()
        watch = Watch(self, len(self.frames), self.passed, self.initiations)
        watch.fragments, watch.refusals = -self.fragments, -self.refusals
        yield watch
        self.settle()
        watch.end()

    def settle(self) -> None:
        for tap in self._taps:
            tap.settle()
        assert len(self.frames) < MOST_KEPT, "too many frames to judge"

    def lost(self) -> int:
        return sum(tap.lost() for tap in self._taps)

    def is_judged(self, frame: Frame) -> bool:
        return frame.interface not in self._bystanders

    def _take_inside(self, frame: Frame) -> None:
        master = self._masters.get(frame.interface)
        if master is None:
            master = self._masters[frame.interface] = master_of(frame.interface)
        if master == self.bridge:
            self.judge(frame)
        elif master:
            self._spare(frame.interface)
        elif not frame.interface and self._is_ours(frame):
            self._keep(frame)  # its interface is gone already

    def _spare(self, interface: str) -> None:
        """Hear no more of an interface of somebody else's network, which may be busy."""
        if not self._taps:
            return  # the very first frame, before the tap is known here
        self._foreign = {interface} | {name for name in self._foreign if (NETWORK / name).exists()}
        self._taps[0].spare(all_but(sorted(self._foreign)))

    def _take_outside(self, frame: Frame) -> None:
        if self._is_ours(frame) or frame.has_canary:
            self._keep(frame)

    def _is_ours(self, frame: Frame) -> bool:
        ours = (self.subnet + ".", "10.66.0.")
        return (
            frame.has_canary or frame.source.startswith(ours) or frame.destination.startswith(ours)
        )

    def judge(self, frame: Frame) -> None:
        """Count a frame that a container sent, or keep it as a leak."""
        if frame.interface in self._bystanders:
            return
        if not frame.has_canary and not frame.is_vlan and self._is_refusal(frame):
            self.refusals += 1
        elif not frame.has_canary and not frame.is_vlan and self._is_permitted(frame):
            self.passed += 1
            self.fragments += frame.is_later_fragment
            self.initiations += frame.protocol == UDP and frame.transport[8:12] == b"\1\0\0\0"
        else:
            self._keep(frame)

    def _is_permitted(self, frame: Frame) -> bool:
        if frame.ethertype != IPV4:
            return frame.ethertype == ARP
        numbers = {f"{self.subnet}.{n}": n for n in (10, 11, 20, 30, 53)}
        ways = (numbers.get(frame.source), numbers.get(frame.destination))
        match frame.protocol, ways, frame.ports:
            case (17, (10, 30), (51820, _)) | (17, (30, 10), (_, 51820)):
                return frame.transport[8:12] in WIREGUARD_TYPES
            case (17, (10, 30) | (30, 10), _):
                return frame.is_later_fragment
            case (6, (11, 20), (_, 443)):
                return True
            case (17, (11, 53), (_, 53)):
                return name_asked(frame.transport[8:]) == NAME
        return False

    def _is_refusal(self, frame: Frame) -> bool:
        ends = {f"{self.subnet}.10", f"{self.subnet}.30"}
        quoted = Frame(frame.at, "", IPV4, False, False, frame.transport[8:], False)
        return (
            frame.protocol == ICMP
            and frame.transport[:2] == PORT_UNREACHABLE
            and {frame.source, frame.destination} == ends
            and (quoted.source, quoted.destination) == (frame.destination, frame.source)
            and quoted.protocol == UDP
            and WIREGUARD_PORT in quoted.ports
        )

    def _keep(self, frame: Frame) -> None:
        if len(self.frames) < MOST_KEPT:
            self.frames.append(frame)


WIREGUARD_TYPES = tuple(bytes([kind, 0, 0, 0]) for kind in (1, 2, 3, 4))


@dataclass
class Watch:
    """What was seen between two moments."""

    wire: Wire
    _frames_before: int
    _passed_before: int
    _initiations_before: int
    leaks: list[Frame] = field(default_factory=list)
    passed: int = 0
    """Frames within PASS0."""
    initiations: int = 0
    fragments: int = 0
    refusals: int = 0

    def end(self) -> None:
        kept = self.wire.frames[self._frames_before :]
        self.leaks = [frame for frame in kept if self.wire.is_judged(frame)]
        self.passed = self.wire.passed - self._passed_before
        self.initiations = self.wire.initiations - self._initiations_before
        self.fragments += self.wire.fragments
        self.refusals += self.wire.refusals

    def kinds(self) -> Counter[str]:
        """The leaks by the kind of probe that they are."""
        return Counter(kind_of(frame) for frame in self.leaks)


class TunnelTap:
    """C3: everything on the interfaces of a workload's namespace but loopback."""

    def __init__(self, pid: int) -> None:
        self.sent: list[Frame] = []
        self.received: list[Frame] = []
        self._tap = in_namespace(pid, lambda: Tap(self._take, program=all_but(["lo"])))

    def _take(self, frame: Frame) -> None:
        kept = self.sent if frame.is_outgoing else self.received
        if not is_link(frame) and len(kept) < MOST_KEPT:
            kept.append(frame)

    def settle(self) -> None:
        self._tap.settle()

    def kinds_sent(self) -> Counter[str]:
        """What was put onto the tunnel beyond the link, by the kind of probe that it is."""
        return Counter(kind_of(frame) for frame in list(self.sent))

    def close(self) -> int:
        """End it; how many frames the kernel has lost."""
        self._tap.settle()
        lost = self._tap.lost()
        self._tap.close()
        return lost


def is_link(frame: Frame) -> bool:
    """Whether this is the one declared connection: the relay's to the gateway's port."""
    match frame.protocol, frame.source, frame.destination, frame.ports:
        case (6, "10.66.0.1", "10.66.0.2", (_, 8080)) | (6, "10.66.0.2", "10.66.0.1", (8080, _)):
            return not frame.has_canary
    return False


MARK = re.compile(
    b"%s[.-](%s)[.-]"
    % (CANARY, b"|".join(kind.encode() for kind in sorted(KINDS, key=len, reverse=True)))
)


def kind_of(frame: Frame) -> str:
    """Which of the hostile workload's kinds a frame is, or what it looks like."""
    marked = MARK.search(frame.data)
    if marked:
        return marked[1].decode()
    if frame.has_canary:
        return "canary"
    if frame.ethertype == IPV6:
        return "mld6" if frame.data[6:7] == b"\0" and frame.data[48:49] == b"\x8f" else "ipv6"
    match frame.protocol, frame.ports:
        case (6, (_, port)) if port in KINDS_BY_PORT:
            return KINDS_BY_PORT[port]
        case (2, _):
            return "igmp"
        case (-1, _):
            return f"ethertype {frame.ethertype:#06x}"
    return f"protocol {frame.protocol} port {frame.ports[1]}"


KINDS_BY_PORT = {number: kind for kind, number in PORTS.items()}


def name_asked(message: bytes) -> str:
    """The one name that a DNS query asks for; anything unusual is no name."""
    if len(message) < 17 or struct.unpack("!4H", message[4:12])[0] != 1:
        return ""
    labels, at = [], 12
    while at < len(message) and message[at]:
        if message[at] > 63:
            return ""
        labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii", "replace"))
        at += 1 + message[at]
    return ".".join(labels).lower()


# Interfaces of the host

NETWORK = Path("/sys/class/net")


def master_of(interface: str) -> str:
    """The bridge that an interface is attached to, or nothing."""
    try:
        return (NETWORK / interface / "master").resolve(strict=True).name if interface else ""
    except OSError:
        return ""


def outside_interfaces() -> list[str]:
    """Those that lead off this machine: neither bridges nor what is attached to one."""
    return [
        name
        for _, name in socket.if_nameindex()
        if name != "lo"
        and not (NETWORK / name / "bridge").exists()
        and not master_of(name)
        and not name.startswith("veth")
    ]


def bridge_of(network: str) -> str:
    """The host's bridge behind a Docker network."""
    described = json.loads(docker_says("network", "inspect", network))[0]
    return str(
        described["Options"].get("com.docker.network.bridge.name") or f"br-{described['Id'][:12]}"
    )


def veth_of(container: str) -> str:
    """The host's end of a container's only outside interface."""
    pid = pid_of(container)
    index = int(Path(f"/proc/{pid}/root/sys/class/net/eth0/iflink").read_text(encoding="ascii"))
    return socket.if_indextoname(index)


def pid_of(container: str) -> int:
    return int(docker_says("inspect", "--format", "{{.State.Pid}}", container))


def docker_says(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()
