"""A small SOCKS5 server that knows names which nobody else does, and says what it was asked for."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

from tests.splicing import Listener, splice


class SocksServer(Listener):
    """Connects to the ports that `names` gives; refuses all else."""

    def __init__(self, names: dict[str, int], *, answer: bytes = b"", method: int = 0) -> None:
        """With `answer` it says that after the request, and no more."""
        self.names = names
        self.answer = answer
        self.method = method
        self.asked: list[tuple[int, str, int]] = []
        """Kind of address, host and port of each request."""
        super().__init__(self._answer)

    def _answer(self, connection: socket.socket) -> None:
        done = contextlib.suppress(OSError, struct.error, IndexError, ValueError)
        with connection, connection.makefile("rb") as file, done:
            version, count = file.read(2)
            file.read(count)
            assert version == 5
            connection.sendall(bytes([5, self.method]))
            _, _, _, kind = file.read(4)
            host = (
                file.read(file.read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(file.read(4))
            )
            (port,) = struct.unpack("!H", file.read(2))
            self.asked.append((kind, host, port))
            if self.answer:
                connection.sendall(self.answer)
                return
            if host not in self.names:
                connection.sendall(b"\x05\x04\x00\x01" + bytes(6))
                return
            with socket.create_connection(("127.0.0.1", self.names[host])) as target:
                connection.sendall(b"\x05\x00\x00\x03\x04name" + struct.pack("!H", port))
                splice(connection, target)


@contextlib.contextmanager
def socks_server(
    names: dict[str, int], *, answer: bytes = b"", method: int = 0
) -> Iterator[SocksServer]:
    server = SocksServer(names, answer=answer, method=method)
    try:
        yield server
    finally:
        server.close()
