"""Sends canaries: the ways in which a hostile process in a container could try to get out.

Runs alone, by its text, inside a throwaway container with Docker's usual capabilities (and, as the
control, on the host). Each probe's packets carry its own mark, by which a capture knows them.

    python3 canary.py MARK TARGET COUNT PORT [PROBE...]

TARGET is an IPv4 address, PORT the first of the destination ports. Prints, as JSON, for each probe
how many packets the kernel took and what it said to the others.
"""

import errno
import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator

BROADCAST = b"\xff" * 6
DOCUMENTATION_SIX = "2001:db8::1"
EXPERIMENTAL = 253  # a protocol number for experiments (RFC 3692)


class Probe:
    """What all probes need: the mark of this one, the target, a port."""

    def __init__(self, mark: bytes, target: str, port: int) -> None:
        self.mark = mark
        self.target = target
        self.port = port

    def udp(self) -> None:
        self.datagram((self.target, self.port))

    def udp_ssdp(self) -> None:
        self.datagram(("239.255.255.250", 1900))

    def udp_mdns(self) -> None:
        self.datagram(("224.0.0.251", 5353))

    def udp_broadcast(self) -> None:
        self.datagram(("255.255.255.255", self.port))

    def udp_large(self) -> None:
        """Comes in fragments."""
        self.datagram((self.target, self.port), self.mark + b"." * 4000)

    def udp_bound(self) -> None:
        """From every interface by name, whatever the routes say."""
        refused: OSError | None = None
        for _, name in socket.if_nameindex():
            if name != "lo":
                try:
                    self.datagram((self.target, self.port), device=name)
                except OSError as error:
                    refused = error
        if refused:
            raise refused

    def tcp(self) -> None:
        """A connection's first packet; there is no word in it, so it is known by its port."""
        with socket.socket() as out:
            out.setblocking(False)
            code = out.connect_ex((self.target, self.port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "connect")

    def icmp(self) -> None:
        body = struct.pack("!BBHHH", 8, 0, 0, 7, 7) + self.mark
        message = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as out:
            out.sendto(message, (self.target, 0))

    def raw_protocol(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, EXPERIMENTAL) as out:
            out.sendto(self.mark, (self.target, 0))

    def raw_forged(self) -> None:
        """A whole packet of its own making, with a sender that is not this one."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
            out.sendto(self.packet("198.19.255.253"), (self.target, 0))

    def frames(self) -> None:
        """Below the rules for packets: AF_PACKET, to everybody, on every interface."""
        refused: OSError | None = None
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
            for _, name in socket.if_nameindex():
                if name == "lo":
                    continue
                try:
                    out.sendto(self.packet("198.19.255.253"), (name, 0x0800, 0, 0, BROADCAST))
                except OSError as error:
                    refused = error
        if refused:
            raise refused

    def frames_six(self) -> None:
        payload = self.mark
        header = struct.pack("!IHBB", 6 << 28, len(payload), EXPERIMENTAL, 64)
        source = socket.inet_pton(socket.AF_INET6, "fe80::1")
        packet = header + source + socket.inet_pton(socket.AF_INET6, "ff02::1") + payload
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
            for _, name in socket.if_nameindex():
                if name != "lo":
                    out.sendto(packet, (name, 0x86DD, 0, 0, BROADCAST))

    def udp_six(self) -> None:
        self.datagram((DOCUMENTATION_SIX, self.port))

    def dns_docker(self) -> None:
        """Docker's own resolver, which asks from the host; at its well-known and its real port."""
        self.datagram(("127.0.0.11", 53), self.question())
        for port in docker_resolver_ports():
            self.datagram(("127.0.0.11", port), self.question())

    def dns_local(self) -> None:
        self.datagram(("127.0.0.1", 53), self.question())

    def dns_outside(self) -> None:
        self.datagram((self.target, 53), self.question())

    # Helpers

    def datagram(
        self, to: tuple[str, int], payload: bytes | None = None, device: str | None = None
    ) -> None:
        with socket.socket(
            socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM
        ) as out:
            if device:
                out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            out.connect(to)
            out.send(self.mark if payload is None else payload)
            if to[0].startswith("127."):  # only then is it known whether somebody was there
                out.settimeout(0.1)
                try:
                    out.recv(1)
                except TimeoutError:
                    return

    def packet(self, sender: str) -> bytes:
        """A whole IPv4 packet with a UDP datagram in it."""
        payload = self.mark
        datagram = struct.pack("!HHHH", 5, self.port, 8 + len(payload), 0) + payload
        fields = (0x45, 0, 20 + len(datagram), 7, 0, 64, socket.IPPROTO_UDP)
        addresses = socket.inet_aton(sender) + socket.inet_aton(self.target)
        header = struct.pack("!BBHHHBBH", *fields, 0) + addresses
        return struct.pack("!BBHHHBBH", *fields, checksum(header)) + addresses + datagram

    def question(self) -> bytes:
        """Asks for the address of a name that holds the mark."""
        labels = b"".join(bytes([len(it)]) + it for it in (self.mark, b"invalid"))
        head = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
        return head + labels + b"\0" + struct.pack("!2H", 1, 1)


def checksum(data: bytes) -> int:
    words = struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])
    total: int = sum(words) + (data[-1] << 8 if len(data) % 2 else 0)
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def docker_resolver_ports() -> Iterator[int]:
    with open("/proc/net/udp", encoding="ascii") as table:  # noqa: PTH123  # this file runs alone
        for line in table.readlines()[1:]:
            address, _, port = line.split()[1].partition(":")
            if address == "0B00007F" and int(port, 16) != 53:
                yield int(port, 16)


PROBES: dict[str, Callable[[Probe], None]] = {
    "udp": Probe.udp,
    "udp-bound": Probe.udp_bound,
    "udp-large": Probe.udp_large,
    "udp-broadcast": Probe.udp_broadcast,
    "udp-ssdp": Probe.udp_ssdp,
    "udp-mdns": Probe.udp_mdns,
    "udp-six": Probe.udp_six,
    "tcp": Probe.tcp,
    "icmp": Probe.icmp,
    "raw-protocol": Probe.raw_protocol,
    "raw-forged": Probe.raw_forged,
    "frames": Probe.frames,
    "frames-six": Probe.frames_six,
    "dns-docker": Probe.dns_docker,
    "dns-local": Probe.dns_local,
    "dns-outside": Probe.dns_outside,
}


def run(mark: str, target: str, count: int, port: int, names: list[str]) -> list[dict[str, object]]:
    """Send `count` canaries by each probe; the mark of each ends with the probe's number."""
    found: list[dict[str, object]] = []
    for number, (name, send) in enumerate(PROBES.items()):
        if names and name not in names:
            continue
        taken, errors = 0, set()
        for _ in range(count):
            try:
                send(Probe(f"{mark}{number:02d}".encode(), target, port + number))
                taken += 1
            except OSError as error:
                errors.add(errno.errorcode.get(error.errno or 0, str(error)))
        found.append({"probe": name, "number": number, "taken": taken, "errors": sorted(errors)})
    return found


def main(arguments: list[str]) -> None:
    mark, target, count, port, *names = arguments
    print(json.dumps(run(mark, target, int(count), int(port), names)))


if __name__ == "__main__":
    main(sys.argv[1:])
