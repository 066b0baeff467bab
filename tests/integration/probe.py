"""Owns what a test does from inside a container: one call, its result on standard output.

Runs in the image `peer`, which has Python's standard library alone.
"""

import http.server
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

PATIENCE_SECONDS = 3.0


def main(arguments: list[str]) -> None:
    """`probe.py ACTION ARGUMENT...`: exits with 0 and the answer, or with 1 and the error."""
    action, *rest = arguments
    try:
        print(ACTIONS[action](*rest))
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)


def tcp(address: str, port: str) -> str:
    """Send a line, return the line that comes back."""
    with socket.create_connection((address, int(port)), PATIENCE_SECONDS) as connection:
        return exchange(connection)


def udp(address: str, port: str, hex_payload: str = "70696e67") -> str:
    """Send one datagram, return the answer in hex."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.5)
        sender.sendto(bytes.fromhex(hex_payload), (address, int(port)))
        return sender.recv(2048).hex()


def dns(resolver: str, name: str) -> str:
    """Ask for the IPv4 address of a name, return the size of the answer in bytes."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    return str(len(udp(resolver, "53", question.hex())) // 2)


def tls(path: str, server_name: str, authority: str, line: str = "ping") -> str:
    """Speak TLS over a Unix socket, checking the far end's certificate; return its answer."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False  # the name under test may be written in capitals, or missing
    with unix(path) as raw, context.wrap_socket(raw, server_hostname=server_name or None) as secure:
        return exchange(secure, line)


def hold_tls(path: str, server_name: str, authority: str) -> str:
    """Speak TLS over a Unix socket, then send each line of standard input; never read."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    with unix(path) as raw, context.wrap_socket(raw, server_hostname=server_name) as secure:
        exchange(secure)
        print("ready", flush=True)
        for line in sys.stdin:
            secure.sendall(line.encode())
    return "done"


def plain(path: str, text: str) -> str:
    """Send text as it is to a Unix socket, return what comes back; nothing is an error."""
    with unix(path) as connection:
        if text:  # even an empty send fails where the other side has closed
            connection.sendall(text.encode().decode("unicode_escape").encode())
        return answer(connection)


def bulk(address: str, port: str, size_bytes: str) -> str:
    """Send many bytes to an echo and return how many came back unchanged."""
    payload = bytes(range(256)) * (int(size_bytes) // 256)
    received = bytearray()
    with socket.create_connection((address, int(port)), PATIENCE_SECONDS) as connection:
        sender = threading.Thread(target=connection.sendall, args=(payload,))
        sender.start()
        while len(received) < len(payload):
            received += connection.recv(65536) or fail("closed early")
        sender.join()
    if received != payload:
        fail("bytes changed on the way")
    return str(len(payload))


def pump(address: str, port: str, seconds: str) -> str:
    """Send to an echo as fast as it goes; return what came back in even and in odd phases."""
    stop = threading.Event()
    received = [0, 0]
    with socket.create_connection((address, int(port)), PATIENCE_SECONDS) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        sender = threading.Thread(target=send_until, args=(connection, stop))
        sender.start()
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            received[phase() % 2] += len(connection.recv(65536)) or int(fail("closed early"))
        stop.set()
        drain(connection)
        sender.join()
    return f"{received[0]} {received[1]}"


def phase() -> int:
    """The number of the present half second: the same in every process of this machine."""
    return int(time.time() * 2)


def send_until(connection: socket.socket, stop: threading.Event) -> None:
    payload = bytes(65536)
    while not stop.is_set():
        connection.sendall(payload)
    connection.shutdown(socket.SHUT_WR)


def drain(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def bot_api(port: str, certificate: str) -> str:
    """Serve as a Bot API server does, over TLS; tell of the host that each caller asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            print(f"asked host={self.headers['Host']}", flush=True)
            body = b'{"ok": true, "result": {"username": "own"}}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = socketserver.TCPServer(("0.0.0.0", int(port)), Handler)  # HTTPServer asks for its name
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("listening", flush=True)
    server.serve_forever()
    return "ended"


def unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect("\0" + path[1:] if path.startswith("@") else path)
    return connection


def exchange(connection: socket.socket, line: str = "ping") -> str:
    connection.sendall(line.encode() + b"\n")
    return answer(connection)


def answer(connection: socket.socket) -> str:
    return (connection.recv(4096) or fail("closed without an answer")).decode().strip()


def fail(reason: str) -> NoReturn:
    raise ValueError(reason)


ACTIONS: dict[str, Callable[..., str]] = {
    "tcp": tcp,
    "udp": udp,
    "dns": dns,
    "tls": tls,
    "hold-tls": hold_tls,
    "plain": plain,
    "bulk": bulk,
    "pump": pump,
    "bot-api": bot_api,
}

if __name__ == "__main__":
    main(sys.argv[1:])
