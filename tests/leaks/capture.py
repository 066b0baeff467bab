"""Owns packet capture: sockets that see every frame of a network namespace, read by a thread each.

A packet socket of the kernel (packet(7)), as tcpdump has one, so that a mark can be set in the
stream, nothing is started that could start too late, and the kernel's count of lost frames is at
hand. What counts as a leak is none of this module's business.
"""

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.entering import do_in_namespace
from tests.leaks.hostile import CANARY

Result = TypeVar("Result")

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
KEPT_BYTES = 1600
BUFFER_BYTES = 64 << 20
DELIVERY_SECONDS = 0.1
"""More than the kernel takes to hand a frame that was sent to those who listen."""

# From linux/if_packet.h, linux/filter.h and asm-generic/socket.h; Python's socket lacks them.
SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
ETH_P_ALL = 3
TP_STATUS_VLAN_VALID = 1 << 4
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
FIELD_PROTOCOL, FIELD_INTERFACE = 0xFFFFF000 + 0, 0xFFFFF000 + 8


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame, from its network header on."""

    at: float
    """Seconds since the epoch, as it was read."""
    interface: str
    ethertype: int
    is_vlan: bool
    is_outgoing: bool
    data: bytes
    has_canary: bool

    @property
    def protocol(self) -> int:
        """The IPv4 protocol, or -1."""
        return self.data[9] if self.ethertype == IPV4 and len(self.data) >= 20 else -1

    @property
    def source(self) -> str:
        return socket.inet_ntoa(self.data[12:16]) if self.protocol >= 0 else ""

    @property
    def destination(self) -> str:
        return socket.inet_ntoa(self.data[16:20]) if self.protocol >= 0 else ""

    @property
    def is_later_fragment(self) -> bool:
        return self.protocol >= 0 and bool(struct.unpack("!H", self.data[6:8])[0] & 0x1FFF)

    @property
    def transport(self) -> bytes:
        """What follows the IPv4 header."""
        return self.data[(self.data[0] & 15) * 4 :] if self.protocol >= 0 else b""

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination, or -1 where there are none."""
        if self.protocol in (6, 17) and not self.is_later_fragment and len(self.transport) >= 8:
            source, destination = struct.unpack("!HH", self.transport[:4])
            return int(source), int(destination)
        return -1, -1

    def __str__(self) -> str:
        if self.protocol < 0:
            what = f"ethertype {self.ethertype:#06x}"
        else:
            what = f"protocol {self.protocol} {self.source} > {self.destination} ports {self.ports}"
        return f"{self.interface}: {what}{' VLAN' * self.is_vlan} {self.data[:80]!r}"


class Tap:
    """Reads every frame that one namespace's interfaces take or send, until it is closed.

    Start it in a thread that is in the namespace (`in_namespace`); it stays there.
    """

    def __init__(
        self,
        take: Callable[[Frame], None],
        *,
        interface: str = "",
        program: Sequence[tuple[int, int, int, int]] = (),
        with_outgoing: bool = True,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._take = take
        self._lost = 0
        self._failure: BaseException | None = None
        self._closing = False
        self._empty = threading.Condition()
        self._empty_count = 0
        """How often everything was read that had arrived."""
        # Protocol 0 hears nothing: the filter must stand before the first frame.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        if not with_outgoing:
            self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        if program:
            attach(self._socket, program)
        if interface:
            self._socket.bind((interface, ETH_P_ALL))
        else:
            bind_to_all(self._socket)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def spare(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        """Put another filter in the place of the first."""
        attach(self._socket, program)

    def settle(self) -> None:
        """Wait until everything that has happened so far is read."""
        time.sleep(DELIVERY_SECONDS)
        with self._empty:
            wanted = self._empty_count + 2  # the one under way may have begun before
            done = self._empty.wait_for(lambda: self._empty_count >= wanted or self._failure, 30)
        if self._failure:
            raise self._failure
        assert done, "the capture does not keep up"

    def lost(self) -> int:
        """Frames that the kernel had to drop for this socket, ever."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self._lost += struct.unpack("@II", statistics)[1]  # reading sets the kernel's count to 0
        return self._lost

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self._failure = error  # raised by the next who asks: `settle`

    def _read(self) -> None:
        buffer = bytearray(1 << 17)
        view = memoryview(buffer)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._closing:
            if not poll.poll(0):
                self._note_empty()
                poll.poll(50)
                continue
            try:
                size, extra, _, address = self._socket.recvmsg_into([view], 64)
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    continue  # said once; if the interface comes up again, it is heard
                raise
            interface, ethertype, direction = address[0], address[1], address[2]
            is_vlan = any(
                struct.unpack("@I", data[:4])[0] & TP_STATUS_VLAN_VALID
                for level, kind, data in extra
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA)
            )
            self._take(
                Frame(
                    time.time(),
                    interface,
                    ethertype,
                    is_vlan,
                    direction == socket.PACKET_OUTGOING,
                    bytes(view[: min(size, KEPT_BYTES)]),
                    buffer.find(CANARY, 0, size) >= 0,
                )
            )

    def _note_empty(self) -> None:
        with self._empty:
            self._empty_count += 1
            self._empty.notify_all()


# Which frames a socket is spared: programs for the kernel's filter (linux/filter.h).

_LOAD_WORD, _LOAD_BYTE, _LOAD_HALF_AT_X, _LENGTH_TO_X = 0x20, 0x30, 0x48, 0xB1
_AND, _IF_EQUAL, _RETURN = 0x54, 0x15, 0x06
_EVERYTHING = 0x40000


def all_but(interfaces: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Frames of every interface, also of those to come, except of these."""
    indices = []
    for name in interfaces[:250]:  # a jump of the filter reaches no further
        with contextlib.suppress(OSError):  # gone meanwhile
            indices.append(socket.if_nametoindex(name))
    program = [(_LOAD_WORD, 0, 0, FIELD_INTERFACE)]
    program += [(_IF_EQUAL, len(indices) - at, 0, index) for at, index in enumerate(indices)]
    return [*program, (_RETURN, 0, 0, _EVERYTHING), (_RETURN, 0, 0, 0)]


def tests_own() -> list[tuple[int, int, int, int]]:
    """Of what passes an outside interface: test addresses, the tunnel's, fd00::/8, and DNS."""
    take, leave = 21, 20  # the two last lines; a jump counts from the line after it
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD_WORD, 0, 0, FIELD_PROTOCOL),
        (_IF_EQUAL, 3, 0, IPV4),
        (_IF_EQUAL, 0, leave - 3, IPV6),
        (_LOAD_BYTE, 0, 0, 8),
        (_IF_EQUAL, take - 5, leave - 5, 0xFD),
    ]
    for offset in (12, 16):
        for mask, network in ((0xFFFE0000, 0xC6120000), (0xFFFFFF00, 0x0A420000)):
            lines += [(_LOAD_WORD, 0, 0, offset), (_AND, 0, 0, mask)]
            lines += [(_IF_EQUAL, take - len(lines) - 1, 0, network)]
    lines += [(_LENGTH_TO_X, 0, 0, 0), (_LOAD_HALF_AT_X, 0, 0, 2)]
    lines += [(_IF_EQUAL, take - len(lines) - 1, 0, 53), (_RETURN, 0, 0, 0)]
    assert len(lines) == take
    return [*lines, (_RETURN, 0, 0, _EVERYTHING)]


def attach(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *line) for line in program))
    sock.setsockopt(
        socket.SOL_SOCKET,
        SO_ATTACH_FILTER,
        struct.pack("@HL", len(program), ctypes.addressof(code)),
    )


def bind_to_all(sock: socket.socket) -> None:
    """Hear every interface; Python's own bind wants the name of one."""
    address = struct.pack("@HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_ALL), 0, 0, 0, 0, b"")
    call(lambda libc: libc.bind(sock.fileno(), address, len(address)))


def call(function: Callable[[ctypes.CDLL], int]) -> None:
    """Call something of libc that Python 3.11 lacks."""
    if function(ctypes.CDLL(None, use_errno=True)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# Namespaces


def in_namespace(pid: int, act: Callable[[], Result]) -> Result:
    """Do something in the network namespace of a process; returns its result."""
    with open_namespace(pid) as namespace:
        return do_in_namespace(namespace, act)


@contextlib.contextmanager
def open_namespace(pid: int) -> Iterator[int]:
    file = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


# Evidence


def write_pcap(frames: Sequence[Frame], file: Path) -> None:
    """Keep frames for tcpdump -r and the like, as link type LINUX_SLL (the sender is not kept)."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, KEPT_BYTES + 16, 113)]
    for frame in frames:
        head = struct.pack("!HHH8sH", 4 * frame.is_outgoing, 1, 0, b"", frame.ethertype)
        size = len(head) + len(frame.data)
        seconds = int(frame.at)
        parts.append(struct.pack("<IIII", seconds, int((frame.at - seconds) * 1e6), size, size))
        parts += [head, frame.data]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(parts))
