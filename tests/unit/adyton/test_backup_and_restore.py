"""A node is backed up into one encrypted file, and comes back from it, or stays as it is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from scripts.commands import restore
from scripts.lifecycle import CannotDo, archive, revoked, running
from scripts.lifecycle.archive import Manifest, entry_of
from tests.conftest import ROOT
from tests.unit.adyton.machine import CANARY, PASSPHRASE, STORE_VERSION, Machine
from tests.unit.fakes import KEY


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "first", monkeypatch)
    machine.up()
    return machine


@pytest.fixture
def other(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Another machine, on which the bundle was unpacked and nothing started."""
    return Machine(tmp_path / "second", monkeypatch)


def decrypted(file: Path) -> bytes:
    """By gpg as an operator calls it, without these scripts."""
    command = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback"]
    done = subprocess.run(
        [*command, "--passphrase-fd", "0", "--decrypt", str(file)],
        input=f"{PASSPHRASE}\n".encode(),
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_backup_holds_all_and_shows_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings, secrets, the store; readable for whoever knows the passphrase, and nobody else."""
    file = machine.back_up()

    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(decrypted(file))) as packed:
        names = packed.getnames()
        store = packed.extractfile("store.db")
        assert store
        content = store.read()
    assert names[0] == "manifest.json"
    assert set(names[1:]) == {
        *(".env", "secrets/link_token", "secrets/store_key", "secrets/tunnel_private_key"),
        "store.db",
    }
    assert CANARY.encode() not in content, "the store in it is encrypted once more"
    words = "\n".join([*machine.calls, *machine.units])
    for secret in (PASSPHRASE, KEY, CANARY):
        assert secret not in words, "nothing secret is an argument"
        assert secret.encode() not in file.read_bytes()
    assert machine.states()["gateway"][0] == "running"
    assert not [call for call in machine.calls if " stop" in call]
    assert machine.call("backup", "verify", str(file), "--passphrase-file",
                        str(machine.passphrase_file())) == 0  # fmt: skip
    assert f"{file} is whole: the model node's" in capsys.readouterr().out


def test_dry_run_of_backup_writes_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what would be in it."""
    before = {*machine.folder.rglob("*")}
    assert machine.call("backup", "--dry-run") == 0

    assert "the volume model_store, as it is now" in capsys.readouterr().out
    assert {*machine.folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--passphrase-file", "{folder}/none"], "No such file"),
        (["--passphrase-file", "{short}"], "too short"),
        (["--recipient", "{folder}/none"], "gpg said"),
        ([], "--passphrase-file or --recipient"),
    ],
)
def test_backup_that_fails_leaves_nothing(
    machine: Machine, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence that says what to do."""
    out = machine.folder / "backup.gpg"
    short = machine.passphrase_file("short")
    words = [word.format(folder=machine.folder, short=short) for word in words]

    assert machine.call("backup", "--out", str(out), *words) == 1

    assert why in capsys.readouterr().err
    assert not list(machine.folder.glob("*backup*"))


def test_backup_of_a_store_that_cannot_be_copied(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keeper's own sentence is passed on, and no file is left."""
    secret = machine.home / "secrets" / "store_key"
    secret.chmod(0o600)
    secret.write_text("f" * 64, encoding="utf-8")
    words = ["--out", str(machine.folder / "backup.gpg"), "--passphrase-file"]

    assert machine.call("backup", *words, str(machine.passphrase_file())) == 1

    assert "the key does not fit" in capsys.readouterr().err
    assert not list(machine.folder.glob("*backup*"))


def test_existing_file_is_not_overwritten(machine: Machine) -> None:
    """A backup that is there stays."""
    file = machine.back_up()
    content = file.read_bytes()

    assert machine.call("backup", "--out", str(file), "--passphrase-file",
                        str(machine.passphrase_file())) == 1  # fmt: skip

    assert file.read_bytes() == content


def test_backup_for_the_owner_of_a_key(machine: Machine, other: Machine, tmp_path: Path) -> None:
    """The node cannot open what it has made; piped in from where the key is, it is restored."""
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(keys), "--batch", "--quiet"]
    make = ["--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", "operator"]
    subprocess.run([*gpg, *make, "future-default", "default"], check=True, capture_output=True)
    public = tmp_path / "public.asc"
    subprocess.run([*gpg, "--armor", "--output", str(public), "--export", "operator"], check=True)
    machine.be_here()
    file = machine.folder / "backup.gpg"
    assert machine.call("backup", "--out", str(file), "--recipient", str(public)) == 0
    machine.monkeypatch.setenv("GNUPGHOME", str(tmp_path / "nobody"))
    (tmp_path / "nobody").mkdir(mode=0o700)
    assert machine.call("backup", "verify", str(file)) == 1
    machine.monkeypatch.setenv("GNUPGHOME", str(keys))
    assert machine.call("backup", "verify", str(file)) == 0
    plain = subprocess.run([*gpg, "--decrypt", str(file)], check=True, capture_output=True).stdout
    other.be_here()

    class Piped:
        buffer = io.BytesIO(plain)

    machine.monkeypatch.setattr(sys, "stdin", Piped)
    assert other.call("restore", "-") == 0

    assert other.said() == [CANARY]
    for home in (keys, tmp_path / "nobody"):
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_restore_onto_an_empty_node(machine: Machine, other: Machine) -> None:
    """No settings, no secrets, no store: all of it comes back, with its modes, and runs."""
    machine.be_here()
    file = machine.back_up()
    other.be_here()
    for path in (other.home / ".env", *(other.home / "secrets").iterdir()):
        path.unlink()

    assert other.restore(file) == 0

    assert other.said() == [CANARY]
    assert {status for status, _ in other.states().values()} == {"running"}
    assert (other.home / ".env").stat().st_mode & 0o777 == 0o600
    assert (other.home / "secrets/store_key").stat().st_mode & 0o777 == 0o400
    for name in (".env", "secrets/link_token", "secrets/store_key"):
        assert (other.home / name).read_bytes() == (machine.home / name).read_bytes()
    assert other.docker.volumes["model_store"] == "model"
    leftovers = {path.name for path in other.home.rglob("*")} | {
        p.name for p in other.store.parent.iterdir()
    }
    assert not {name for name in leftovers if name.endswith((".kept", ".incoming", ".part"))}


def test_restore_again_changes_nothing(
    machine: Machine, other: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was said since stays, and no container is made anew."""
    machine.be_here()
    file = machine.back_up()
    other.be_here()
    assert other.restore(file) == 0
    other.say("since")
    ids = {it["Id"] for it in other.docker.containers.values()}

    assert other.restore(file) == 0

    assert "as this backup already" in capsys.readouterr().out
    assert other.said() == [CANARY, "since"]
    assert {it["Id"] for it in other.docker.containers.values()} == ids


def test_node_that_goes_on_is_not_replaced_unasked(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same node, with newer things in its store: only --replace loses them."""
    file = machine.back_up()
    machine.say("since")

    assert machine.restore(file) == 1
    assert "--replace" in capsys.readouterr().err
    assert machine.said() == [CANARY, "since"]
    assert machine.restore(file, "--replace") == 0

    assert machine.said() == [CANARY]
    assert [path.name for path in machine.store.parent.iterdir() if "kept" in path.name] == []


def test_dry_run_of_restore_changes_nothing(
    machine: Machine, other: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads all of the backup, and says which settings differ."""
    machine.be_here()
    file = machine.back_up()
    other.be_here()
    (other.home / ".env").write_text("USERS=7\nOTHER=1\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in other.home.rglob("*") if path.is_file()}

    assert other.restore(file, "--dry-run") == 0

    out = capsys.readouterr().out
    assert "Would restore the model node's" in out
    assert "kept: .env" in out
    assert before == {path: path.read_bytes() for path in other.home.rglob("*") if path.is_file()}
    assert other.docker.volumes == {}


def test_settings_in_place_are_kept_unless_told_otherwise(machine: Machine, other: Machine) -> None:
    """The bundle may be newer than the backup; the store's key is always the backup's."""
    machine.be_here()
    file = machine.back_up()
    other.be_here()
    (other.home / ".env").write_text("USERS=8\n", encoding="utf-8")
    key = other.home / "secrets/store_key"
    key.chmod(0o600)
    key.write_text("f" * 64, encoding="utf-8")

    assert other.restore(file) == 0
    assert (other.home / ".env").read_text() == "USERS=8\n"
    assert key.read_text() == KEY
    assert other.restore(file, "--settings") == 0

    assert (other.home / ".env").read_text() == "USERS=7\n"


def test_restore_that_does_not_start_puts_all_back(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store that was replaced, the settings, and the containers."""
    file = machine.back_up()
    machine.say("since")
    (machine.home / ".env").write_text("USERS=8\n", encoding="utf-8")
    machine.docker.sick = {"engine-1": "once"}

    assert machine.restore(file, "--replace", "--settings") == 1

    err = capsys.readouterr().err
    assert "engine is unhealthy. It said: these are its last words" in err
    assert machine.said() == [CANARY, "since"]
    assert (machine.home / ".env").read_text() == "USERS=8\n"
    assert {status for status, _ in machine.states().values()} == {"running"}
    assert [path for path in machine.folder.rglob("*") if path.name.endswith(".kept")] == []


def test_restore_that_was_interrupted_is_taken_back_first(machine: Machine) -> None:
    """A machine that lost its power in between: the next call begins from what was there."""
    file = machine.back_up()
    machine.say("since")
    key = machine.home / "secrets/store_key"
    key.with_name("store_key.kept").hardlink_to(key)
    part = key.with_name("part")
    part.write_text("f" * 64, encoding="utf-8")
    part.replace(key)

    assert machine.restore(file) == 1
    assert key.read_text() == KEY
    assert machine.said() == [CANARY, "since"]


@pytest.mark.parametrize("damage", ["cut", "bit", "passphrase", "plain"])
def test_damaged_backup_restores_nothing(
    machine: Machine, other: Machine, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does one that somebody else has made."""
    machine.be_here()
    file = machine.back_up()
    content = file.read_bytes()
    other.be_here()
    middle = len(content) // 2
    file.write_bytes(
        {
            "cut": content[:middle],
            "bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "plain": b"manifest.json",
        }.get(damage, content)
    )
    if damage == "passphrase":
        machine.monkeypatch.setattr(
            other, "passphrase_file", lambda: machine.passphrase_file("no " * 9)
        )

    assert other.restore(file) == 1

    assert not other.store.exists()
    assert other.states() == {}
    err = capsys.readouterr().err
    assert {"passphrase": "the passphrase is wrong", "plain": "no encrypted backup"}.get(
        damage, "damaged" if damage == "cut" else "Not restored"
    ) in err or "gpg said" in err
    if other.store.parent.exists():
        assert [path.name for path in other.store.parent.iterdir()] == []


def test_backup_of_a_newer_release_is_refused(
    machine: Machine, other: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything of the store is written."""
    machine.be_here()
    file = machine.back_up()
    other.be_here()
    other.docker.facts = {"gateway-1": (2, [1, 2], STORE_VERSION - 1)}

    assert other.restore(file) == 1

    versions = f"of version {STORE_VERSION}, and the images here know {STORE_VERSION - 1}"
    assert f"its store is {versions}" in capsys.readouterr().err
    assert not other.store.exists()


def test_final_backup_stops_the_keeper(machine: Machine, other: Machine) -> None:
    """And what would start it again."""
    (machine.docker_folder / "enabled").write_text("node-reconcile@model.timer\n")
    machine.be_here()
    machine.back_up("last.gpg", "--stop")

    assert machine.states()["gateway"][0] == "exited"
    assert "stop node-reconcile@model.timer node-reconcile@model.service" in machine.units
    assert not [line for line in machine.units if line.startswith("start")]
    assert any(
        "services.gateway.backup" in call and call.startswith("run") for call in machine.calls
    )


def test_timer_rests_meanwhile(machine: Machine) -> None:
    """It would start what is stopped on purpose; afterwards it goes on, also when that failed."""
    file = machine.back_up()
    (machine.docker_folder / "enabled").write_text("node-reconcile@model.timer\n")
    for sick, status in (({}, 0), ({"engine-1": "once"}, 1)):
        (machine.docker_folder / "units").unlink(missing_ok=True)
        machine.docker.sick = dict(sick)
        machine.say("since")

        assert machine.restore(file, "--replace") == status

        assert machine.units[1].startswith("stop node-reconcile@model.timer")
        assert machine.units[-1] == "start node-reconcile@model.timer"


def test_node_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings and secrets go and come back."""
    relay = Machine(tmp_path / "relay", monkeypatch, "relay")
    relay.up()
    file = relay.back_up()
    token = relay.home / "secrets/bot_token"
    token.unlink()

    assert relay.restore(file) == 0

    assert token.read_text().startswith("123:")
    assert not [call for call in relay.calls if call.startswith(("run", "exec", "volume"))]


def test_backup_of_the_other_node_is_refused(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both directions."""
    ours = machine.back_up()
    relay = Machine(tmp_path / "relay", monkeypatch, "relay")
    relay.up()
    theirs = relay.back_up()

    assert relay.restore(ours) == 1
    machine.be_here()
    assert machine.restore(theirs) == 1

    assert machine.said() == [CANARY]


def test_backup_that_is_piped_on(machine: Machine) -> None:
    """Nothing but the backup comes out; the rest is told beside it."""
    program = (
        "import sys; from pathlib import Path; from scripts.node import arguments;"
        f"arguments.ROOT = Path({str(machine.home)!r});"
        "from scripts.commands.__main__ import main; sys.exit(main())"
    )
    words = ["backup", "--out", "-", "--passphrase-file", str(machine.passphrase_file())]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    assert b"written to -" in done.stderr
    file = machine.folder / "piped.gpg"
    file.write_bytes(done.stdout)
    sealed = ("--passphrase-file", str(machine.passphrase_file()))
    assert machine.call("backup", "verify", str(file), *sealed) == 0


def test_only_one_command_at_a_time(machine: Machine) -> None:
    """Two would undo each other's work."""
    with running.alone(machine.home):
        assert machine.call("backup", "--out", str(machine.folder / "b.gpg"),
                            "--passphrase-file", str(machine.passphrase_file())) == 1  # fmt: skip


def test_archive_whose_digests_do_not_fit_is_refused(tmp_path: Path) -> None:
    """Somebody with the public key can make an archive; one that was changed is none of ours."""
    manifest = Manifest("model", "1", "now", {".env": entry_of(b"USERS=7")})
    for content, is_whole in ((b"USERS=7", True), (b"USERS=8", False), (b"USERS=70", False)):
        written = io.BytesIO()
        archive.write(written, manifest, {".env": content}, None)
        written.seek(0)
        with nullcontext() if is_whole else pytest.raises(CannotDo, match="damaged"):
            assert archive.read(written, lambda *_: None)[1] == {".env": content}


def test_last_backup_that_fails_leaves_no_keeper_stopped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would know that the node is down: there is no backup to move with."""
    (machine.docker_folder / "enabled").write_text("node-reconcile@model.timer\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        out = ("--out", str(machine.folder / "b.gpg"))
        sealed = ("--passphrase-file", str(machine.passphrase_file()))
        assert machine.call("backup", *out, *sealed, "--stop") == 1

    assert "No space left on device" in capsys.readouterr().err
    assert machine.states()["gateway"][0] == "running"
    assert machine.units[-1] == "start node-reconcile@model.timer"


def test_restore_that_was_interrupted_when_it_was_in_use_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A call that was killed while it waited: what has been said since is not given up for it."""
    file = machine.back_up()
    machine.say("lost")
    (machine.home / ".env").write_text("USERS=8\n", encoding="utf-8")

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(restore, "finish", die)
        with pytest.raises(SystemExit):
            machine.restore(file, "--replace", "--settings")
    machine.say("since")
    other = machine.back_up("other.gpg")
    machine.say("later")

    assert machine.restore(other) == 1

    assert "there is a store already" in capsys.readouterr().err
    assert machine.said() == [CANARY, "since", "later"]
    assert [path for path in machine.folder.rglob("*") if path.name.endswith(".kept")] == []


def test_restore_waits_for_an_upgrade_that_was_interrupted(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each would take what the other one has kept for its own."""
    file = machine.back_up()
    work = machine.home / ".upgrade"
    work.mkdir()
    (work / "state.json").write_text(json.dumps({"images": []}))

    assert machine.restore(file, "--replace") == 1

    assert "call `upgrade` first" in capsys.readouterr().err


def test_settings_that_would_unseal_the_logs_do_not_come_back(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup may be older than `logs seal`; without its settings it is taken."""
    file = machine.back_up()
    env = machine.home / ".env"
    sealed = env.read_text() + "COMPOSE_FILE=compose.gpu.yml:compose.gpu.journal.yml\n"
    env.write_text(sealed)
    (machine.home / "sealing").mkdir()

    assert machine.restore(file, "--replace", "--settings") == 1

    assert "go to the disk in plain text" in capsys.readouterr().err
    assert env.read_text() == sealed


def test_secrets_that_were_revoked_do_not_come_back(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup is older than `revoke`; without its settings it is taken."""
    file = machine.back_up()
    token = machine.home / "secrets/link_token"
    revoked.note(token.parent, [token.read_bytes()])
    token.unlink()
    token.write_text("made since", encoding="utf-8")

    assert machine.restore(file, "--replace", "--settings") == 1
    assert "link_token that was revoked here" in capsys.readouterr().err
    assert token.read_text() == "made since"
    assert {path.name for path in machine.store.parent.iterdir()} <= {
        "store.db", "backup.lock", "store.db-wal", "store.db-shm",
    }  # fmt: skip

    assert machine.restore(file, "--replace") == 0
    assert token.read_text() == "made since"


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_machine_without_gpg_is_told(
    machine: Machine, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian's smallest system has none: no success is claimed, and nothing is left."""
    file = machine.back_up()
    out = machine.folder / "other.gpg"
    words = [str(file)] if command == "restore" else ["--out", str(out)]
    machine.monkeypatch.setenv("PATH", str(machine.bin))

    sealed = ("--passphrase-file", str(machine.passphrase_file()))
    assert machine.call(command, *words, *sealed) == 1

    assert "apt-get install gnupg" in capsys.readouterr().err
    assert not out.exists()
