"""A hub of models, and a SOCKS5 proxy, both on this machine, that fail as a test says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it has, how it fails next, and what it was asked."""

    files: dict[str, bytes]
    repository: str = "maker/Small-1"
    faults: list[tuple[str, int]] = field(default_factory=list)
    """For coming requests of files: (cut, bytes), (status, code), (wait, Retry-After), (ok, 0)."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Paths and headers, in order."""
    etags: bool = True
    ranges: bool = True
    lies: dict[str, bytes] = field(default_factory=dict)
    """Served instead of what the listing says."""
    redirect: str = ""
    """Where files really are, such as another server."""
    commits: list[str] = field(default_factory=lambda: [COMMIT])
    """What a branch stands for, from now on."""
    url: str = ""

    def listing(self, revision: str) -> bytes:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content)}
            if name.endswith((".safetensors", ".gguf", ".bin", ".pth")):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
                entry["blobId"] = "0" * 40
            else:
                blob = b"blob %d\0" % len(content) + content
                entry["blobId"] = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
            siblings.append(entry)
        commit = revision if revision in self.commits else self.commits[-1]
        return json.dumps({"sha": commit, "siblings": siblings}).encode()

    def served(self) -> list[str]:
        """Names of files that were asked for, in order."""
        return [path.rpartition("/")[2] for path, _ in self.asked if "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.path, dict(self.headers.items())))
        self.close_connection = True
        revision = path.removeprefix(f"/api/models/{hub.repository}/revision/")
        if path.startswith("/api/"):
            known = revision in ("main", *hub.commits)
            return self.answer(200 if known else 404, hub.listing(revision) if known else b"")
        name = re.sub(rf"^/(?:{hub.repository}/resolve/[0-9a-f]+|files)/", "", path)
        if name not in hub.files:
            return self.answer(404, b"")
        if hub.redirect and "/resolve/" in path:
            return self.answer(302, b"", {"Location": f"{hub.redirect}/files/{name}"})
        return self.file(hub.lies.get(name, hub.files[name]))

    def file(self, content: bytes) -> None:
        kind, value = self.hub.faults.pop(0) if self.hub.faults else ("ok", 0)
        if kind == "status":
            return self.answer(value, b"no")
        if kind == "wait":
            return self.answer(429, b"slower", {"Retry-After": str(value)})
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"' if self.hub.etags else ""
        headers = {"ETag": etag} if etag else {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked and self.hub.ranges else 0
        if begin and self.headers.get("If-Range") not in (None, etag):
            begin = 0
        if begin >= len(content) > 0 and asked and begin:
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if begin:
            last = len(content) - 1
            headers["Content-Range"] = f"bytes {begin}-{last}/{len(content)}"
        cut = value if kind == "cut" else None
        return self.answer(206 if begin else 200, content[begin:], headers, cut)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None and cut % 2:  # every other one is reset instead of ended
            reset = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

    def log_message(self, *said: object) -> None:
        pass


@contextlib.contextmanager
def running(hub: Hub, tls: ssl.SSLContext | None = None) -> Iterator[Hub]:
    """Serve a hub on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    hub.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Socks:
    """A SOCKS5 proxy that knows some names, and what it was asked to connect to."""

    names: dict[str, tuple[str, int]]
    login: tuple[str, str] | None = None
    refuses: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def proxying(socks: Socks) -> Iterator[Socks]:
    """Run a SOCKS5 proxy on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    socks.url = f"socks5h://127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=_serve, args=(socks, client), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield socks
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _serve(socks: Socks, client: socket.socket) -> None:
    with client, contextlib.suppress(OSError, struct.error):
        stream = client.makefile("rwb", buffering=0)
        _, count = stream.read(2)
        methods = stream.read(count)
        if socks.login:
            if 2 not in methods:
                stream.write(b"\x05\xff")
                return
            stream.write(b"\x05\x02")
            _, length = stream.read(2)
            user = stream.read(length).decode()
            password = stream.read(stream.read(1)[0]).decode()
            stream.write(b"\x01" + bytes([(user, password) != socks.login]))
            if (user, password) != socks.login:
                return
        else:
            stream.write(b"\x05\x00")
        stream.read(4)
        name = stream.read(stream.read(1)[0]).decode()
        (port,) = struct.unpack(">H", stream.read(2))
        socks.asked.append((name, port))
        target = socks.names.get(name)
        code = socks.refuses or (0 if target else 4)
        stream.write(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))
        if code or not target:
            return
        with socket.create_connection(target) as server:
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
