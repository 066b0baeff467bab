"""`revoke` cuts a lost VPS off for good, and says so only when it has seen it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import revoke
from scripts.commands.__main__ import main
from scripts.lifecycle import revoked
from scripts.lifecycle.running import alone
from scripts.node.tools import Said, Tools

NETWORK = "Inter-| Receive\n face |bytes\n    lo: 1 2\n"
HEADING = "  sl  local_address rem_address   st\n"
STREAM = "   0: 0200420A:1F90 0100420A:C350 01 0 0 0 0 0 0 0\n"
LOCAL = "   1: 0100007F:1F90 0100007F:C350 01 0 0 0 0 0 0 0\n"
CLOSING = "   2: 0200420A:1F90 0100420A:C351 06 0 0 0 0 0 0 0\n"


class Machine(Tools):
    """A model node whose containers do as Docker's would; no Docker."""

    def __init__(self, folder: Path, *, kernel: bool) -> None:
        self.proc = folder / "proc"
        self.running = {"uplink", "wireguard", "gateway", "engine"}
        self.interfaces = {"lo", "wg0"}
        self.of_kernel = kernel
        self.streams = STREAM + LOCAL + CLOSING
        self.fails = ""
        self.did: list[str] = []

    @property
    def is_root(self) -> bool:
        return False

    def run(self, *command: str, **_: Any) -> Said:
        words = " ".join(command)
        if self.fails and self.fails in words:
            return Said(1, err="the daemon is away")
        match command[1:]:
            case ["ps", *filters]:
                service = filters[-1].rpartition("=")[2]
                return Said(0, f"id-{service}\n" if service in self.running else "")
            case ["inspect", "--type", "container", *ids]:
                return Said(0, json.dumps([described(it.removeprefix("id-")) for it in ids]))
            case ["exec", _, "cat", "/proc/self/net/dev"]:
                return Said(0, NETWORK + "".join(f" {it}: 0 0\n" for it in self.interfaces))
            case ["exec", _, "cat", "/proc/self/net/tcp"]:
                return Said(0, HEADING + self.streams)
        self.did.append(words)
        if words == "docker rm -f id-uplink":
            self.running.discard("uplink")
            if not self.of_kernel:
                self.interfaces.discard("wg0")
        elif words == "docker exec id-wireguard ip link delete wg0":
            self.interfaces.remove("wg0")
        elif words == "docker restart --time 3 id-gateway":
            self.streams = LOCAL + CLOSING
        else:
            return Said(125, err=f"unexpected: {words}")
        return Said(0)


def described(service: str) -> dict[str, Any]:
    return {"Id": f"id-{service}", "Name": f"/model-{service}-1", "State": {"Status": "running"}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What was unpacked at home."""
    (tmp_path / "secrets").mkdir()
    for name in ("link_token", "tunnel_preshared_key", "tunnel_private_key", "store_key"):
        (tmp_path / "secrets" / name).write_text(f"old {name}")
    (tmp_path / ".env").write_text(
        "COMPOSE_FILE=compose.gpu.yml:services/engine/llamacpp.yml\nA=1\n"
    )
    return tmp_path


def call(home: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(revoke, "Tools", lambda: machine)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    return main(["revoke", "--directory", str(home), *arguments])


def secrets(home: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (home / "secrets").iterdir()}


@pytest.mark.parametrize("kernel", [False, True])
def test_vps_is_cut_off(
    home: Path,
    kernel: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For good: no timer and no reboot starts the tunnel again, and its secrets open nothing."""
    machine = Machine(home, kernel=kernel)

    assert call(home, machine, monkeypatch) == 0

    assert "uplink" not in machine.running
    assert machine.interfaces == {"lo"}
    assert "docker restart --time 3 id-gateway" in machine.did
    assert (home / ".env").read_text() == (
        "COMPOSE_FILE=compose.gpu.yml:services/engine/llamacpp.yml:revoked.yml\nA=1\n"
    )
    assert "uplink: { deploy: { replicas: 0 } }" in (home / "revoked.yml").read_text()
    after = secrets(home)
    assert "old link_token" not in after["link_token"]
    assert "old" not in after["tunnel_preshared_key"]
    assert after["store_key"] == "old store_key"
    said = capsys.readouterr().out
    assert said.startswith("First, in BotFather: /revoke")
    assert "the VPS is cut off" in said
    assert "init --vps ADDRESS --rotate" in said
    assert after["link_token"] not in said
    old = {name: f"old {name}".encode() for name in ("link_token", "tunnel_preshared_key")}
    assert revoked.among(home / "secrets", old) == ["link_token", "tunnel_preshared_key"]
    now = {name: after[name].encode() for name in old}
    assert revoked.among(home / "secrets", now) == []
    assert (home / "secrets" / revoked.LIST).stat().st_mode & 0o777 == 0o600
    assert machine.did.index("systemctl stop node-reconcile@model.service") < machine.did.index(
        "docker rm -f id-uplink"
    ), "a look under way would start it again"


def test_again_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is not done anew."""
    machine = Machine(home, kernel=True)
    call(home, machine, monkeypatch)
    before, machine.did = secrets(home), []

    assert call(home, machine, monkeypatch) == 0

    assert machine.did == []
    assert secrets(home) == before


def test_next_bundle_lifts_it_and_another_call_cuts_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It brings its own .env and secrets; what was revoked before says nothing of these."""
    machine = Machine(home, kernel=False)
    call(home, machine, monkeypatch)
    (home / ".env").write_text("COMPOSE_FILE=compose.gpu.yml\n")
    for name in ("link_token", "tunnel_preshared_key"):
        (home / "secrets" / name).unlink()
        (home / "secrets" / name).write_text("newer")
    machine.running.add("uplink")
    machine.interfaces.add("wg0")

    assert call(home, machine, monkeypatch) == 0

    assert "uplink" not in machine.running
    assert "newer" not in secrets(home).values()


def test_dry_run_cuts_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what would be done."""
    machine = Machine(home, kernel=False)
    before = secrets(home)

    assert call(home, machine, monkeypatch, "--dry-run") == 0

    assert machine.did == []
    assert secrets(home) == before
    assert not (home / "revoked.yml").exists()
    assert "Would remove model-uplink-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fails", "status", "words"),
    [
        ("docker rm", 1, "Not finished: `docker rm -f` failed (the daemon is away)"),
        ("docker ps", 1, "Not finished: "),
        ("docker restart", 1, "Not finished: `docker restart --time` failed"),
    ],
)
def test_what_failed_is_not_called_cut(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: str,
    status: int,
    words: str,
) -> None:
    """And the next call finishes it."""
    machine = Machine(home, kernel=False)
    machine.fails = fails

    assert call(home, machine, monkeypatch) == status

    said = capsys.readouterr()
    assert words in said.err
    assert "is cut off" not in said.out
    machine.fails = ""
    assert call(home, machine, monkeypatch) == 0
    assert "docker restart --time 3 id-gateway" in machine.did


@pytest.mark.parametrize("way", ["interface", "stream", "uplink", "settings", "secrets"])
def test_every_way_that_is_left_is_seen(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """The look at the end trusts nobody's word."""
    machine = Machine(home, kernel=False)
    assert call(home, machine, monkeypatch) == 0
    if way == "interface":
        machine.interfaces.add("wg0")
    elif way == "stream":
        machine.streams += STREAM
    elif way == "uplink":
        machine.running.add("uplink")
    elif way == "settings":
        (home / ".env").write_text("A=1\n")
    else:
        (home / "secrets/link_token").unlink()
        (home / "secrets/link_token").write_text("of an old bundle")
    monkeypatch.setattr(revoke.Home, "steps", lambda self: iter(()))

    assert call(home, machine, monkeypatch) == 2

    assert "NOT CUT: " in capsys.readouterr().err


def test_elsewhere_it_says_where_to_call_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that is no node has nothing to cut."""
    assert call(tmp_path, Machine(tmp_path, kernel=False), monkeypatch) == 1

    said = capsys.readouterr()
    assert "call this on the node at home" in said.err
    assert "BotFather: /revoke" in said.out


def test_terminal_that_is_gone_does_not_keep_it_from_cutting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls it over a connection may lose that in the middle."""
    machine = Machine(home, kernel=False)

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            os.kill(os.getpid(), signal.SIGHUP)
            raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Gone())
        with contextlib.suppress(OSError):
            call(home, machine, monkeypatch)

    assert "uplink" not in machine.running
    assert "old link_token" not in secrets(home).values()


def test_other_command_that_may_undo_it_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is cut off at once all the same; when that has ended, it can be said."""
    machine = Machine(home, kernel=False)

    with alone(home):
        assert call(home, machine, monkeypatch) == 2

    assert "uplink" not in machine.running
    assert "another command is changing this node" in capsys.readouterr().err
    assert call(home, machine, monkeypatch) == 0
