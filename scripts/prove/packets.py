"""Owns what is read in a captured frame: its kind, and whether it is one of the tunnel's."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
OWN = "tunnel"
"""The kind of frames of the tunnel to the other node."""
WELL_KNOWN = 32768
"""Ports from here on are a caller's own, and of no interest."""


@dataclass(frozen=True)
class Frame:
    """The headers of one frame."""

    source_mac: str
    ethertype: int
    protocol: str = ""
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    payload: bytes = b""
    """What follows the UDP header, or the IP header of other protocols."""
    is_fragment: bool = False
    """A later fragment: it has no ports."""

    @property
    def ports(self) -> tuple[int, int]:
        return self.source_port, self.destination_port


def read_frame(data: bytes) -> Frame:
    """Read an Ethernet frame; what is too short or unknown is told by its type alone."""
    mac = data[6:12].hex(":")
    if len(data) < 14:
        return Frame(mac, 0)
    (ethertype,) = struct.unpack_from("!H", data, 12)
    start = 14
    if ethertype == VLAN and len(data) >= 18:
        (ethertype,) = struct.unpack_from("!H", data, 16)
        start = 18
    if ethertype == IPV4 and len(data) >= start + 20:
        return read_ipv4(mac, data[start:])
    if ethertype == IPV6 and len(data) >= start + 40:
        source, destination = (
            str(ipaddress.IPv6Address(data[start + at : start + at + 16])) for at in (8, 24)
        )
        name = PROTOCOLS.get(data[start + 6], str(data[start + 6]))
        return with_ports(
            Frame(mac, ethertype, name, source, destination, payload=data[start + 40 :])
        )
    return Frame(mac, ethertype)


def read_ipv4(mac: str, packet: bytes) -> Frame:
    header = (packet[0] & 15) * 4
    (fragment,) = struct.unpack_from("!H", packet, 6)
    name = PROTOCOLS.get(packet[9], str(packet[9]))
    source, destination = (str(ipaddress.IPv4Address(packet[at : at + 4])) for at in (12, 16))
    frame = Frame(
        mac,
        IPV4,
        name,
        source,
        destination,
        payload=packet[header:],
        is_fragment=bool(fragment & 0x1FFF),
    )
    return frame if frame.is_fragment else with_ports(frame)


def with_ports(frame: Frame) -> Frame:
    if frame.protocol not in ("tcp", "udp") or len(frame.payload) < 8:
        return frame
    source, destination = struct.unpack_from("!HH", frame.payload)
    payload = frame.payload[8:] if frame.protocol == "udp" else frame.payload
    return Frame(
        frame.source_mac,
        frame.ethertype,
        frame.protocol,
        frame.source,
        frame.destination,
        source,
        destination,
        payload,
    )


@dataclass(frozen=True)
class Tunnel:
    """Where the encrypted packets go: a port of this machine, or the other node's endpoint."""

    port: int
    endpoint: str = ""
    """The other node's address, where this one dials."""
    name: str = OWN
    """The kind of its frames."""

    def has(self, frame: Frame) -> bool:
        """UDP by address and port, with one of WireGuard's four messages in it."""
        if frame.protocol != "udp" or self.port not in frame.ports:
            return False
        if self.endpoint and self.endpoint not in (frame.source, frame.destination):
            return False
        return frame.payload[:1] in (b"\1", b"\2", b"\3", b"\4") and frame.payload[1:4] == b"\0\0\0"


def kind_of(frame: Frame, tunnels: tuple[Tunnel, ...]) -> str:
    """A frame's kind, in which no address is told."""
    for tunnel in tunnels:
        if tunnel.has(frame):
            return tunnel.name
    if frame.protocol == "udp" and any(tunnel.port in frame.ports for tunnel in tunnels):
        return "udp on the tunnel's port that is not the tunnel's"
    if frame.ethertype == ARP:
        return "arp"
    if frame.ethertype not in (IPV4, IPV6):
        return f"ethertype {frame.ethertype:#06x}"
    version = " over IPv6" if frame.ethertype == IPV6 else ""
    if frame.is_fragment:
        return f"{frame.protocol} fragment{version}"
    known = sorted(port for port in frame.ports if 0 < port < WELL_KNOWN)
    return f"{frame.protocol}{f' {known[0]}' if known else ''}{version}"
