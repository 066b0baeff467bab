"""Plays `docker` for the operator's commands: containers, images and volumes are notes.

The `docker` on PATH is a few lines that hand their arguments and pipes over to the test's own
process, which answers. Compose files are JSON here. What runs in the keeper's image is the
gateway's own code, on a real store: one folder is one volume.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from services.gateway import backup, restore, wrapping
from services.gateway.store import StoreError

CLIENT = """#!{python} -IS
import _socket, array, os, struct, sys
s = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
s.connect({address!r})
words = "\\0".join([os.getcwd(), *sys.argv[1:]]).encode()
fds = array.array("i", [0, 1, 2])
s.sendmsg([struct.pack("!I", len(words))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
s.sendall(words)
sys.exit(s.recv(1)[0])
"""


class Refused(Exception):
    """What `docker` says when it fails."""


class FakeDocker:
    """One machine's Docker."""

    def __init__(self, folder: Path, keeper: str) -> None:
        self.folder = folder
        self.keeper = keeper
        self.calls: list[str] = []
        self.fails: list[str] = []
        """Parts of calls that fail."""
        self.sick: dict[str, str] = {}
        """Images whose containers are unhealthy: `always`, or `once`."""
        self.images: dict[str, str] = {}
        self.built: dict[str, str] = {}
        """What a build makes of them."""
        self.facts: dict[str, tuple[int, list[int], int]] = {}
        self.migrating: set[str] = set()
        """Images whose gateway brings the store into a new form when it starts."""
        self.containers: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, str] = {}
        self.networks: dict[str, str] = {}
        self.heard = ""
        self.store = "model_store"
        self._key = Path("/nonexistent")
        self._made = 0
        self._lock = threading.RLock()
        # An abstract socket: a path of a test's folder is too long for the others.
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(f"\0fake-docker-{os.getpid()}-{id(self)}")
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def client(self) -> str:
        """The program that is `docker` on PATH."""
        return CLIENT.format(python=sys.executable, address=self._listening.getsockname())

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        # Whoever is ended in the middle hears no answer.
        with contextlib.suppress(BrokenPipeError), connection, ExitStack() as stack:
            head, fds, _, _ = socket.recv_fds(connection, 4, 3)
            read, out, err = (
                stack.enter_context(os.fdopen(fd, mode))
                for fd, mode in zip(fds, ("rb", "wb", "wb"), strict=True)
            )
            (length,) = struct.unpack("!I", head)
            words = b""
            while len(words) < length:
                words += connection.recv(length - len(words))
            _, *arguments = words.decode().split("\0")
            code = self.answer(arguments, read, out, err)
            with contextlib.suppress(BrokenPipeError):
                out.flush()
                err.flush()
            connection.sendall(bytes([code]))

    def answer(self, words: list[str], read: IO[bytes], out: IO[bytes], err: IO[bytes]) -> int:
        """Do what a call says. Returns its exit status."""
        try:
            # A copy that streams must not keep others waiting.
            if words[0] in ("exec", "run"):
                self._run(words, read, out)
            else:
                with self._lock:
                    out.write(self._do(words).encode())
        except wrapping.WrongPassphrase:
            return wrapping.WRONG_PASSPHRASE
        except (Refused, StoreError) as why:
            err.write(f"{why}\n".encode())
            return 2
        except BaseException as error:
            err.write(f"{type(error).__name__}: {error}\n".encode())
            return 3
        return 0

    def _note(self, words: Sequence[str]) -> None:
        call = " ".join(words)
        self.calls.append(call)
        if any(part in call for part in self.fails):
            raise Refused("told to fail")

    def _do(self, words: list[str]) -> str:
        self._note(words)
        match words:
            case ["compose", *rest]:
                return self._compose(rest)
            case ["ps", *_] if "-aq" in words:
                return lines(container["Id"] for container in self._ours(words))
            case ["ps", *_] if "{{.Names}}" in words:
                return lines(container["Name"].strip("/") for container in self._ours(words))
            case ["ps", *_]:
                return lines(f"{c['Config']['Image']} {project(c)}" for c in self._ours([]))
            case ["inspect", "--type", "container", *ids]:
                return json.dumps([c for c in self.containers.values() if c["Id"] in ids])
            case ["logs", *_]:
                return "these are its last words\n"
            case ["restart", *_, identity]:
                assert identity in {it["Id"] for it in self.containers.values()}
            case ["rm", *names]:
                self.containers = {n: c for n, c in self.containers.items() if n not in names}
            case ["tag", source, name]:
                self.images[name] = self.images.get(source, source)
            case ["image", "inspect", "--format", "{{.Id}}", name]:
                if name not in self.images:
                    raise Refused("no such image")
                return self.images[name]
            case ["image", "ls", *_]:
                return lines(self.images)
            case ["image", "rm", *names]:
                self.images = {n: i for n, i in self.images.items() if n not in names}
            case ["volume", "inspect", name]:
                if name not in self.volumes:
                    raise Refused("no such volume")
            case ["volume", "create", *options, name]:
                self.volumes[name] = wanted_project(options)
            case [("volume" | "network") as kind, "ls", *_]:
                found = self.volumes if kind == "volume" else self.networks
                want = wanted_project(words)
                return lines(name for name, of in found.items() if want in ("", of))
            case ["volume", "rm", *names]:
                self.volumes = {n: of for n, of in self.volumes.items() if n not in names}
            case ["network", "rm", *names]:
                self.networks = {n: of for n, of in self.networks.items() if n not in names}
            case _:
                raise Refused(f"the fake docker does not know {words}")
        return ""

    def _ours(self, words: Sequence[str]) -> list[dict[str, Any]]:
        want = wanted_project(words)
        return [it for it in self.containers.values() if want in ("", project(it))]

    def _compose(self, words: list[str]) -> str:
        options: dict[str, list[str]] = {"-p": [], "-f": [], "--env-file": []}
        while words[0] in options:
            options[words[0]].append(words[1])
            words = words[2:]
        file = Path(options["-f"][0])
        env_file = Path((options["--env-file"] or [str(file.parent / ".env")])[-1])
        if not env_file.exists():
            raise Refused("put the users into .env")
        settings = dict(line.split("=", 1) for line in env_file.read_text().split())
        text = file.read_text().replace("$VERSION", settings.get("VERSION", "1"))
        config: dict[str, Any] = json.loads(text)
        for overlay in (path for path in map(Path, options["-f"][1:]) if path.exists()):
            config["services"] |= json.loads(overlay.read_text())["services"]
        for secret in config["secrets"].values():
            secret["file"] = str(file.parent / secret["file"])
        command, *rest = words
        services = [it for it in rest if it in config["services"]] or list(config["services"])
        name = (options["-p"] or [config["name"]])[-1]
        match command:
            case "config":
                return json.dumps(config)
            case "build":
                self.images |= self.built
            case "stop":
                for service in services:
                    if container := self.containers.get(f"{name}-{service}-1"):
                        container["State"]["Status"] = "exited"
            case "rm":
                gone = {f"{name}-{service}-1" for service in services}
                self.containers = {n: c for n, c in self.containers.items() if n not in gone}
            case "up":
                for volume in config["volumes"].values():
                    self.volumes.setdefault(volume["name"], name)
                    (self.folder / volume["name"]).mkdir(exist_ok=True)
                self.networks = {f"{name}_tunnel": name}
                self._key = Path(config["secrets"].get("store_key", {}).get("file", self._key))
                for service in services:
                    if config["services"][service].get("deploy") == {"replicas": 0}:
                        continue
                    image = config["services"][service]["image"]
                    self._up(name, service, image, is_anew="--force-recreate" in rest)
        return ""

    def _up(self, name: str, service: str, image: str, *, is_anew: bool) -> None:
        container, identity = f"{name}-{service}-1", self.images[image]
        old = self.containers.get(container)
        if old is None or is_anew or old["Image"] != identity:
            self._made += 1
            old = {"Id": f"id{self._made}", "Name": f"/{container}", "Image": identity}
            old["Mounts"] = [{"Source": str(self._key)}] if service == self.keeper else []
        sick = self.sick.get(identity)
        if sick == "once":
            self.sick.pop(identity)
        labels = {"com.docker.compose.service": service, "com.docker.compose.project": name}
        self.containers[container] = {
            **old,
            "State": {
                "Status": "running",
                "Health": {"Status": "unhealthy" if sick else "healthy"},
            },
            "Config": {"Image": image, "Labels": labels},
        }
        if service == self.keeper and identity in self.migrating:
            (self.folder / self.store / "store.db").write_bytes(b"of the new form")

    def _run(self, words: list[str], read: IO[bytes], out: IO[bytes]) -> None:
        """A command in a container: a question, or a step of the gateway's."""
        self._note(words)
        match words:
            case ["exec", _, "cat", _]:
                out.write(self.heard.encode())
                return
            case ["exec", identity, "python3", "-m", module, *rest]:
                (container,) = (it for it in self.containers.values() if it["Id"] == identity)
                key = Path(container["Mounts"][0]["Source"])
                self._step(module, rest, self.store, key, read, out)
                return
        start = words.index("--entrypoint=python3")
        image, *command = words[start + 1 :]
        assert {"--network=none", "--read-only", "--cap-drop=ALL"} <= set(words)
        if command[0] == "-c" and "it.exists()" in command[1]:
            out.write(f"{(self.folder / self.store / 'store.db').exists()}\n".encode())
            return
        if command[0] == "-c" and "kept_beside" in command[1]:
            file = self.folder / self.store / "store.db"
            out.write(f"{backup.kept_beside(file).exists()}\n".encode())
            return
        if command[0] == "-c":
            wire, spoken, schema = self.facts[self.images.get(image, image)]
            is_all = "services.wire" in command[1]
            out.write(json.dumps([wire, spoken, schema] if is_all else schema).encode())
            return
        if command[1].endswith(".wrapping"):
            if image not in self.images:
                raise Refused("no such image")
            out.write(wrapping.answer(command[2], read.readline()).encode())
            return
        mounts = [dict(pairs(word)) for word in words if word.startswith("--mount=type=")]
        volume = next(mount["source"] for mount in mounts if mount["--mount=type"] == "volume")
        binds = [mount["source"] for mount in mounts if mount["--mount=type"] == "bind"]
        (self.folder / volume).mkdir(exist_ok=True)
        self._step(command[1], command[2:], volume, Path(*binds), read, out)

    def _step(
        self, module: str, rest: list[str], volume: str, key: Path, read: IO[bytes], out: IO[bytes]
    ) -> None:
        file = self.folder / volume / "store.db"
        match module.rpartition(".")[2], rest:
            case "backup", []:
                backup.write(file, key.read_text(), out)
            case "backup", ["keep"]:
                backup.keep(file, key.read_text())
            case "restore", ["stage"]:
                order = restore.read_order(read.readline())
                out.write(json.dumps(restore.stage(file, order, read)).encode())
            case "restore", [step]:
                {"commit": restore.commit, "undo": restore.undo, "done": restore.finish}[step](file)


def lines(words: Iterator[str] | dict[str, str]) -> str:
    return "".join(f"{word}\n" for word in words)


def pairs(word: str) -> Iterator[tuple[str, str]]:
    for part in word.split(","):
        name, _, value = part.rpartition("=")
        yield name, value


def project(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.project"])


def wanted_project(words: Sequence[str]) -> str:
    return next((word.rpartition("=")[2] for word in words if "compose.project=" in word), "")
