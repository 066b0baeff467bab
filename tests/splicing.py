"""Carries bytes between two sockets, and counts who comes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


def splice(one: socket.socket, other: socket.socket) -> None:
    """Both ways, until both have ended; the end of each is passed on."""
    back = threading.Thread(target=pump, args=(other, one), daemon=True)
    back.start()
    pump(one, other)
    back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Listener:
    """Counts the connections to a port of its own, and takes each in a thread of its own."""

    def __init__(self, take: Callable[[socket.socket], None]) -> None:
        self.count = 0
        """Of the connections so far."""
        self._take = take
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        # Wakes who waits in accept(), and refuses from now on.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.count += 1
                threading.Thread(target=self._take, args=(connection,), daemon=True).start()


class Door(Listener):
    """Stands before a port and counts the connections to it."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        super().__init__(self._pass_on)

    def _pass_on(self, connection: socket.socket) -> None:
        target = ("127.0.0.1", self._target_port)
        done = contextlib.suppress(OSError)
        with connection, done, socket.create_connection(target) as there:
            splice(connection, there)


@contextlib.contextmanager
def door(target_port: int) -> Iterator[Door]:
    standing = Door(target_port)
    try:
        yield standing
    finally:
        standing.close()
