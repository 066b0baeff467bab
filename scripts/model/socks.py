"""Opens connections through a proxy: SOCKS5 (RFC 1928, RFC 1929) or HTTP's CONNECT (RFC 9110).

Names are looked up by the proxy, never here; and with a proxy nothing goes past it.
"""

from __future__ import annotations

import base64
import re
import socket
import struct
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from scripts.model import WeightsFailed

REFUSALS = {
    1: "it failed",
    2: "its rules forbid it",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the host refuses connections",
    6: "it took too long",
    7: "it does not know the command",
    8: "it does not know this kind of address",
}
DEFAULT_PORTS = {"socks5": 1080, "http": 8080}


class ProxyFailed(OSError):
    """The proxy does not answer, or did not connect; nothing was sent past it."""


@dataclass(frozen=True)
class Proxy:
    """Where it listens, and what it speaks."""

    kind: str
    """`socks5` or `http`."""
    host: str
    port: int
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        return f"{self.kind}://{self.host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """Read an address such as `socks5h://127.0.0.1:9050`. Raises WeightsFailed."""
    kinds = {"socks5": "socks5", "socks5h": "socks5", "http": "http"}
    try:
        parts = urlsplit(text)
        kind, port = kinds.get(parts.scheme), parts.port
    except ValueError:
        parts, kind, port = urlsplit(""), None, None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    is_long = max(len(user.encode()), len(password.encode())) > 255  # RFC 1929 has no room
    if kind is None or not parts.hostname or parts.path.strip("/") or parts.query or is_long:
        raise WeightsFailed(
            "the proxy's address is not understood: give one such as socks5h://127.0.0.1:9050 "
            "or http://127.0.0.1:8080"
        )
    return Proxy(kind, parts.hostname, port or DEFAULT_PORTS[kind], user, password)


def dial(host: str, port: int, proxy: Proxy | None, seconds: float) -> socket.socket:
    """A connection to a host. Raises OSError; ProxyFailed where the proxy is to blame.

    Raises UnicodeError for what cannot be a host's name, before anything is opened.
    """
    name = host.encode("idna")
    if len(name) > 253:
        raise UnicodeError("a host's name has at most 253 signs")
    if proxy is None:
        return socket.create_connection((host, port), seconds)
    try:
        connection = socket.create_connection((proxy.host, proxy.port), seconds)
    except OSError as error:
        raise ProxyFailed(
            f"the proxy {proxy} does not answer ({error.strerror or error})"
        ) from None
    try:
        if proxy.kind == "socks5":
            _ask_socks(connection, name, port, proxy)
        else:
            _ask_http(connection, host, port, proxy)
    except ProxyFailed:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise ProxyFailed(f"the proxy {proxy} broke off ({error.strerror or error})") from None
    return connection


def _ask_socks(connection: socket.socket, name: bytes, port: int, proxy: Proxy) -> None:
    connection.sendall(b"\x05\x02\x00\x02" if proxy.user else b"\x05\x01\x00")
    version, method = _read(connection, 2, proxy)
    if version != 5:
        raise ProxyFailed(f"what listens at {proxy} is not a SOCKS5 proxy")
    if method == 2 and proxy.user:
        user, password = proxy.user.encode(), proxy.password.encode()
        connection.sendall(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        if _read(connection, 2, proxy)[1] != 0:
            raise ProxyFailed(f"the proxy {proxy} refuses this user and password")
    elif method != 0:
        raise ProxyFailed(f"the proxy {proxy} wants a user and a password")
    # 1: connect; 3: by name, so that the proxy looks it up.
    connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port))
    _, answer, _, kind = _read(connection, 4, proxy)
    if answer != 0:
        why = REFUSALS.get(answer, f"its answer is {answer}")
        raise ProxyFailed(f"the proxy {proxy} did not connect to {name.decode()}: {why}")
    length = {1: 4, 4: 16}.get(kind) or _read(connection, 1, proxy)[0]
    _read(connection, length + 2, proxy)


def _ask_http(connection: socket.socket, host: str, port: int, proxy: Proxy) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user:
        secret = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {secret}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the host's
        head += _read(connection, 1, proxy)
        if len(head) > 16_384:
            raise ProxyFailed(f"what listens at {proxy} is not an HTTP proxy")
    found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if not found or not found[1].startswith(b"2"):
        status = found[1].decode() if found else "no status"
        raise ProxyFailed(f"the proxy {proxy} did not connect to {host}: {status}")


def _read(connection: socket.socket, count: int, proxy: Proxy) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ProxyFailed(f"the proxy {proxy} broke off")
        data += piece
    return data
