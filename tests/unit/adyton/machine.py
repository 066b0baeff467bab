"""A machine with one node on it: its folder, a fake `docker` and `systemctl`, a real store."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.__main__ import main
from scripts.lifecycle import sealing
from scripts.node import arguments
from scripts.node.tools import Said, Tools
from services.gateway import wrapping
from services.gateway.schema import MIGRATIONS
from services.gateway.store import Piece, Store
from tests.unit.adyton.fake_docker import FakeDocker
from tests.unit.fakes import KEY, USER

CANARY = "quetzalcoatlus"
STORE_VERSION = len(MIGRATIONS)
PASSPHRASE = "six words that were drawn by lot"
NETWORK = {"image": "node/wireguard:$VERSION", "secrets": [{"source": "tunnel_private_key"}]}
STORE_MOUNT = {"type": "volume", "source": "store", "target": "/var/lib/gateway"}
COMPOSE: dict[str, dict[str, Any]] = {
    "compose.gpu.yml": {
        "name": "model",
        "services": {
            "wireguard": {"image": "node/wireguard:$VERSION"},
            "uplink": NETWORK,
            "gateway": {
                "image": "node/gateway:$VERSION",
                "user": f"{os.getuid()}:{os.getgid()}",
                "mem_limit": "536870912",
                "tmpfs": ["/tmp:size=1m"],
                "volumes": [STORE_MOUNT],
                "secrets": [{"source": "link_token"}, {"source": "store_key"}],
            },
            "engine": {"image": "vendor/engine:v1"},
        },
        "volumes": {"store": {"name": "model_store"}, "weights": {"name": "model_weights"}},
        "secrets": {
            name: {"file": f"secrets/{name}"}
            for name in ("link_token", "store_key", "tunnel_private_key")
        },
    },
    "compose.vps.yml": {
        "name": "relay",
        "services": {
            "wireguard": {"image": "node/wireguard:$VERSION"},
            "uplink": NETWORK,
            "relay": {"image": "node/relay:$VERSION", "secrets": [{"source": "bot_token"}]},
        },
        "volumes": {"egress-socket": {"name": "relay_egress-socket"}},
        "secrets": {
            name: {"file": f"secrets/{name}"} for name in ("bot_token", "tunnel_private_key")
        },
    },
    "compose.gpu.worker.yml": {
        "name": "worker",
        "services": {
            "wireguard": {"image": "node/wireguard:$VERSION"},
            "uplink": NETWORK,
            "door": {
                "image": "node/router:$VERSION",
                "depends_on": {"wireguard": {"restart": True}},
            },
            "engine": {"image": "vendor/engine:v1"},
        },
        "volumes": {"weights": {"name": "worker_weights"}},
        "secrets": {"tunnel_private_key": {"file": "secrets/tunnel_private_key"}},
    },
}
FILES = {
    "model": "compose.gpu.yml",
    "relay": "compose.vps.yml",
    "worker": "compose.gpu.worker.yml",
}
RUN = Tools.run
SYSTEMCTL = """#!/bin/sh
echo "$@" >>"$MACHINE/units"
case $1 in
is-active | is-enabled) grep -qxF -e "$3" "$MACHINE/enabled" ;;
disable) : >"$MACHINE/enabled" ;;
esac
"""


class Machine:
    """One node's machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "model") -> None:
        self.folder = folder
        self.kind = kind
        self.home = folder / "opt" / kind
        self.docker_folder = folder / "docker"
        self.bin = folder / "bin"
        self.file = FILES[kind]
        for path in (self.home / "secrets", self.docker_folder, self.bin):
            path.mkdir(parents=True)
        self.write_bin("systemctl", SYSTEMCTL)
        (self.docker_folder / "enabled").touch()
        self.docker = FakeDocker(self.docker_folder, "gateway")
        self.write_bin("docker", self.docker.client)
        self.docker.facts = {
            name: (2, [1, 2], STORE_VERSION) for name in ("gateway-1", "gateway-2", "relay-1")
        }
        self.docker.images = {
            "node/wireguard:1": "wireguard-1",
            "node/gateway:1": "gateway-1",
            "node/relay:1": "relay-1",
            "vendor/engine:v1": "engine-1",
        }
        if kind == "worker":
            self.docker.images["node/router:1"] = "router-1"
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(sealing, "DERIVATIONS", "65536")  # nobody tries theirs
        self.path = f"{self.bin}:{os.environ['PATH']}"
        self.be_here()
        self.furnish()

    def be_here(self) -> None:
        """Let the commands run on this machine."""
        self.monkeypatch.setenv("PATH", self.path)
        self.monkeypatch.setenv("MACHINE", str(self.docker_folder))
        self.monkeypatch.setattr(arguments, "ROOT", self.home)
        self.monkeypatch.setattr(Tools, "run", lambda *words, **more: self.ask(*words, **more))

    def ask(self, tools: Tools, *command: str, **more: Any) -> Said:
        """Run a command; Docker without a process of its own, unless something streams."""
        if command[0] != "docker":
            return RUN(tools, *command, **more)
        out, err = io.BytesIO(), io.BytesIO()
        given = io.BytesIO(str(more.get("stdin", "")).encode())
        code = self.docker.answer(list(command[1:]), given, out, err)
        return Said(code, out.getvalue().decode(), err.getvalue().decode())

    def keep_key_in_memory(self, kind: str) -> Path:
        """Let the node have what a bundle of `init --store-key KIND` brings. Returns the file."""
        self.monkeypatch.setattr(wrapping, "COST", 1 << 10)  # nobody tries theirs
        self.write_bin("stat", "#!/bin/sh\necho tmpfs\n")
        key = self.folder / "run/node-key/store_key"
        compose = json.loads(json.dumps(COMPOSE[self.file]))
        compose["secrets"]["store_key"]["file"] = str(key)
        (self.home / self.file).write_text(json.dumps(compose), encoding="utf-8")
        named = f"COMPOSE_FILE={self.file}:compose.gpu.{kind}.yml"
        (self.home / ".env").write_text(f"USERS=7\n{named}\n", encoding="utf-8")
        return key

    def write_bin(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def furnish(self) -> None:
        """What the bundle brings."""
        (self.home / self.file).write_text(json.dumps(COMPOSE[self.file]), encoding="utf-8")
        (self.home / ".env").write_text("USERS=7\n", encoding="utf-8")
        (self.home / ".env").chmod(0o600)
        values = {"store_key": KEY, "link_token": "L" * 43, "bot_token": "123:" + "T" * 35}
        for name in COMPOSE[self.file]["secrets"]:
            secret = self.home / "secrets" / name
            secret.unlink(missing_ok=True)
            secret.write_text(values.get(name, "private"), encoding="utf-8")
            secret.chmod(0o400)

    @property
    def calls(self) -> list[str]:
        return self.docker.calls

    @property
    def units(self) -> list[str]:
        file = self.docker_folder / "units"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    @property
    def store(self) -> Path:
        return self.docker_folder / "model_store" / "store.db"

    def states(self) -> dict[str, tuple[str, str]]:
        """What runs: by service, its status and its image."""
        return {
            name.split("-")[1]: (it["State"]["Status"], it["Image"])
            for name, it in self.docker.containers.items()
        }

    def up(self) -> None:
        """Start the node, with a conversation in its store."""
        assert self.compose("up") == 0
        if self.kind == "model":
            self.say(CANARY)

    def compose(self, *words: str) -> int:
        return subprocess.run(
            ["docker", "compose", "-f", str(self.home / self.file), *words], check=False
        ).returncode

    def say(self, text: str) -> None:
        """One ask with a known placeholder."""
        store = Store(self.store, KEY)
        reply = store.add_reply((USER, 0), 5)
        store.add_ask(reply.id, USER, (USER, 0), "en", [Piece(5, text, 0)])
        store.record_part(reply.id, 0, 70)
        store.close()

    def said(self, key: str = KEY) -> list[str]:
        """What the store's asks say."""
        store = Store(self.store, key)
        try:
            return [ask.text for ask in store.asks()]
        finally:
            store.close()

    def passphrase_file(self, text: str = PASSPHRASE) -> Path:
        file = self.folder / "passphrase"
        file.write_text(f"{text}\n", encoding="utf-8")
        return file

    def call(self, *words: str) -> int:
        return main([str(word) for word in words])

    def back_up(self, name: str = "backup.gpg", *words: str) -> Path:
        out = self.folder / name
        sealed = ("--passphrase-file", str(self.passphrase_file()))
        assert self.call("backup", "--out", str(out), *sealed, *words) == 0
        return out

    def restore(self, file: Path, *words: str) -> int:
        passphrase = ("--passphrase-file", str(self.passphrase_file()))
        return self.call("restore", str(file), *passphrase, *words)
