"""Carries standard input and output to a host through a SOCKS5 proxy: OpenSSH's ProxyCommand.

    python3 scripts/socks.py PROXY_ADDRESS:PORT HOST PORT

It connects to the proxy and to nothing else, and looks up no name: HOST goes to the proxy as it is
(RFC 1928). Python's standard library alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import selectors
import socket
import struct
import sys

SECONDS = 120.0  # a circuit through Tor takes its time
PIECE = 65_536

REFUSALS = {
    1: "it failed",
    2: "it is not allowed there",
    3: "the network is unreachable from there",
    4: "the host is unreachable from there, or has no such name",
    5: "the host refused the connection: check that sshd listens on that port",
    6: "the host did not answer in time",
}


class NoWay(Exception):
    """There is no connection through the proxy; the message says why."""


def main(arguments: list[str]) -> int:
    try:
        proxy, host, port = arguments
        connection = connect(*parse_proxy(proxy), host, int(port))
    except ValueError:
        print(__doc__, file=sys.stderr)
        return 64
    except NoWay as why:
        print(f"proxy: {why}", file=sys.stderr)
        return 1
    with connection:
        carry(connection, sys.stdin.fileno(), sys.stdout.fileno())
    return 0


def parse_proxy(text: str) -> tuple[str, int]:
    """Address and port. Raises ValueError: for a name, too, which would have to be looked up."""
    host, _, port = text.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
        number = int(port)
        if not 1 <= number <= 65535:
            raise ValueError
    except ValueError:
        raise ValueError(f"{text} is no ADDRESS:PORT") from None
    return address, number


def connect(proxy: str, proxy_port: int, host: str, port: int) -> socket.socket:
    """A connection to a host, made by the proxy. Raises NoWay."""
    try:
        connection = socket.create_connection((proxy, proxy_port), SECONDS)
    except OSError as error:
        raise NoWay(
            f"nothing answers at {proxy}:{proxy_port} ({error.strerror or error}): start it; "
            "no connection is made without it"
        ) from None
    try:
        shake_hands(connection, host, port)
        connection.settimeout(None)
    except (OSError, NoWay) as error:
        connection.close()
        if isinstance(error, NoWay):
            raise
        raise NoWay(f"{proxy}:{proxy_port} does not go on ({error})") from None
    return connection


def shake_hands(connection: socket.socket, host: str, port: int) -> None:
    connection.sendall(b"\x05\x01\x00")
    version, method = receive(connection, 2)
    if version != 5:
        raise NoWay("it speaks no SOCKS5: check its port")
    if method != 0:
        raise NoWay("it wants a password: use one that does not")
    connection.sendall(b"\x05\x01\x00" + destination(host) + struct.pack("!H", port))
    version, refusal, _, kind = receive(connection, 4)
    if version != 5 or kind not in (1, 3, 4):
        raise NoWay("it speaks no SOCKS5: check its port")
    if refusal:
        raise NoWay(f"it could not reach {host}: {REFUSALS.get(refusal, f'error {refusal}')}")
    length = receive(connection, 1)[0] if kind == 3 else {1: 4, 4: 16}[kind]
    receive(connection, length + 2)  # from where it has connected


def destination(host: str) -> bytes:
    """An address as such; anything else is a name, for the proxy to look up."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (b"\x01" if address.version == 4 else b"\x04") + address.packed
    name = host.encode("idna") if not host.isascii() else host.encode()
    if not 1 <= len(name) <= 255:
        raise NoWay("the host's name is too long")
    return b"\x03" + bytes([len(name)]) + name


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes. Raises NoWay, OSError."""
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise NoWay("it closed the connection")
        found += piece
    return found


def carry(connection: socket.socket, source: int, sink: int) -> None:
    """Both ways until the host has ended; the end of `source` is passed on."""
    with selectors.DefaultSelector() as ready, contextlib.suppress(OSError):  # either may be gone
        ready.register(connection, selectors.EVENT_READ)
        ready.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is connection:
                    piece = connection.recv(PIECE)
                    if not piece:
                        return
                    write_all(sink, piece)
                elif piece := os.read(source, PIECE):
                    connection.sendall(piece)
                else:
                    ready.unregister(source)
                    connection.shutdown(socket.SHUT_WR)


def write_all(sink: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(sink, piece) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
