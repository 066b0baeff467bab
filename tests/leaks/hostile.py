"""Owns what a hostile workload sends: every way out there is, each marked by its kind.

Runs in the image `peer`, which has Python's standard library alone, in whatever namespace.
A try that the kernel refuses counts as probed: it is the capture that says what has left.

    hostile.py PLAN [ROUNDS]

PLAN is JSON (`Plan`). With ROUNDS it tries everything so often and prints what it did; without, it
goes on and prints each second what it did since the last time.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CANARY = b"leakcanary"
"""Stands in everything that has a payload, followed by the kind: `leakcanary.KIND.`"""

PORTS = {
    "tcp": 4001,
    "dns-tcp": 53,
    "dns-tls": 853,
    "dns-https": 443,
    "private": 4026,
    "host-port": 4027,
}
"""Kinds that send a TCP greeting, which carries no payload, are told by their port."""

ROUND_SECONDS = 0.1
WIREGUARD_PORT = 51820
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
EVERYBODY = b"\xff" * 6


@dataclass(frozen=True)
class Plan:
    """Whom to try."""

    neighbour: str
    """A machine on the outside network."""
    endpoint: str
    """The other node's outside address: its tunnel's port is open in the rules."""
    resolver: str
    gateway: str
    """The host, as the outside network sees it."""
    name: str
    """A name that Docker's resolver would answer from its own memory."""
    without: tuple[str, ...] = ()
    """Kinds that this namespace's rules let through on purpose."""


class Hostile:
    """Tries each kind of probe, and counts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.probed: Counter[str] = Counter()
        self.answered = 0
        self._kind = ""
        near, endpoint, resolver = plan.neighbour, plan.endpoint, plan.resolver
        far = "198.19.255.1"
        broadcast = near.rpartition(".")[0] + ".255"
        private = ("169.254.169.254", "10.99.0.1", "172.31.99.1", "192.168.99.1")
        self.kinds: dict[str, Callable[[], None]] = {
            "tcp": lambda: self.greet((near, far, endpoint)),
            "udp": lambda: self.datagram((near, far), 4002),
            "bound-device": self.bound_device,
            "raw-udp": self.raw_udp,
            "raw-protocol": self.raw_protocol,
            "frame": self.frames,
            "frame-unknown": self.unknown_frames,
            "frame-vlan": self.vlan_frames,
            "endpoint": lambda: self.datagram((endpoint,), WIREGUARD_PORT),
            "endpoint-frame": self.endpoint_frames,
            "dns-docker": self.docker_resolver,
            "dns-udp": lambda: self.queries((resolver, near, plan.gateway)),
            "dns-tcp": lambda: self.greet((resolver, near)),
            "dns-tls": lambda: self.greet((resolver, near)),
            "dns-https": lambda: self.greet((resolver, near)),
            "frame6": self.frames6,
            "udp6": self.datagrams6,
            "nd6": self.neighbour_discovery,
            "mld6": self.join6,
            "icmp-echo": self.echo,
            "broadcast": lambda: self.datagram(("255.255.255.255", broadcast), 4020),
            "ssdp": lambda: self.multicast("239.255.255.250", 1900),
            "mdns": lambda: self.multicast("224.0.0.251", 5353),
            "igmp": self.join,
            "large": lambda: self.datagram((near, far), 4021, size=4000),
            "fragment": self.fragments,
            "unfragmented": self.unfragmented,
            "private": lambda: self.greet(private),
            "host-port": lambda: self.greet((plan.gateway,)),
        }

    def round(self) -> None:
        """Try each kind once."""
        for kind, probe in self.kinds.items():
            if kind not in self.plan.without:
                self._kind = kind
                probe()

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Count one try; what the kernel refuses is no failure of the try."""
        self.probed[self._kind] += 1
        with contextlib.suppress(OSError):
            yield

    @property
    def mark(self) -> bytes:
        return CANARY + b"." + self._kind.encode() + b"."

    # Ordinary sockets

    def greet(self, addresses: tuple[str, ...]) -> None:
        for address in addresses:
            with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                sock.connect_ex((address, PORTS[self._kind]))

    def datagram(self, addresses: tuple[str, ...], port: int, size: int = 0) -> None:
        for address in addresses:
            with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.sendto(filled(self.mark, size), (address, port))

    def bound_device(self) -> None:
        for name in interfaces():
            for address in (self.plan.neighbour, "255.255.255.255"):
                with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
                    sock.sendto(self.mark, (address, 4014))

    def multicast(self, group: str, port: int) -> None:
        for index in indices():
            with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, through(index))
                sock.sendto(self.mark, (group, port))

    def join(self) -> None:
        """Join and leave a group: the kernel reports it."""
        for index in indices():
            with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                member = socket.inet_aton("239.1.2.3") + through(index)[4:]
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def unfragmented(self) -> None:
        """Datagrams that must not be cut, around the sizes of the tunnel and of Ethernet."""
        for mtu in (1280, 1420, 1500):
            for size in (mtu - 29, mtu - 28, mtu - 27):
                with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
                    sock.sendto(filled(self.mark, size), (self.plan.neighbour, 4022))

    def queries(self, resolvers: tuple[str, ...]) -> None:
        label = self.mark.decode().replace(".", "-")
        for name, kind in ((f"x.{label}.example.org", 1), (f"{label}.api.telegram.org", 16)):
            for resolver in resolvers:
                with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.sendto(query(name, kind), (resolver, 53))

    def docker_resolver(self) -> None:
        """Docker's resolver, by its well-known port and by those that it listens on."""
        for port in (53, *listening_ports("127.0.0.11")):
            with self.trying(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.05)
                sock.connect(("127.0.0.11", port))
                sock.send(query(self.plan.name, 1))
                answer = sock.recv(512)
                self.answered += len(answer) > 12

    # Raw sockets

    def raw_udp(self) -> None:
        """A packet with its own header and somebody else's address in it."""
        for source in (self.plan.gateway, "198.19.255.2"):
            with self.trying(), raw(socket.IPPROTO_RAW) as sock:
                packet = udp4(source, self.plan.neighbour, 4004, self.mark)
                sock.sendto(packet, (self.plan.neighbour, 0))

    def raw_protocol(self) -> None:
        with self.trying(), raw(253) as sock:  # for experiments, says RFC 3692
            sock.sendto(self.mark, (self.plan.neighbour, 0))

    def echo(self) -> None:
        for address in (self.plan.neighbour, self.plan.gateway):
            with self.trying(), raw(socket.IPPROTO_ICMP) as sock:
                body = struct.pack("!BBHHH", 8, 0, 0, 7, 7) + self.mark
                check = struct.pack("!H", checksum(body))
                sock.sendto(body[:2] + check + body[4:], (address, 0))

    def fragments(self) -> None:
        """First, middle and overlapping parts of packets that are never complete."""
        for more, offset in ((1, 0), (1, 3), (0, 185), (0, 1)):
            with self.trying(), raw(socket.IPPROTO_RAW) as sock:
                fields = (more << 13) | offset
                packet = udp4(None, self.plan.neighbour, 4023, filled(self.mark, 64), fields)
                sock.sendto(packet, (self.plan.neighbour, 0))
            for name in interfaces():
                packet = udp4(
                    "198.19.255.3", self.plan.neighbour, 4023, filled(self.mark, 64), fields
                )
                self.put(name, 0x0800, packet)

    # Frames

    def put(self, name: str, ethertype: int, packet: bytes) -> None:
        """Give a packet to an interface, past the whole stack."""
        with self.trying(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
            sock.sendto(packet, (name, ethertype, 0, 0, EVERYBODY))

    def frames(self) -> None:
        for name in interfaces():
            for source, target in (
                ("198.19.255.2", self.plan.neighbour),
                ("0.0.0.0", "198.19.0.9"),
            ):
                self.put(name, 0x0800, udp4(source, target, 4015, self.mark))

    def unknown_frames(self) -> None:
        for name in interfaces():
            self.put(name, 0x88B5, filled(self.mark, 46))  # for local experiments, says IEEE 802

    def vlan_frames(self) -> None:
        packet = udp4("198.19.255.2", self.plan.endpoint, WIREGUARD_PORT, self.mark)
        frame = EVERYBODY + b"\x02\0\0\0\0\x01" + struct.pack("!HHH", 0x8100, 7, 0x0800)
        for name in interfaces():
            with self.trying(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
                sock.sendto(frame + packet, (name, 0))

    def endpoint_frames(self) -> None:
        for name in interfaces():
            packet = udp4(
                self.plan.neighbour, self.plan.endpoint, WIREGUARD_PORT, b"\1\0\0\0" + self.mark
            )
            self.put(name, 0x0800, packet)

    def frames6(self) -> None:
        for name in interfaces():
            for target in ("ff02::1", "fd00:6::99"):
                source = socket.inet_pton(socket.AF_INET6, "fd00:6::66")
                body = struct.pack("!HHHH", 4019, 4019, 8 + len(self.mark), 0) + self.mark
                head = struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + source
                self.put(name, 0x86DD, head + socket.inet_pton(socket.AF_INET6, target) + body)

    # IPv6

    def datagrams6(self) -> None:
        for index in indices():
            for address in ("ff02::1", "fe80::42", "fd00:6::99", "::ffff:" + self.plan.neighbour):
                with self.trying(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.sendto(self.mark, (address, 4018, 0, index))

    def neighbour_discovery(self) -> None:
        for index in indices():
            with (
                self.trying(),
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock,
            ):
                target = socket.inet_pton(socket.AF_INET6, "fe80::42")
                message = struct.pack("!BBHI", 135, 0, 0, 0) + target + self.mark
                sock.sendto(message, ("ff02::1", 0, 0, index))

    def join6(self) -> None:
        for index in indices():
            with self.trying(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                group = socket.inet_pton(socket.AF_INET6, "ff02::1:3") + struct.pack("@I", index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)


KINDS = tuple(Hostile(Plan("", "", "", "", "")).kinds)


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def indices() -> list[int]:
    return [index for index, _ in socket.if_nameindex()]


def through(index: int) -> bytes:
    """The kernel's ip_mreqn that names an interface."""
    return struct.pack("@4s4si", bytes(4), bytes(4), index)


def raw(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    sock.setblocking(False)
    return sock


def filled(mark: bytes, size: int) -> bytes:
    """The mark so often that each part of the payload holds it."""
    return (mark * (size // len(mark) + 1))[: max(size, len(mark))]


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def udp4(source: str | None, target: str, port: int, payload: bytes, fragment: int = 0) -> bytes:
    """An IPv4 packet with UDP in it; without a source the kernel fills in its own."""
    body = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 77, fragment, 64, 17, 0,
        socket.inet_aton(source or "0.0.0.0"), socket.inet_aton(target),
    )  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def listening_ports(address: str) -> list[int]:
    """UDP ports that somebody in this namespace listens on at an address."""
    wanted = f"{struct.unpack('<I', socket.inet_aton(address))[0]:08X}"
    with open("/proc/net/udp", encoding="ascii") as table:  # noqa: PTH123 - starts sooner
        locals_ = [line.split()[1] for line in table if ":" in line]
    return [int(local[9:], 16) for local in locals_ if local.startswith(wanted)]


def main(arguments: list[str]) -> None:
    fields = json.loads(arguments[0])
    hostile = Hostile(Plan(**{**fields, "without": tuple(fields.get("without", ()))}))
    if len(arguments) > 1:
        for _ in range(int(arguments[1])):
            hostile.round()
            time.sleep(ROUND_SECONDS / 2)
        report(hostile)
        return
    told = time.monotonic()
    while True:
        hostile.round()
        if time.monotonic() - told >= 1:
            report(hostile)
            hostile.probed.clear()
            hostile.answered = 0
            told = time.monotonic()
        time.sleep(ROUND_SECONDS)


def report(hostile: Hostile) -> None:
    line = json.dumps({"probed": hostile.probed, "answered": hostile.answered})
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
