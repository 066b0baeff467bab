"""`deploy` over a real sshd, whose sessions see folders of the test's in place of the machine's.

Docker is a stand-in on both sides. Takes root: the sessions have a mount namespace of their own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.commands.__main__ import main
from tests.socks5 import socks_server
from tests.splicing import door

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = Path(__file__).with_name("docker.py")
SSHD = "/usr/sbin/sshd"

INSIDE = """\
mount --bind {root}/opt /opt
mount --bind {root}/run /run
mount --bind {root}/systemd /etc/systemd/system
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class Vps:
    """A host that can be logged in to."""

    root: Path
    port: int
    identity: Path

    @property
    def home(self) -> Path:
        return self.root / "opt/relay"

    def fingerprint(self) -> str:
        said = run("ssh-keygen", "-lf", f"{self.root}/host_key.pub")
        return said.split()[1]

    def images(self) -> Iterator[Path]:
        """What its Docker has."""
        return (self.root / "docker").glob("node_*")

    def switched(self) -> list[str]:
        """What its systemd was told."""
        return (self.root / "docker/systemctl").read_text().splitlines()

    def calls(self) -> list[str]:
        return (self.root / "docker/calls").read_text().splitlines()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def stand_in(folder: Path, state: Path) -> None:
    """Docker, and systemd's command, for whoever has this folder in PATH."""
    folder.mkdir()
    state.mkdir()
    words = shlex.join([sys.executable, str(STAND_IN)])
    for name, text in {
        "docker": f'DOCKER_STATE={state} exec {words} "$@"',
        "systemctl": f'echo "$@" >>{state}/systemctl',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


@pytest.fixture
def vps(tmp_path: Path) -> Iterator[Vps]:
    """An sshd of the test's own, with a key of its own."""
    root = tmp_path / "vps"
    for name in ("opt", "run/systemd/system", "systemd"):
        (root / name).mkdir(parents=True)
    stand_in(root / "bin", root / "docker")
    for key in ("host_key", "login"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key))
    inside = INSIDE.format(root=shlex.quote(str(root)))
    (root / "enter").write_text(
        f"#!/bin/sh\nexport PATH={root}/bin:$PATH\n"
        f"exec unshare --mount --propagation private sh -ec {shlex.quote(inside)}\n"
    )
    (root / "enter").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    (root / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {root}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {root}/login.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nForceCommand {root}/enter\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    log = (root / "sshd.log").open("w")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(root / "sshd_config")], stderr=log)
    try:
        wait_for_greeting(port, process)
        yield Vps(root, port, root / "login")
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def wait_for_greeting(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("sshd does not answer")


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundles as `init` makes them, and the operator's own stand-in for Docker."""
    stand_in(tmp_path / "bin", tmp_path / "here")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    token = tmp_path / "token"
    token.write_text("123456789:" + "A" * 35)
    arguments = ["--vps", "198.18.5.7", "--users", "11", "--weights", "Model"]
    out = tmp_path / "nodes"
    arguments += ["--workers", "2", "--workers-listen", "198.18.5.8:51821"]
    assert main(["init", "--out", str(out), *arguments, "--token-file", str(token)]) == 0
    return out


def deploy(nodes: Path, vps: Vps, host: str, *arguments: str, node: str = "relay") -> int:
    command = ["deploy", node, host, "--out", str(nodes), "--identity", str(vps.identity)]
    return main([*command, "--host-key", vps.fingerprint(), "--wait", "20", *arguments])


def test_bundle_images_and_units_arrive(
    vps: Vps, nodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first time all of it; the second time only what differs. No copy of secrets stays."""
    with door(vps.port) as host:
        # 2: the doctor looks at a stand-in, and finds a lot amiss.
        assert deploy(nodes, vps, f"127.0.0.1:{host.port}", "--images") == 2
        first = capsys.readouterr().out
        assert deploy(nodes, vps, f"127.0.0.1:{host.port}", "--images") == 2
        second = capsys.readouterr().out

        assert host.count == 3, "one to see its key, and one login each"
    assert "3 of 3 sent" in first
    assert "all are there" in second
    assert "relay: all healthy" in first
    assert "failure: " in first
    assert (vps.home / "secrets/bot_token").stat().st_mode & 0o777 == 0o400
    assert (vps.home / "secrets/bot_token").stat().st_uid == 10001
    assert (vps.root / "systemd/node@.service").exists()
    assert not list((vps.root / "run").glob("bundle*"))
    assert (
        vps.switched()
        == [
            "daemon-reload",
            "enable --now node@relay",
        ]
        * 2
    )
    ups = [call for call in vps.calls() if call.startswith("compose up")]
    assert ups == [
        "compose up --detach --quiet-pull --no-build --force-recreate",
        "compose up --detach --quiet-pull --no-build",
    ]
    assert (vps.root / "docker/up").read_text() == "/opt/relay"
    assert sum(call.startswith("load") for call in vps.calls()) == 1
    arguments = (vps.root / "sshd.log").read_text() + "\n".join(vps.calls())
    assert (vps.home / "secrets/bot_token").read_text() not in arguments + first


def test_changed_secret_makes_the_containers_anew(vps: Vps, nodes: Path) -> None:
    """Compose would not see it."""
    host = f"127.0.0.1:{vps.port}"
    deploy(nodes, vps, host)
    assert main(["init", "--out", str(nodes), "--rotate"]) == 0

    deploy(nodes, vps, host)

    ups = [call for call in vps.calls() if call.startswith("compose up")]
    assert [call.endswith("--force-recreate") for call in ups] == [True, True]


def test_another_host_is_not_spoken_to(
    vps: Vps, nodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither at first, when nobody confirms its key, nor later, when the key is another one."""
    host = f"127.0.0.1:{vps.port}"
    command = ["deploy", "relay", host, "--out", str(nodes), "--identity", str(vps.identity)]
    assert main(command) == 1
    assert f"it shows {vps.fingerprint()}" in capsys.readouterr().err
    assert main([*command, "--host-key", "SHA256:other"]) == 1
    assert "somebody may be between" in capsys.readouterr().err
    assert not (nodes / "known_hosts").exists()

    deploy(nodes, vps, host)
    known = nodes / "known_hosts"
    name, kind, _ = known.read_text().split()
    other = (vps.root / "login.pub").read_text().split()[1]
    known.write_text(f"{name} {kind} {other}\n")
    shutil.rmtree(vps.home)
    capsys.readouterr()

    assert deploy(nodes, vps, host) == 1

    assert "another key than the one that is kept" in capsys.readouterr().err
    assert not vps.home.exists()


def test_proxy_finds_the_host_by_its_name(vps: Vps, nodes: Path) -> None:
    """A name that is known nowhere else; the proxy is kept for the next time."""
    with door(vps.port) as host, socks_server({"vps.test": host.port}) as proxy:
        assert deploy(nodes, vps, "vps.test", "--proxy", f"127.0.0.1:{proxy.port}") == 2
        assert deploy(nodes, vps, "vps.test") == 2

        assert {asked[:2] for asked in proxy.asked} == {(3, "vps.test")}
        assert len(proxy.asked) == host.count == 3
    assert vps.home.exists()


def test_worker_and_the_first_box_with_its_router(
    vps: Vps, nodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have the router's image; a worker's bundle comes through the proxy like any other."""
    with door(vps.port) as host, socks_server({"box.test": host.port}) as proxy:
        way = ("--images", "--proxy", f"127.0.0.1:{proxy.port}")
        assert deploy(nodes, vps, "box.test", *way, node="worker2") == 2
        worker = capsys.readouterr().out
        assert deploy(nodes, vps, "box.test", "--images", node="model") == 2
        first = capsys.readouterr().out

        assert len(proxy.asked) == host.count == 3
    home = vps.root / "opt/worker"
    assert "2 of 2 sent" in worker
    assert "worker: all healthy" in worker
    assert "failure: " in worker
    assert "1 of 3 sent" in first, "the other two came with the worker"
    assert {path.name for path in vps.images()} == {
        *("node_wireguard:0.1.0", "node_router:0.1.0", "node_gateway:0.1.0"),
    }
    assert "TUNNEL_ADDRESS=10.67.0.3\n" in (home / ".env").read_text()
    assert (home / "secrets/tunnel_private_key").stat().st_mode & 0o777 == 0o400
    assert "harden the host" in run(str(home / "scripts/node-admin"), "help")
    assert [line for line in vps.switched() if "enable" in line] == [
        "enable --now node@worker",
        "enable --now node@model",
    ]


HOSTILE = """\
Host *
  ProxyCommand none
  ProxyJump none
  HostName 127.0.0.1
  Port {port}
  ControlPath {control}
  ControlMaster auto
  ControlPersist yes
  StrictHostKeyChecking no
  IdentityFile {identity}
"""


@pytest.mark.parametrize("time", ["first", "later"])
def test_dead_proxy_means_that_nothing_connects(
    vps: Vps, nodes: Path, tmp_path: Path, time: str
) -> None:
    """Not though the host answers, the user's configuration leads to it, and a way is open."""
    with socks_server({}) as proxy:
        dead = f"127.0.0.1:{proxy.port}"
    hostile = tmp_path / "ssh"
    hostile.mkdir(mode=0o700)
    with door(vps.port) as host:
        address = f"127.0.0.1:{host.port}"
        if time == "later":
            assert deploy(nodes, vps, address) == 2
        config = HOSTILE.format(port=host.port, control=tmp_path / "c", identity=vps.identity)
        (hostile / "config").write_text(config)
        # In place of root's own configuration and of the machine's, for this call alone.
        around = f"mount --bind {hostile} ~root/.ssh && mount --bind {hostile} /etc/ssh"
        around += f" && cp {hostile}/config {hostile}/ssh_config"
        Path("~root/.ssh").expanduser().mkdir(mode=0o700, exist_ok=True)
        control = ["unshare", "--mount", "sh", "-ec", f"{around}; ssh -N -f anybody"]
        subprocess.run(control, check=True, stderr=subprocess.DEVNULL, timeout=60)
        try:
            before = host.count
            assert before, "control: the configuration does lead to the host, and keeps a way open"
            command = [str(ROOT / "scripts/adyton"), "deploy", "relay", address]
            command += ["--out", str(nodes), "--identity", str(vps.identity)]
            command += ["--host-key", vps.fingerprint(), "--proxy", dead]
            inside = ["unshare", "--mount", "sh", "-ec", f"{around}; exec {shlex.join(command)}"]

            done = subprocess.run(inside, capture_output=True, text=True, timeout=120)

            assert done.returncode == 1, done.stdout
            assert host.count == before
        finally:
            subprocess.run(["ssh", "-S", str(tmp_path / "c"), "-O", "exit", "x"], check=True)
    said = done.stdout + done.stderr
    assert f"through the proxy {dead}" in said
    assert "no connection is made without it" in said
