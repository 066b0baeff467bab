"""Logs are sealed so that only the private key's owner reads them, and sees what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.doctor import logs as logs_check
from scripts.journal import chain, opening, seal, setup
from tests.unit.adyton.machine import Machine
from tests.unit.adyton.recorded import NOW, Nodes

CANARY = "quetzalcoatlus"
START = 1_770_000_000_000_000
JOURNALCTL = """#!{python} -IS
import json, os, sys
lines = open(os.environ["JOURNAL"], "rb").readlines()
given = [word[9:] for word in sys.argv if word.startswith("--cursor=")]
number = int(given[0].split("i=")[1].split(";")[0], 16) if given else 0
for line in lines:
    if int(json.loads(line)["__CURSOR"].split("i=")[1].split(";")[0], 16) >= number:
        sys.stdout.buffer.write(line)
sys.exit(int(os.environ.get("JOURNAL_FAILS", "0")))
"""


@dataclass(frozen=True)
class Owner:
    """Somebody with a key pair."""

    home: Path
    public: Path

    def gpg(self, *words: str) -> str:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--quiet", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def make_owner() -> Iterator[Callable[..., Owner]]:
    # Not below pytest's own folder: the agent's socket has a short name or none.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        homes = []

        def make(name: str, *options: str, expires: str = "never") -> Owner:
            home = Path(folder) / name
            home.mkdir(mode=0o700)
            homes.append(home)
            owner = Owner(home, home / "public.asc")
            said = ["--pinentry-mode", "loopback", "--passphrase", ""]
            told = owner.gpg(*options, *said, "--status-fd", "1", "--quick-gen-key",
                             f"{name}@test", "ed25519", "cert", expires)  # fmt: skip
            print_ = told.split("KEY_CREATED P ")[1].split()[0]
            owner.gpg(*options, *said, "--quick-add-key", print_, "cv25519", "encr", expires)
            owner.public.write_text(owner.gpg("--armor", "--export"))
            return owner

        yield make
        for home in homes:
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@pytest.fixture(scope="module")
def operator(make_owner: Callable[..., Owner]) -> Owner:
    return make_owner("operator")


@pytest.fixture(scope="module")
def expired(make_owner: Callable[..., Owner]) -> Owner:
    return make_owner("late", "--faked-system-time", "20200101T000000", expires="1d")


@dataclass
class Host:
    """A node's machine, with a journal that tests write."""

    machine: Machine
    journal: Path
    sealed: Path
    system: Path
    operator: Owner
    count: int = 0
    lines: list[str] = field(default_factory=list)

    def log(self, message: Any, **more: Any) -> None:
        self.count += 1
        entry = {
            "__CURSOR": f"s=abc;i={self.count:x};b=1",
            "__REALTIME_TIMESTAMP": str(START + self.count * 1_000_000),
            "_BOOT_ID": "1",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "test",
            "MESSAGE": message,
            **more,
        }
        self.lines.append(json.dumps(entry))
        self.write()

    def write(self) -> None:
        self.journal.write_text("".join(f"{line}\n" for line in self.lines))

    def seal(self, *messages: str) -> Path:
        """One more segment."""
        for message in messages:
            self.log(message)
        assert self.call("once") == 0
        return max(chain.segments_in(self.sealed).values())

    def call(self, *words: str | Path) -> int:
        return self.machine.call("logs", *map(str, words))


@pytest.fixture(scope="module")
def kept_chain() -> Iterator[Path]:
    """Three segments, once they have been sealed."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "sealed"


@pytest.fixture
def host(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operator: Owner,
) -> Host:
    """The relay node's, or that of the kind that a test asks for."""
    machine = Machine(tmp_path, monkeypatch, getattr(request, "param", "relay"))
    (machine.home / ".env").write_text(f"USERS=7\nCOMPOSE_FILE={machine.file}\n")
    overlay = machine.file.replace(".yml", ".journal.yml")
    (machine.home / overlay).write_text('{"services": {}}')
    machine.write_bin("journalctl", JOURNALCTL.format(python=sys.executable))
    made = Host(machine, tmp_path / "journal", tmp_path / "sealed", tmp_path / "system", operator)
    monkeypatch.setenv("JOURNAL", str(made.journal))
    monkeypatch.setenv("GNUPGHOME", str(operator.home))
    monkeypatch.setattr(chain, "FOLDER", made.sealed)
    monkeypatch.setattr(setup, "SYSTEM", made.system)
    monkeypatch.setattr(seal, "boot_id", lambda: "1")
    (made.system / "etc/fail2ban").mkdir(parents=True)
    made.journal.touch()
    own = machine.home / setup.OWN
    own.mkdir()
    (machine.home / setup.KEY).write_bytes(operator.public.read_bytes())
    (machine.home / setup.LIMITS).write_text('{"days": 90, "mebibytes": 500}')
    return made


def test_sealed_is_unreadable_without_the_private_key(
    host: Host,
    expired: Owner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing plain is on the disk; the private key opens it, another one does not."""
    segment = host.seal(f"first {CANARY}", "second")

    assert segment.stat().st_mode & 0o777 == 0o600
    for path in host.sealed.iterdir():
        assert CANARY.encode() not in path.read_bytes()
    assert host.call("open", host.sealed) == 0
    shown = capsys.readouterr()
    assert f"2026-02-02T02:40:01.000000Z info    test: first {CANARY}\n" in shown.out
    assert "2 entries" in shown.err
    monkeypatch.setenv("GNUPGHOME", str(expired.home))
    assert host.call("open", host.sealed) == 1
    shown = capsys.readouterr()
    assert "the private key that opens this is not here" in shown.err
    assert shown.out == ""


def test_each_entry_is_sealed_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Over several segments, and where nothing is new no segment is made."""
    host.seal("a", "b")
    host.seal("c")
    host.seal()

    assert [path.name for path in chain.segments_in(host.sealed).values()] == [
        "00000001.gpg",
        "00000002.gpg",
    ]
    assert host.call("open", "--json", host.sealed) == 0
    shown = [json.loads(line)["MESSAGE"] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["a", "b", "c"]


def remove_middle(host: Host) -> None:
    (host.sealed / "00000002.gpg").unlink()


def remove_last(host: Host) -> None:
    (host.sealed / "00000003.gpg").unlink()


def alter_byte(host: Host) -> None:
    path = host.sealed / "00000002.gpg"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 + 40] ^= 1
    path.write_bytes(content)


def truncate_last(host: Host) -> None:
    path = host.sealed / "00000003.gpg"
    path.write_bytes(path.read_bytes()[:-7])


def swap(host: Host) -> None:
    first, second = host.sealed / "00000001.gpg", host.sealed / "00000002.gpg"
    spare = host.sealed / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


def replace_by_another_chain(host: Host) -> None:
    """A whole segment of the same number that was sealed from other entries."""
    path = host.sealed / "00000002.gpg"
    kept = [path.read_bytes() for path in chain.segments_in(host.sealed).values()]
    for old in chain.segments_in(host.sealed).values():
        old.unlink()
    (host.sealed / "head.json").unlink()
    host.seal("other")
    host.seal("entries")
    forged = path.read_bytes()
    for number, content in enumerate(kept, 1):
        (host.sealed / chain.name_of(number)).write_bytes(content)
    path.write_bytes(forged)
    (host.sealed / "head.json").unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (remove_middle, "00000002.gpg is missing"),
        (remove_last, "00000003.gpg is missing"),
        (alter_byte, "00000002.gpg is damaged"),
        (truncate_last, "00000003.gpg is damaged"),
        (swap, "00000001.gpg is number 2 by its own word"),
        (replace_by_another_chain, "00000002.gpg does not follow the 00000001.gpg that is here"),
    ],
)
def test_harm_is_seen(
    host: Host,
    capsys: pytest.CaptureFixture[str],
    kept_chain: Path,
    harm: Callable[[Host], None],
    says: str,
) -> None:
    """The positive control is whole; with harm the exit status tells, and a sentence what."""
    if not kept_chain.exists():
        for word in "abc":
            host.seal(word)
        assert host.call("open", host.sealed) == 0
        capsys.readouterr()
        shutil.copytree(host.sealed, kept_chain)
    shutil.copytree(kept_chain, host.sealed, dirs_exist_ok=True)

    harm(host)

    assert host.call("open", host.sealed) == 2
    assert f"Not whole: {says}" in capsys.readouterr().err


def test_overflow_is_a_gap(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """What the journal dropped before it was sealed is counted."""
    host.seal("a")
    for word in "bcd":
        host.log(word)
    del host.lines[:3]
    host.seal("e")

    assert host.call("open", host.sealed) == 2
    shown = capsys.readouterr()
    assert "before 00000002.gpg: the journal was full before its entries were sealed: 2 are" in (
        shown.err
    )
    assert [line[-1] for line in shown.out.splitlines()] == ["a", "d", "e"]


@pytest.mark.parametrize(("last", "code"), [(["--last"], 0), ([], 2)])
def test_stop_without_a_last_sealing_is_a_gap(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: list[str],
    code: int,
) -> None:
    """The journal is gone with the memory; entries of the next boot are sealed from its first."""
    host.log("a")
    assert host.call("once", *last) == 0
    monkeypatch.setattr(seal, "boot_id", lambda: "2")
    host.lines.clear()
    host.seal("b")
    host.seal("c")

    assert host.call("open", host.sealed) == code
    shown = capsys.readouterr()
    assert [line[-1] for line in shown.out.splitlines()] == ["a", "b", "c"]
    assert ("the machine stopped before" in shown.err) == (code == 2)


@pytest.mark.parametrize("moment", ["encrypted", "announced", "named"])
def test_interruption_loses_and_doubles_nothing(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    moment: str,
) -> None:
    """Killed before the segment is announced, before it has its name, and before the head is."""
    host.seal("a")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    real = chain.write_head

    def write_head(path: Path, head: chain.Head) -> None:
        if moment == "named" and path.name == chain.HEAD:
            raise Killed
        real(path, head)
        if moment == "announced":
            raise Killed

    with monkeypatch.context() as during:
        during.setattr(chain, "write_head", write_head)
        if moment == "encrypted":
            during.setattr(seal, "publish", killed)
        host.log("b")
        with pytest.raises(Killed):
            host.call("once")
    second = host.sealed / "00000002.gpg"
    named = second.read_bytes() if second.exists() else b""
    host.seal("c")

    assert host.call("open", host.sealed) == 0
    assert [line[-1] for line in capsys.readouterr().out.splitlines()] == ["a", "b", "c"]
    assert not list(host.sealed.glob(".*"))
    assert bool(named) == (moment == "named")
    assert second.read_bytes() == named or not named, "it may have been carried away already"


def test_unusable_key_writes_nothing(
    host: Host, expired: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expired, missing, or a private one: one sentence, a status, and no file."""
    host.log(CANARY)
    key = host.machine.home / setup.KEY
    private = host.operator.gpg("--pinentry-mode", "loopback", "--passphrase", "", "--armor",
                                "--export-secret-keys")  # fmt: skip
    for content, says in (
        (expired.public.read_text(), "has expired"),
        (None, "there is no public key"),
        ("nonsense", "does not hold one public key"),
        (private, "holds a private key"),
    ):
        key.unlink(missing_ok=True)
        if content:
            key.write_text(content)

        assert host.call("once") == 1

        assert says in capsys.readouterr().err
        assert not host.sealed.exists() or not list(host.sealed.iterdir())


def test_revoked_key_writes_nothing(
    host: Host, make_owner: Callable[..., Owner], capsys: pytest.CaptureFixture[str]
) -> None:
    """gpg's own revocation, as its owner publishes it."""
    owner = make_owner("revoked")
    (certificate,) = (owner.home / "openpgp-revocs.d").iterdir()
    text = certificate.read_text().replace(":-----BEGIN", "-----BEGIN")
    certificate.write_text(text)
    owner.gpg("--import", str(certificate))
    (host.machine.home / setup.KEY).write_text(owner.gpg("--armor", "--export"))

    assert host.call("once") == 1

    assert "is revoked" in capsys.readouterr().err


def test_failing_journal_makes_no_segment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before it failed is read again the next time."""
    host.log("a")
    monkeypatch.setenv("JOURNAL_FAILS", "1")
    assert host.call("once") == 1
    assert chain.segments_in(host.sealed) == {}
    monkeypatch.delenv("JOURNAL_FAILS")

    assert host.seal().name == "00000001.gpg"


def test_filters(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shows what it names; bytes and several lines steer no terminal."""
    host.log("dropped in: x", SYSLOG_IDENTIFIER="kernel", PRIORITY="4")
    host.log('{"level": "error", "event": "lost"}', CONTAINER_NAME="relay-egress-1")
    host.log("Accepted\nkey", _SYSTEMD_UNIT="ssh.service")
    host.log([27, 91, 65, 255])
    host.seal()

    def shown(*words: str) -> str:
        assert host.call("open", *words, host.sealed) == 0
        return capsys.readouterr().out

    assert shown("--level", "warning").count("\n") == 2
    assert "err     egress: {" in shown("--service", "egress")
    assert "info    test: ?[A\N{REPLACEMENT CHARACTER}\n" in shown("--grep", "^.\\[A")
    assert shown("--unit", "ssh").endswith("test: Accepted\n    key\n")
    assert shown("--since", "2026-02-02T02:40:04").count("\n") == 1
    assert shown("--until", "2026-02-02T02:40:01").count("\n") == 1


def test_shipped_archive_opens(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file to carry, of a time as well; a cut one is refused."""
    old = host.seal("a")
    host.seal("b")
    os.utime(old, (START / 1e6, START / 1e6))
    whole, part = tmp_path / "all.tar", tmp_path / "part.tar"

    assert host.call("ship", "--dry-run") == 0
    assert "Would ship 00000001.gpg to 00000002.gpg" in capsys.readouterr().out
    assert host.call("ship", "--out", whole) == 0
    assert host.call("ship", "--since", "2026-03-01", "--out", part) == 0

    assert whole.stat().st_mode & 0o777 == 0o600
    assert host.call("open", whole) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert host.call("open", part) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert "it begins with 00000002.gpg" in shown.err
    whole.write_bytes(b"no archive")
    assert host.call("open", whole) == 1


def test_old_segments_go_and_the_rest_is_whole(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """By age; the last one stays whatever its age, and where it begins is said."""
    for word in "abc":
        os.utime(host.seal(word), (1, 1))
    host.seal("d")

    assert list(chain.segments_in(host.sealed)) == [4]
    assert host.call("open", host.sealed) == 0
    assert "it begins with 00000004.gpg" in capsys.readouterr().err
    sizes = chain.remove_old(host.sealed, now=0, days=1, mebibytes=0)
    assert sizes == []


def test_full_segment_is_followed_by_another(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However much there is, it is sealed in one call and lacks nothing."""
    monkeypatch.setattr(seal, "MOST_BYTES", 400)
    host.seal(*"abcdefgh")

    assert len(chain.segments_in(host.sealed)) > 2
    assert host.call("open", host.sealed) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


@pytest.mark.parametrize("host", ["relay", "worker"], indirect=True)
def test_setting_up_twice_and_taking_back(
    host: Host, operator: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run changes nothing, a second call has nothing to do, undoing leaves sealed files."""
    home, env, node = host.machine.home, host.machine.home / ".env", host.machine.kind
    before = env.read_text()
    for path in (home / setup.OWN).iterdir():
        path.unlink()
    (home / setup.OWN).rmdir()
    host.log("a")
    (host.system / "var/log").mkdir(parents=True)
    (host.system / "var/log/auth.log.1").touch()
    sealing = ("seal", "--recipient", operator.public)

    assert host.call(*sealing, "--dry-run") == 0
    assert f"Would enable node-seal@{node}.timer" in capsys.readouterr().out
    assert not (home / setup.OWN).exists()
    assert not (host.system / setup.JOURNALD).exists()
    assert env.read_text() == before

    assert host.call(*sealing) == 0
    shown = capsys.readouterr().out
    assert "auth.log.1" in shown
    assert "Storage=volatile" in (host.system / setup.JOURNALD).read_text()
    file = host.machine.file
    assert f"COMPOSE_FILE={file}:{file.replace('.yml', '.journal.yml')}\n" in env.read_text()
    assert env.stat().st_mode & 0o777 == 0o600
    units = host.machine.units
    assert f"enable --now node-seal@{node}.timer" in units
    assert "try-restart systemd-journald.service" in units
    assert list(chain.segments_in(host.sealed)) == [1]

    (host.machine.docker_folder / "enabled").write_text(
        f"node-seal@{node}.timer\nnode-seal-last@{node}.service\n"
    )
    assert host.call(*sealing) == 0
    assert "Nothing to change." in capsys.readouterr().out

    assert host.call("seal", "--undo") == 0
    assert env.read_text() == before
    assert not (home / setup.OWN).exists()
    assert not (host.system / setup.JOURNALD).exists()
    assert not (host.system / setup.BANS).exists()
    assert list(chain.segments_in(host.sealed)) == [1]


def test_setting_up_beside_a_plain_logger_is_refused(
    host: Host, operator: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    """rsyslog reads the kernel's log by itself, and writes it in plain text."""
    (host.machine.docker_folder / "enabled").write_text("rsyslog.service\n")

    assert host.call("seal", "--recipient", operator.public) == 1

    assert "systemctl disable --now rsyslog.service" in capsys.readouterr().err
    assert not (host.system / setup.JOURNALD).exists()


def test_setting_up_beside_plain_swap_is_refused(
    host: Host, operator: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal in memory would reach the disk by it; encrypted swap is as good as none."""
    (host.system / "proc").mkdir()
    (host.system / "proc/swaps").write_text("Filename Type\n/dev/dm-1 partition 9 0 -2\n")
    uuid = host.system / "sys/block/dm-1/dm/uuid"
    uuid.parent.mkdir(parents=True)
    sealing = ("seal", "--dry-run", "--recipient", operator.public)

    assert host.call(*sealing) == 1
    assert "swapped to /dev/dm-1 in plain text" in capsys.readouterr().err
    uuid.write_text("CRYPT-PLAIN-swap\n")
    assert host.call(*sealing) == 0


def test_older_head_writes_over_no_segment(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a head.json that was brought back from elsewhere."""
    host.log("a")
    assert host.call("once") == 0
    head = (host.sealed / chain.HEAD).read_bytes()
    second = host.seal("b")
    content = second.read_bytes()
    (host.sealed / chain.HEAD).write_bytes(head)
    host.log("c")

    assert host.call("once") == 1

    assert "is older than the segments beside it" in capsys.readouterr().err
    assert second.read_bytes() == content


def test_content_that_is_no_segment_is_said_so() -> None:
    """Also where it is empty, as a forged one may be."""
    for plain in (b"", b"{}\n", b"[]\n[]\n", b'\xff\n{"a"\n'):
        with pytest.raises(ValueError, match=r"^does not hold what a segment does$"):
            opening.parts_of(plain)


def test_doctor_sees_what_is_not_sealed(
    host: Host, tmp_path: Path, expired: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad key, an old sealing, a container that writes to the disk, a journal that does."""
    node = Nodes(tmp_path / "recorded")
    node.tools.root = True
    node.tools.time = NOW
    container = node.add("relay")
    assert node.problems(logs_check.CHECK) == set(), "not set up"

    node.root = host.machine.home
    container["HostConfig"]["LogConfig"] = {"Type": "json-file"}
    assert node.problems(logs_check.CHECK) == {"logs-on-disk", "journal-on-disk", "logs-late"}
    container["HostConfig"]["LogConfig"] = {"Type": "journald"}
    setup.put(host.system / setup.JOURNALD, setup.JOURNALD_TEXT.encode())
    host.seal("a")
    os.utime(host.sealed / chain.LOOKED, (NOW - 60, NOW - 60))
    assert node.problems(logs_check.CHECK) == set()
    (host.machine.home / setup.KEY).write_bytes(expired.public.read_bytes())
    assert node.problems(logs_check.CHECK) == {"logs-not-sealed"}
