"""Owns the making of packets, byte by byte, so that a hostile sender can be played exactly."""

import socket
import struct
from dataclasses import dataclass

ICMP, TCP, UDP, ICMPV6, EXPERIMENTAL = 1, 6, 17, 58, 253
SYN, ACK, SYN_ACK, PUSH_ACK = 0x02, 0x10, 0x12, 0x18


@dataclass(frozen=True)
class End:
    """One end of a conversation; the address is IPv4 or IPv6."""

    address: str
    port: int = 0

    @property
    def packed(self) -> bytes:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return socket.inet_pton(family, self.address)


def ip(source: End, target: End, protocol: int, body: bytes, *, offset: int = 0) -> bytes:
    """A whole packet of the ends' version; `offset` (in bytes, IPv4) makes a later fragment."""
    if ":" in source.address:
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64)
        return head + source.packed + target.packed + body
    length = 20 + len(body)
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 7, offset // 8, 64, protocol, 0)
    head += source.packed + target.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def udp(source: End, target: End, payload: bytes) -> bytes:
    head = struct.pack("!HHHH", source.port, target.port, 8 + len(payload), 0)
    total = checksum(pseudo(source, target, UDP, head + payload) + head + payload) or 0xFFFF
    return ip(source, target, UDP, head[:6] + struct.pack("!H", total) + payload)


def tcp(
    source: End, target: End, flags: int, sequence: int, acknowledged: int, payload: bytes = b""
) -> bytes:
    ports = (source.port, target.port)
    head = struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, 0x50, flags, 64000, 0, 0)
    total = checksum(pseudo(source, target, TCP, head + payload) + head + payload)
    return ip(source, target, TCP, head[:16] + struct.pack("!HH", total, 0) + payload)


def plain(source: End, target: End, payload: bytes) -> bytes:
    """A protocol that nothing knows, with ports where TCP and UDP have theirs."""
    body = struct.pack("!HH", source.port, target.port) + payload
    return ip(source, target, EXPERIMENTAL, body)


def icmp(source: End, target: End, kind: int, code: int, rest: bytes) -> bytes:
    """An ICMP message; `rest` begins with the four bytes after the checksum."""
    head = struct.pack("!BBH", kind, code, 0)
    return ip(source, target, ICMP, head[:2] + struct.pack("!H", checksum(head + rest)) + rest)


def icmp_error(source: End, kind: int, code: int, quoted: bytes) -> bytes:
    """Somebody on the way complains to the sender of a packet."""
    sender = End(socket.inet_ntoa(quoted[12:16]))
    return icmp(source, sender, kind, code, struct.pack("!HH", 0, 1280) + quoted[:28])


def frame(packet: bytes, source: bytes, target: bytes) -> bytes:
    """An Ethernet frame around a packet."""
    return target + source + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def arp_request(asker: End, asked: End, hardware: bytes) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + hardware + asker.packed
    return b"\xff" * 6 + hardware + b"\x08\x06" + body + bytes(6) + asked.packed


def body_of(packet: bytes) -> bytes:
    """What follows the IP header."""
    return packet[40:] if packet[0] >> 4 == 6 else packet[(packet[0] & 15) * 4 :]


def packet_of(frame: bytes) -> bytes:
    return frame[14:]


def pseudo(source: End, target: End, protocol: int, body: bytes) -> bytes:
    return source.packed + target.packed + struct.pack("!HH", protocol, len(body))


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
