"""Owns a capture: every frame on some interfaces, counted by kind and searched for canaries.

Packets are looked at as they come and not kept: nothing of them reaches a disk.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from scripts.node.tools import CannotLook
from scripts.prove.packets import Frame, Tunnel, kind_of, read_frame

EVERY_PROTOCOL = 0x0003
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS, PACKET_MR_PROMISC = 263, 1, 6, 1
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 16 << 20
BRIDGE, OUTSIDE = "bridge", "outside"
"""How an interface's role begins; what a container may send is judged at its bridge."""
MARK_BYTES = 2
"""How many characters after the run's mark tell which canary it is, after the sender's letter."""


@dataclass
class Seen:
    """What one interface has shown."""

    interface: str
    role: str
    frames: int = 0
    dropped: int = 0
    """Frames that the kernel could not hand over in time: the capture is then not whole."""
    kinds: Counter[str] = field(default_factory=Counter)
    canaries: Counter[str] = field(default_factory=Counter)
    forbidden: Counter[str] = field(default_factory=Counter)
    """Frames of the node's own containers that nothing permits, by sender and kind."""


class Capture:
    """Reads frames from the moment it is entered until it is left."""

    def __init__(
        self,
        interfaces: Sequence[tuple[str, str]],
        tunnels: tuple[Tunnel, ...],
        mark: str,
        target: str,
        first_ports: dict[int, str],
        judge: Callable[[str, Frame], str | None],
    ) -> None:
        """`interfaces` are names with their roles.

        `mark` begins every canary; `first_ports` says whose are the 64 ports from each on, for
        packets without a payload; `judge` names the forbidden kind of a frame, by interface.
        """
        self.seen = [Seen(name, role) for name, role in interfaces]
        self._tunnels = tunnels
        self._mark = mark.encode()
        self._target = target
        self._first_ports = first_ports
        self._judge = judge
        self._stop = threading.Event()
        self._sockets = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._broken = ""

    def __enter__(self) -> Capture:
        self._by_socket = {}
        for seen in self.seen:
            try:
                raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                self._sockets.enter_context(raw)
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
                raw.bind((seen.interface, EVERY_PROTOCOL))
            except OSError as error:
                self._sockets.close()
                raise CannotLook(
                    f"frames of {seen.interface} cannot be read ({error.strerror})"
                ) from None
            if Path("/sys/class/net", seen.interface, "bridge").is_dir():
                # Otherwise a bridge shows its host only what is meant for the host.
                index = socket.if_nametoindex(seen.interface)
                everything = struct.pack("=iHH8s", index, PACKET_MR_PROMISC, 0, b"")
                raw.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
            raw.setblocking(False)
            self._by_socket[raw] = seen
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for raw, seen in self._by_socket.items():
            statistics = raw.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            seen.dropped = struct.unpack("=II", statistics)[1]
        self._sockets.close()
        if self._broken and error is None:
            raise CannotLook(f"the capture broke ({self._broken})")

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                ready, _, _ = select.select(list(self._by_socket), [], [], 0.2)
                for raw in ready:
                    self._drain(raw)
            for raw in self._by_socket:
                self._drain(raw)
        except OSError as error:  # the interface went
            self._broken = str(error.strerror)

    def _drain(self, raw: socket.socket) -> None:
        seen = self._by_socket[raw]
        for _ in range(10_000):
            try:
                data = raw.recv(65_535)
            except BlockingIOError:
                return
            self.take(seen, data)

    def take(self, seen: Seen, data: bytes) -> None:
        """Count one frame."""
        frame = read_frame(data)
        seen.frames += 1
        seen.kinds[kind_of(frame, self._tunnels)] += 1
        canary = self.canary_in(frame, data)
        if canary:
            seen.canaries[canary] += 1
        forbidden = self._judge(seen.interface, frame) if seen.role.startswith(BRIDGE) else None
        if forbidden:
            seen.forbidden[forbidden] += 1

    def canary_in(self, frame: Frame, data: bytes) -> str:
        """The sender's letter and the probe's number, such as `b07`; nothing if it is no canary."""
        if frame.source == self._target:
            return ""  # an answer, such as "nobody listens here", which quotes the canary
        at = data.find(self._mark)
        if at >= 0:
            start = at + len(self._mark)
            return data[start : start + 1 + MARK_BYTES].decode("ascii", "replace")
        if frame.protocol != "tcp" or frame.destination != self._target:
            return ""
        for first, letter in self._first_ports.items():
            if first <= frame.destination_port < first + 64:
                return f"{letter}{frame.destination_port - first:02d}"
        return ""
