"""`deploy` takes its steps in order, and stops where it must; OpenSSH is a stand-in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest

from scripts import deployment
from scripts.bundle import ROOT
from scripts.commands.__main__ import main
from scripts.lifecycle import revoked
from scripts.node.tools import Said
from scripts.ssh import Connection, Host, HostKey, NoConnection, known_keys
from tests.unit.adyton.test_init import Alone, Operator

LISTEN = "192.0.2.10:51821"
STAND_IN = Path(__file__).with_name("ssh.py")
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6MDEyMzQ1"
FINGERPRINT = HostKey("ssh-ed25519", KEY).fingerprint
LOOKED = "machine=x86_64\nuser=0\ndocker=26.1\ncompose=2.26\ngzip=there\n"
HEALTHY = "relay running healthy\nwireguard running healthy\n"
WELL = {"findings": [{"level": "ok", "text": "fine", "remedy": ""}]}


class Field(Operator):
    """An operator with bundles, and a host that says what the test wants."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.folder = folder
        (folder / "answers").mkdir()
        (folder / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        self.program("ssh", f'exec {sys.executable} -SE {STAND_IN} {folder} "$@"')
        for name, said in (("look", LOOKED), ("health", HEALTHY), ("doctor", json.dumps(WELL))):
            self.says(name, said)
        monkeypatch.setattr(deployment, "POLL_SECONDS", 0)

    def program(self, name: str, script: str) -> None:
        (self.folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def says(self, name: str, said: str, code: int = 0) -> None:
        (self.folder / "answers" / name).write_text(f"{code}\n{said}")

    def deploy(self, *arguments: str, host: str = "198.18.5.7", node: str = "relay") -> int:
        command = ["deploy", node, host, "--out", str(self.out), "--wait", "0"]
        return main([*command, "--host-key", FINGERPRINT, *arguments])

    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def names(self) -> list[str]:
        return [call["name"] for call in self.calls()]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of both nodes; made once, since none is changed."""
    operator = Operator(tmp_path_factory.mktemp("nodes"))
    assert operator.init_all() == 0
    return operator.out


@pytest.fixture
def field(tmp_path: Path, nodes: Path, monkeypatch: pytest.MonkeyPatch) -> Field:
    field = Field(tmp_path, monkeypatch)
    shutil.copytree(nodes, field.out)
    return field


@pytest.fixture
def quick(field: Field, monkeypatch: pytest.MonkeyPatch) -> Field:
    """The same without a process for each script."""
    without_processes(field, monkeypatch)
    return field


def without_processes(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def opened(
        self: Connection, name: str, script: str, *arguments: str
    ) -> Iterator[tuple[IO[bytes], Callable[[], Said]]]:
        sink = io.BytesIO()

        def end() -> Said:
            given = len(sink.getvalue())
            who = "sh" if self.host.user == "root" else "sudo"
            call = {"name": name, "arguments": arguments, "bytes": given, "as": who}
            with (field.folder / "calls").open("a") as calls:
                print(json.dumps(call), file=calls)
            file = field.folder / "answers" / name
            code, _, text = file.read_text().partition("\n") if file.exists() else ("0", "", "")
            return Said(int(code), text, text)

        yield sink, end

    monkeypatch.setattr(Connection, "check", lambda _: None)
    monkeypatch.setattr(Connection, "log_in", lambda _: None)
    monkeypatch.setattr(Connection, "ask_for_key", lambda _: HostKey("ssh-ed25519", KEY))
    monkeypatch.setattr(Connection, "opened", opened)


def test_steps_come_in_order(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing starts before it is there; the doctor has the last word."""
    capsys.readouterr()

    assert field.deploy() == 0

    assert field.names() == ["look", "unpack", "up", "boot", "health", "doctor"]
    calls = {call["name"]: call for call in field.calls()}
    assert calls["unpack"]["bytes"] == len(field.files()["relay.tar"])
    assert calls["up"]["arguments"] == ["relay", "--no-build"]
    assert (field.out / "known_hosts").read_text() == f"198.18.5.7 ssh-ed25519 {KEY}\n"
    said = capsys.readouterr().out
    assert "[1/6] the host: Docker 26.1, Compose 2.26" in said
    assert "relay, wireguard: all healthy" in said
    assert "doctor: all is in order" in said


def test_host_that_is_known_is_not_asked_for_its_key(quick: Field) -> None:
    """Another --host-key is of no use then: OpenSSH itself compares the key."""
    (quick.out / "known_hosts").write_text(f"198.18.5.7 ssh-ed25519 {KEY}\n")

    assert quick.deploy("--host-key", "SHA256:other") == 0
    assert quick.deploy("--host-key", "SHA256:other", host="198.18.5.7:2222") == 1


def test_another_user_becomes_root(quick: Field) -> None:
    """By sudo, without a password; who may not is told."""
    assert quick.deploy(host="admin@198.18.5.7") == 0
    assert {call["as"] for call in quick.calls()} == {"sudo"}

    quick.says("look", LOOKED.replace("user=0", "user=1000"))
    assert quick.deploy() == 1


@pytest.mark.parametrize(
    ("answer", "said", "code", "status", "words"),
    [
        ("look", LOOKED.replace("docker=26.1", "docker="), 0, 1, "no Docker that answers"),
        ("look", LOOKED.replace("compose=2.26", "compose="), 0, 1, "no Compose that answers"),
        ("unpack", "no space left", 1, 1, "`unpack` failed (no space left)"),
        ("up", "dependency failed", 1, 2, "not all started (dependency failed)"),
        ("health", "relay running starting\n", 0, 2, "waiting for relay: not healthy after 0 s"),
        ("health", "relay exited none\n", 0, 2, "waiting for relay"),
        ("health", "", 0, 2, "there is no container"),
        ("doctor", "", 1, 2, "the doctor did not answer"),
        ("boot", "none\n", 0, 0, "no systemd there"),
    ],
)
def test_what_goes_wrong_is_said(
    quick: Field,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    said: str,
    code: int,
    status: int,
    words: str,
) -> None:
    """A node that does not come up is still looked at by its doctor."""
    quick.says(answer, said, code)

    assert quick.deploy() == status

    assert words in capsys.readouterr().out
    if status == 2:
        assert quick.names()[-1] == "doctor"


def test_findings_are_shown_failures_first(
    quick: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without what would steer a terminal; a warning alone is no failure."""
    clock = {"level": "warning", "text": "The clock\x1b[2J.", "remedy": "Set it."}
    quick.says("doctor", json.dumps({"findings": [clock]}))
    assert quick.deploy() == 0
    assert "  warning: The clock?[2J. -> Set it.\n" in capsys.readouterr().out

    rules = {"level": "failure", "text": "No rules.", "remedy": "Restart it."}
    quick.says("doctor", json.dumps({"findings": [clock, rules]}))
    assert quick.deploy() == 2
    said = capsys.readouterr().out
    assert said.index("failure: No rules.") < said.index("warning: The clock")


def test_dry_run_speaks_with_nobody(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the steps, and keeps nothing."""
    field.program("ssh", f"touch {field.folder}/called")
    before = field.files()

    assert field.deploy("--dry-run", "--images", "--proxy", "127.0.0.1:9050") == 0

    assert not (field.folder / "called").exists()
    assert field.files() == before
    said = capsys.readouterr().out
    assert "through the proxy 127.0.0.1:9050, and not without it" in said
    assert "2. images, built here" in said
    assert "8. doctor" in said


def test_proxy_is_kept_and_not_gone_around(
    quick: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once set, every connection has it, until `init` takes it back."""
    assert quick.deploy("--proxy", "127.0.0.1:9050") == 0
    kept = json.loads((quick.out / "answers.json").read_text())
    assert kept["proxy"] == "127.0.0.1:9050"
    assert quick.deploy("--dry-run") == 0
    assert "through the proxy 127.0.0.1:9050" in capsys.readouterr().out

    assert quick.deploy("--proxy", "none") == 1
    assert "nothing is connected without it" in capsys.readouterr().err
    assert quick.deploy("--proxy", "localhost:9050") == 1
    assert "--proxy: give the SOCKS5 proxy's address" in capsys.readouterr().err

    assert quick.init("--proxy", "none") == 0
    assert quick.deploy("--dry-run") == 0
    assert "198.18.5.7 directly" in capsys.readouterr().out


@pytest.mark.parametrize(
    "odd",
    [
        "proxycommand none",
        "proxyjump bastion",
        "hostname 198.18.9.9",
        "controlpath /root/.ssh/open",
        "userknownhostsfile /root/.ssh/known_hosts",
    ],
)
def test_openssh_that_would_go_another_way_is_not_used(
    field: Field, capsys: pytest.CaptureFixture[str], odd: str
) -> None:
    """Whatever made it so: it is asked before it may connect."""
    (field.folder / "answers/config").write_text(odd)

    assert field.deploy("--proxy", "127.0.0.1:9050") == 1

    assert "nothing was connected: OpenSSH would use" in capsys.readouterr().err
    assert field.calls() == []


def test_openssh_reads_no_configuration(tmp_path: Path) -> None:
    """And the proxy's command is ours, with the host as it was given."""
    host = Host.parse("admin@Vps.onion:2222")
    with Connection(host, tmp_path / "known", proxy="127.0.0.1:9050") as connection:
        command = connection.command()
        (way,) = [it for it in command if it.startswith("ProxyCommand=")]

    assert command[:3] == ["ssh", "-F", "none"]
    assert way.endswith("scripts/socks.py 127.0.0.1:9050 %h %p")
    for option in ("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=none", "User=admin"):
        assert option in command
    assert host.known_as == "[vps.onion]:2222"


@pytest.mark.parametrize(
    ("text", "known_as", "shown"),
    [
        ("[FD18:0::1]", "fd18::1", "root@[fd18::1]"),
        ("admin@[fd18::1]:2222", "[fd18::1]:2222", "admin@[fd18::1]:2222"),
    ],
)
def test_ipv6_address_stands_in_brackets(
    text: str, known_as: str, shown: str, tmp_path: Path
) -> None:
    """OpenSSH takes it without them, and lists it with them where there is a port."""
    host = Host.parse(text)
    with Connection(host, tmp_path / "known") as connection:
        connection.check()

    assert (host.known_as, str(host)) == (known_as, shown)


@pytest.mark.parametrize(
    "text",
    [
        *("-oProxyCommand=x", "a b", "root@", "@host", "host:0", "host:99999", "a;b", "ROOT@h", ""),
        *("fd18::1", "[fd18::1", "[fd18:1]", "[198.18.5.7]", "[fd18::1]:0", "[fe80::1%eth0]"),
    ],
)
def test_odd_hosts_are_refused(text: str) -> None:
    """Nothing that OpenSSH would take for an option."""
    with pytest.raises(ValueError, match="give the host as"):
        Host.parse(text)


def test_unseen_key_needs_somebodys_word(
    quick: Field, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`yes`, and nothing less, from somebody who has seen the fingerprint."""
    command = ["deploy", "relay", "198.18.5.7", "--out", str(quick.out), "--wait", "0"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(command) == 1
    assert quick.calls() == []

    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert main(command) == 0

    assert FINGERPRINT in capsys.readouterr().out
    assert [
        it.fingerprint for it in known_keys(quick.out / "known_hosts", Host.parse("198.18.5.7"))
    ]


DOCKER = r"""
echo "$@" >>{folder}/docker
case "$1 $2" in
  "image inspect") echo "sha256:of-${{5##*/}} {architecture} 1000000" ;;
  "save "*) head -c 3000000 /dev/zero ;;
esac
"""


def test_only_images_that_the_host_lacks_are_sent(field: Field) -> None:
    """By their ids: a tag may be that of an older image."""
    field.program("docker", DOCKER.format(folder=field.folder, architecture="amd64"))
    field.says("images", "sha256:of-wireguard:0.1.0\nsha256:older\nnone\n")
    # What was loaded is looked at again, and then there.
    later = "0\\nsha256:of-egress:0.1.0\\nsha256:of-relay:0.1.0\\n"
    loaded = f"printf '{later}' >{field.folder}/answers/images"
    stand_in = f"{sys.executable} -SE {STAND_IN} {field.folder}"
    field.program(
        "ssh",
        f'case "$*" in *"docker load"*) {loaded};; esac; exec {stand_in} "$@"',
    )

    assert field.deploy("--images") == 0

    asked = (field.folder / "docker").read_text()
    assert "save node/egress:0.1.0 node/relay:0.1.0\n" in asked
    (load,) = [call for call in field.calls() if call["name"] == "load"]
    assert 1000 < load["bytes"] < 300_000, "compressed"


def test_worker_is_brought_like_a_node(quick: Field, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own bundle into its own folder; one that `init` did not make is named."""
    quick.program("docker", DOCKER.format(folder=quick.folder, architecture="amd64"))
    assert quick.init("--workers", "2", "--workers-listen", LISTEN) == 0
    quick.says("images", "sha256:of-wireguard:0.1.0\nsha256:of-router:0.1.0\n")

    assert quick.deploy("--images", node="worker2") == 0
    assert quick.deploy(node="worker3") == 1

    calls = {call["name"]: call for call in quick.calls()}
    assert calls["images"]["arguments"] == ["node/wireguard:0.1.0", "node/router:0.1.0"]
    assert calls["unpack"]["bytes"] == len(quick.files()["worker2.tar"])
    assert {tuple(calls[it]["arguments"]) for it in ("up", "boot", "doctor")} == {("worker",)}
    assert "worker3.tar cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        quick.deploy(node="worker0")
    with pytest.raises(SystemExit):
        quick.deploy(node="worker1.tar")


def test_images_of_a_model_node_with_workers(quick: Field) -> None:
    """The router's, which only a Compose file of its own names, is among them."""
    quick.program("docker", DOCKER.format(folder=quick.folder, architecture="amd64"))
    assert quick.init("--workers", "1", "--workers-listen", LISTEN) == 0
    names = [f"node/{name}:0.1.0" for name in ("wireguard", "gateway", "router")]
    quick.says("images", "\n".join(f"sha256:of-{name[5:]}" for name in names))

    assert quick.deploy("--images", node="model") == 0

    (asked,) = (call["arguments"] for call in quick.calls() if call["name"] == "images")
    assert asked == names
    build = (quick.folder / "docker").read_text().splitlines()[0]
    assert build.endswith(f"{ROOT}/compose.gpu.yml -f {ROOT}/compose.gpu.router.yml build")


def test_images_for_another_machine_are_not_sent(
    quick: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would not start there."""
    quick.program("docker", DOCKER.format(folder=quick.folder, architecture="arm64"))

    assert quick.deploy("--images") == 1

    assert "The images are for arm64, and the host is amd64" in capsys.readouterr().out
    assert "load" not in quick.names()


def test_images_can_be_put_beside_the_bundle(
    field: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a host that is reached by hand."""
    field.program("docker", DOCKER.format(folder=field.folder, architecture="amd64"))
    command = ["deploy", "relay", "--out", str(field.out), "--images"]

    assert main(command) == 0

    (file,) = field.out.glob("relay-images.tar*")
    assert 100 < file.stat().st_size < 300_000
    assert "docker load" in capsys.readouterr().out
    assert field.calls() == []


def test_private_keys_are_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one node alone: its public key is shown, and without the other's nothing starts."""
    field, alone = Field(tmp_path, monkeypatch), Alone(tmp_path, "relay")
    without_processes(field, monkeypatch)
    field.out = alone.out
    assert alone.init_node() == 0
    field.says("keys", "AAAA=\n")

    assert field.deploy() == 0

    assert field.names() == ["look", "unpack", "keys"]
    said = capsys.readouterr().out
    assert "--peer-key: AAAA=" in said
    assert "Not started yet" in said
    peer = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    assert alone.init("--peer-key", peer) == 0
    assert field.deploy() == 0
    assert field.names()[3:6] == ["look", "unpack", "keys"]
    assert field.names()[-1] == "doctor"


def test_missing_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`init` comes first."""
    assert main(["deploy", "model", "198.18.5.7", "--out", str(tmp_path)]) == 1

    assert "`init` makes it" in capsys.readouterr().err


def test_missing_openssh_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        Connection(Host.parse("198.18.5.7"), tmp_path / "known") as connection,
        pytest.raises(NoConnection, match="apt-get install openssh-client"),
    ):
        connection.check()


def test_scripts_for_the_host_are_sound() -> None:
    """A shell reads each of them."""
    names = ("LOOK", "IMAGES", "UNPACK", "KEYS", "UP", "BOOT", "HEALTH", "DOCTOR")
    for script in (getattr(deployment, name) for name in names):
        done = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), script


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs UNPACK on a host whose root is a folder; the bundle has the given link token."""
    script = deployment.UNPACK.replace("/opt/", f"{tmp_path}/opt/")
    script = script.replace("/run/", f"{tmp_path}/").replace("-C /", f"-C {tmp_path}")

    def run(token: str, before_tar: str = "", env: str = "") -> subprocess.CompletedProcess[str]:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, text in (("secrets/link_token", token), (".env", env)):
                entry = tarfile.TarInfo(f"opt/model/{name}")
                entry.size, entry.mode = len(text), 0o400
                archive.addfile(entry, io.BytesIO(text.encode()))
        digest = hashlib.sha256(out.getvalue()).hexdigest()
        assert script.count("tar -xpf") == 1
        done = subprocess.run(
            ["sh", "-c", script.replace("tar -xpf", f"{before_tar}tar -xpf"), "x", "model", digest],
            input=out.getvalue(),
            capture_output=True,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


def test_sealed_logs_do_not_go_to_the_disk_by_a_new_bundle(
    tmp_path: Path, unpack: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Nor for the moment until the doctor would say so."""
    (tmp_path / "opt/model/sealing").mkdir(parents=True)

    refused = unpack("new", env="A=b\nCOMPOSE_FILE=compose.gpu.yml\n")

    assert refused.returncode == 1
    assert "make a new one with init --logs journal" in refused.stderr
    assert not (tmp_path / "opt/model/.env").exists()
    sealed = "COMPOSE_FILE=compose.gpu.yml:compose.gpu.journal.yml\n"
    assert unpack("new", env=sealed).returncode == 0
    assert (tmp_path / "opt/model/.env").read_text() == sealed


def test_secret_that_was_revoked_is_not_brought_back(
    tmp_path: Path, unpack: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """It would let the lost VPS in again; another one goes in."""
    secrets = tmp_path / "opt/model/secrets"
    secrets.mkdir(parents=True)
    revoked.note(secrets, [b"old"])

    refused = unpack("old")

    assert (refused.returncode, refused.stderr) == (
        1, "its link_token was revoked here: make a new bundle with init --rotate\n",
    )  # fmt: skip
    assert not (secrets / "link_token").exists()
    assert unpack("new").returncode == 0
    assert (secrets / "link_token").read_text() == "new"


def test_containers_are_made_anew_also_after_an_interruption(
    tmp_path: Path, unpack: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The mark is there before a secret is; the same secrets once more leave none of their own."""
    mark = tmp_path / "opt/model/secrets/.changed"
    assert unpack("one").returncode == 0
    assert mark.exists(), "a node whose secrets were lost may still have containers"
    mark.unlink()  # as the start does that makes them anew
    assert unpack("one").returncode == 0
    assert not mark.exists()

    assert unpack("two", before_tar="set +e; kill -KILL $$; ").returncode != 0

    assert mark.exists()
    assert unpack("two").returncode == 0
    assert mark.exists()


def test_slow_host_is_looked_at_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look costs it time that its containers need; the last pause ends with the patience."""
    now, pauses = 0.0, []

    def ask(*_: object) -> Said:
        nonlocal now
        now += 4
        return Said(0, "relay running starting\n")

    def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    order = SimpleNamespace(node="relay")
    said: list[str] = []
    waiting = SimpleNamespace(ask=ask, order=order)

    is_well = deployment.Deployment.wait(
        cast(Any, waiting), cast(Any, SimpleNamespace(say=said.append)), 30
    )

    assert not is_well
    assert pauses == [20, 2]
    assert said == ["waiting for relay: not healthy after 30 s"]
