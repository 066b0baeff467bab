"""The connector reaches a host through a SOCKS5 proxy, and nobody in any other way."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.socks import NoWay, connect, destination, main, parse_proxy
from tests.socks5 import socks_server
from tests.splicing import door

CONNECTOR = Path(__file__).resolve().parents[3] / "scripts/socks.py"


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets, in capitals, until the end of it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):  # nobody may come
            connection, _ = listener.accept()
            with connection:
                while piece := connection.recv(65_536):
                    connection.sendall(piece.upper())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
    listener.close()
    thread.join()


def through(proxy: str, host: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", str(CONNECTOR), proxy, host, "22"]
    return subprocess.run(command, input=given, capture_output=True, timeout=30)


def test_name_is_looked_up_by_the_proxy(echo: int) -> None:
    """A name that exists there alone; all bytes come back, and so does the end."""
    given = os.urandom(300_000).replace(b"\n", b"x")
    with socks_server({"vps.onion": echo}) as proxy:
        done = through(f"127.0.0.1:{proxy.port}", "vps.onion", given)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == given.upper()
    assert proxy.asked == [(3, "vps.onion", 22)]


def test_address_is_sent_as_such(echo: int) -> None:
    """And not as a name, which the proxy would have to look up."""
    with socks_server({"198.18.5.7": echo}) as proxy:
        done = through(f"127.0.0.1:{proxy.port}", "198.18.5.7", b"hello")

    assert done.stdout == b"HELLO"
    assert proxy.asked == [(1, "198.18.5.7", 22)]


def test_dead_proxy_means_no_connection(
    echo: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even to the host itself, though that would answer; nor is anything looked up."""
    with socks_server({}) as proxy:
        dead = proxy.port
    looked_up: list[object] = []
    real = socket.getaddrinfo

    def look_up(host: object, *rest: object, **more: object) -> object:
        looked_up.append(host)
        return real(host, *rest, **more)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with door(echo) as host:
        assert main([f"127.0.0.1:{dead}", "localhost", str(host.port)]) == 1

        assert host.count == 0
    assert looked_up == ["127.0.0.1"]
    assert "no connection is made without it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "method", "words"),
    [
        (b"\x05\x05\x00\x01" + bytes(6), 0, "the host refused the connection"),
        (b"\x05\x02\x00\x01" + bytes(6), 0, "it is not allowed there"),
        (b"\x05\x63\x00\x01" + bytes(6), 0, "error 99"),
        (b"HTTP/1.0 400 Bad Request", 0, "it speaks no SOCKS5"),
        (b"\x05\x00", 0, "it closed the connection"),
        (b"", 255, "it wants a password"),
    ],
)
def test_refusals_are_said(answer: bytes, method: int, words: str) -> None:
    """Each in words that lead on."""
    with (
        socks_server({}, answer=answer, method=method) as proxy,
        pytest.raises(NoWay, match=words),
    ):
        connect("127.0.0.1", proxy.port, "vps.test", 22)


@pytest.mark.parametrize("text", ["localhost:9050", "9050", "127.0.0.1:0", "127.0.0.1:99999", ""])
def test_proxy_has_no_name(text: str) -> None:
    """Somebody would have to look it up."""
    with pytest.raises(ValueError, match="is no ADDRESS:PORT"):
        parse_proxy(text)

    assert parse_proxy("[::1]:9050") == ("::1", 9050)
    assert main([text, "h", "22"]) == 64


def test_kinds_of_addresses() -> None:
    """RFC 1928, section 5."""
    assert destination("1.2.3.4") == b"\x01\x01\x02\x03\x04"
    assert destination("::1") == b"\x04" + bytes(15) + b"\x01"
    assert destination("a.onion") == b"\x03\x07a.onion"
    with pytest.raises(NoWay):
        destination("a" * 256)
