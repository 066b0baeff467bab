"""A store whose key is in memory alone: opened by a passphrase or a TPM, by no disk."""

from __future__ import annotations

import getpass
import io
import json
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.commands import unlock
from scripts.commands.__main__ import main
from scripts.doctor.examination import examine
from scripts.doctor.finding import Level
from scripts.doctor.model import store
from scripts.lifecycle import lock
from scripts.node.arguments import files_of
from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.tools import Tools
from scripts.status.model import work
from tests.unit.adyton.machine import CANARY, PASSPHRASE, Machine
from tests.unit.adyton.test_deploy import FINGERPRINT, Field, without_processes
from tests.unit.adyton.test_init import Alone, Operator, keys, secrets
from tests.unit.fakes import KEY

OTHER = "another six words by lot"
SYSTEMD_CREDS = """#!/bin/sh
[ -e "$MACHINE/no-tpm" ] && { echo "TPM2 support not installed" >&2; exit 1; }
case $1 in
encrypt) printf 'sealed:'; tr 0-9a-f g-v ;;
decrypt) sed s/^sealed:// "$3" | tr g-v 0-9a-f ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A node that is to open by a passphrase; its key is still the file that it was."""
    machine = Machine(tmp_path, monkeypatch)
    machine.up()
    machine.keep_key_in_memory("passphrase")
    assert machine.compose("up", "--force-recreate") == 0
    machine.write_bin("systemd-creds", SYSTEMD_CREDS)
    return machine


def key_of(machine: Machine) -> Path:
    return machine.folder / "run/node-key/store_key"


def wrapped(machine: Machine) -> Path:
    return machine.home / "secrets/store_key.wrapped"


def plain(machine: Machine) -> Path:
    return machine.home / "secrets/store_key"


def open_up(machine: Machine, *words: str, passphrase: str = PASSPHRASE) -> int:
    return machine.call(
        "unlock", "--passphrase-file", str(machine.passphrase_file(passphrase)), *words
    )


def restart(machine: Machine) -> None:
    """What was in memory is gone; the unit of the machine's start is the first to run."""
    shutil.rmtree(key_of(machine).parent)
    assert machine.call("unlock", "--unattended") in (0, 1)


def on_disk(machine: Machine) -> bytes:
    """All that a stolen disk shows but the store."""
    return b"".join(it.read_bytes() for it in machine.home.rglob("*") if it.is_file())


def node_of(machine: Machine) -> Node:
    kind = kinds()["model"]
    files = tuple(str(machine.home / it) for it in files_of([str(machine.home / ".env")], kind))
    return Node(kind, Tools(), machine.home, (), files)


def doctor(machine: Machine) -> list[tuple[str, Level]]:
    return [(it.problem, it.level) for it in examine(node_of(machine), [store.CHECK])]


def test_first_call_wraps_the_key_that_was_a_file(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key goes into memory, and is on the disk in no form that opens without the passphrase."""
    assert doctor(machine) == [
        ("store-locked", Level.FAILURE),
        ("store-key-on-disk", Level.FAILURE),
    ]

    assert open_up(machine) == 0

    assert key_of(machine).read_text() == KEY
    assert stat.S_IMODE(key_of(machine).stat().st_mode) == 0o600
    assert stat.S_IMODE(wrapped(machine).stat().st_mode) == 0o400
    assert not plain(machine).exists()
    assert KEY.encode() not in on_disk(machine)
    assert PASSPHRASE.encode() not in on_disk(machine)
    assert "was overwritten and removed" in capsys.readouterr().out
    assert [level for _, level in doctor(machine)] == [Level.OK]
    assert not work.is_locked(node_of(machine))
    assert not any(PASSPHRASE in call or KEY in call for call in machine.calls)


def test_new_node_makes_its_own_key(machine: Machine) -> None:
    """Where there is no store yet, and no key; no other machine ever had it."""
    machine.store.unlink()
    plain(machine).unlink()

    assert open_up(machine) == 0

    made = key_of(machine).read_text()
    assert len(made) == 64
    assert made != KEY
    restart(machine)
    assert open_up(machine) == 0
    assert key_of(machine).read_text() == made


def test_store_without_a_key_gets_no_other_one(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would open it is to be brought back, not made up."""
    plain(machine).unlink()

    assert open_up(machine) == 1

    assert "bring it back from a copy" in capsys.readouterr().err
    assert not wrapped(machine).exists()
    assert key_of(machine).read_text() == ""


def test_after_a_restart_it_is_locked_until_the_passphrase_comes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, and empty, before a container wants it; it is written in place."""
    open_up(machine)
    restart(machine)
    assert key_of(machine).read_text() == ""
    assert doctor(machine) == [("store-locked", Level.FAILURE)]
    assert work.is_locked(node_of(machine))
    mounted = key_of(machine).stat().st_ino
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSPHRASE}\n"))

    assert machine.call("unlock", "--passphrase-file", "-") == 0

    assert key_of(machine).read_text() == KEY
    assert key_of(machine).stat().st_ino == mounted
    assert open_up(machine, passphrase="not even asked for") == 0, "it is open already"


def test_wrong_passphrase_is_said_and_has_a_status_of_its_own(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is opened, nothing is lost."""
    open_up(machine)
    restart(machine)
    capsys.readouterr()

    assert open_up(machine, passphrase=OTHER) == unlock.WRONG

    said = capsys.readouterr()
    assert said.err == "Still locked: the passphrase is wrong: try again.\n"
    assert key_of(machine).read_text() == ""
    assert open_up(machine) == 0


@pytest.mark.parametrize("typed", [["short"], [PASSPHRASE, OTHER]])
def test_new_passphrase_is_long_and_typed_twice(
    machine: Machine, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip would close the store for good."""
    answers: Iterator[str] = iter(typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda _: next(answers))

    assert machine.call("unlock") == 1

    assert plain(machine).read_text() == KEY
    assert not wrapped(machine).exists()


def test_nobody_to_ask_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script is told how to give the passphrase."""
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert machine.call("unlock") == 1


def test_passphrase_is_changed(machine: Machine) -> None:
    """While the store is open: the same key, by the new passphrase alone."""
    open_up(machine)

    assert open_up(machine, "--change", passphrase=OTHER) == 0

    restart(machine)
    assert open_up(machine) == unlock.WRONG
    assert open_up(machine, passphrase=OTHER) == 0
    assert key_of(machine).read_text() == KEY
    restart(machine)
    assert open_up(machine, "--change") == 1, "locked: nobody knows what to wrap"


def test_lock_takes_the_key_out_of_memory(machine: Machine) -> None:
    """Out of the file, and out of the gateway, which begins anew and waits."""
    assert machine.call("lock") == 1, "nothing would open it again"
    open_up(machine)

    assert machine.call("lock") == 0

    assert key_of(machine).read_text() == ""
    assert any(call.startswith("restart --time 30") for call in machine.calls)
    machine.docker.fails = ["restart"]
    assert machine.call("lock") == 1, "the gateway still has it"


def test_image_that_is_not_there_is_said(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what wraps and unwraps."""
    machine.docker.images.pop("node/gateway:1")

    assert open_up(machine) == 1

    assert "`docker compose build` first" in capsys.readouterr().err
    assert plain(machine).read_text() == KEY


def test_folder_on_a_disk_is_refused(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is to be in memory alone is written to nothing else."""
    machine.write_bin("stat", "#!/bin/sh\necho ext2/ext3\n")

    assert open_up(machine) == 1

    assert "is not in memory" in capsys.readouterr().err
    assert not key_of(machine).exists()


def test_key_of_a_file_needs_no_unlocking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit of the machine's start is there on all nodes at home."""
    machine = Machine(tmp_path, monkeypatch)

    assert machine.call("unlock", "--unattended") == 0
    assert machine.call("unlock") == machine.call("lock") == 1
    assert [level for _, level in doctor(machine)] == [Level.OK]


def test_dry_runs_change_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """They say what would come."""
    before = on_disk(machine)

    for words in (["unlock"], ["unlock", "--change"], ["unlock", "--unattended"], ["lock"]):
        assert machine.call(*words, "--dry-run") == 0
        assert "Would" in capsys.readouterr().out

    assert on_disk(machine) == before
    assert not key_of(machine).exists()


def test_wrapped_key_that_is_lost_is_written_anew_while_it_can(machine: Machine) -> None:
    """The doctor finds it before the machine is restarted."""
    open_up(machine)
    wrapped(machine).unlink()
    assert doctor(machine) == [("store-key-not-kept", Level.FAILURE)]

    assert open_up(machine, passphrase=OTHER) == 0

    restart(machine)
    assert open_up(machine, passphrase=OTHER) == 0
    assert key_of(machine).read_text() == KEY


def test_file_that_the_gateway_still_runs_on_stays(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """To overwrite it would take the key from a container that was not made anew yet."""
    machine.furnish()
    machine.compose("up", "--force-recreate")
    machine.keep_key_in_memory("passphrase")

    assert open_up(machine) == 0

    assert "still runs on it: `docker compose up -d`" in capsys.readouterr().out
    assert plain(machine).read_text() == KEY
    machine.compose("up", "--force-recreate")
    assert open_up(machine) == 0
    assert not plain(machine).exists()


def test_other_key_beside_it_is_not_removed(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may open another store."""
    open_up(machine)
    plain(machine).write_text("f" * 64, encoding="utf-8")
    restart(machine)

    assert open_up(machine) == 0

    assert plain(machine).read_text() == "f" * 64
    assert "holds another key" in capsys.readouterr().out


# Backups, upgrades, removal.


def test_backup_and_upgrade_of_a_locked_node_say_what_to_do(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can read the store then."""
    open_up(machine)
    restart(machine)
    sealed = ("--passphrase-file", str(machine.passphrase_file()))

    for words in (["backup", *sealed], ["upgrade"], ["restore", "any.gpg", *sealed]):
        assert machine.call(*words) == 1
        assert "the store is locked: `scripts/node-admin unlock`" in capsys.readouterr().err


def test_restored_store_opens_with_its_own_key_after_a_restart(machine: Machine) -> None:
    """The backup's key is wrapped with a passphrase of the operator's; the one before is gone."""
    open_up(machine)
    file = machine.back_up()
    machine.say("since")
    machine.store.unlink()
    for path in (wrapped(machine), key_of(machine)):
        path.unlink()
    assert open_up(machine) == 0
    assert key_of(machine).read_text() != KEY
    machine.compose("up")
    new = machine.folder / "new"
    new.write_text(f"{OTHER}\n", encoding="utf-8")

    assert machine.restore(file, "--replace", "--store-passphrase-file", str(new)) == 0

    assert machine.said() == [CANARY]
    assert key_of(machine).read_text() == KEY
    assert KEY.encode() not in on_disk(machine)
    restart(machine)
    assert open_up(machine) == unlock.WRONG
    assert open_up(machine, passphrase=OTHER) == 0
    assert key_of(machine).read_text() == KEY


def test_backup_restored_onto_a_new_node(machine: Machine) -> None:
    """Before anybody has opened it: the passphrase is set along with it."""
    open_up(machine)
    file = machine.back_up()
    machine.store.unlink()
    wrapped(machine).unlink()
    restart(machine)
    new = machine.folder / "new"
    new.write_text(f"{OTHER}\n", encoding="utf-8")

    assert machine.restore(file, "--store-passphrase-file", str(new)) == 0

    assert machine.said() == [CANARY]
    assert key_of(machine).read_text() == KEY
    restart(machine)
    assert open_up(machine, passphrase=OTHER) == 0


def test_restore_that_fails_leaves_the_passphrase_as_it_was(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrapped key, key and store go back together."""
    open_up(machine)
    file = machine.back_up()
    machine.store.unlink()
    wrapped(machine).unlink()
    restart(machine)
    open_up(machine)
    machine.compose("up")
    key, before = key_of(machine).read_text(), wrapped(machine).read_bytes()
    machine.docker.sick = {"engine-1": "once"}
    new = machine.folder / "new"
    new.write_text(f"{OTHER}\n", encoding="utf-8")

    assert machine.restore(file, "--replace", "--store-passphrase-file", str(new)) == 1

    assert "engine is unhealthy" in capsys.readouterr().err
    assert wrapped(machine).read_bytes() == before
    assert key_of(machine).read_text() == key
    assert [it for it in machine.folder.rglob("*") if it.name.endswith(".kept")] == []


def test_removal_takes_the_key_out_of_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the store kept, what opens it stays wrapped."""
    monkeypatch.setattr("scripts.commands.uninstall.UNITS", tmp_path / "units")
    open_up(machine)

    assert machine.call("uninstall", "--yes", "--keep-store") == 0

    assert not key_of(machine).parent.exists()
    assert wrapped(machine).exists()


# By a TPM.


@pytest.fixture
def sealed(machine: Machine) -> Machine:
    """The same, to be opened by its TPM, and opened once."""
    machine.keep_key_in_memory("tpm")
    assert machine.call("unlock", "--unattended") == 0
    return machine


def test_tpm_opens_the_store_without_anybody(sealed: Machine) -> None:
    """After each start of this machine; its disk alone has no key on it."""
    assert key_of(sealed).read_text() == KEY
    assert not plain(sealed).exists()
    assert KEY.encode() not in on_disk(sealed)
    assert [level for _, level in doctor(sealed)] == [Level.OK]

    restart(sealed)

    assert key_of(sealed).read_text() == KEY


def test_tpm_that_refuses_leaves_it_locked(
    sealed: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another machine, another Secure Boot: the file for the container is there all the same."""
    (sealed.docker_folder / "no-tpm").touch()

    restart(sealed)

    assert key_of(sealed).read_text() == ""
    assert "the TPM does not open the key (TPM2 support not installed)" in capsys.readouterr().err
    assert doctor(sealed) == [("store-locked", Level.FAILURE)]


def test_passphrase_beside_the_tpm_opens_it_where_that_refuses(sealed: Machine) -> None:
    """If one was set; the TPM then seals the key anew."""
    assert open_up(sealed, "--change") == 0
    at_rest = sealed.home / "secrets/store_key.sealed"
    at_rest.chmod(0o600)
    at_rest.write_text("", encoding="utf-8")
    restart(sealed)
    assert key_of(sealed).read_text() == ""

    assert open_up(sealed, passphrase=OTHER) == unlock.WRONG
    assert open_up(sealed) == 0

    assert key_of(sealed).read_text() == KEY
    restart(sealed)
    assert key_of(sealed).read_text() == KEY, "by the TPM again"


def test_passphrase_instead_of_the_tpm(sealed: Machine) -> None:
    """The whole machine, stolen, opens nothing by itself any more."""
    sealed.keep_key_in_memory("passphrase")

    assert open_up(sealed) == 0

    assert not (sealed.home / "secrets/store_key.sealed").exists()
    restart(sealed)
    assert key_of(sealed).read_text() == ""
    assert open_up(sealed) == 0
    assert key_of(sealed).read_text() == KEY


def test_no_tpm_changes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The key stays where it was, and the sentence says what to take instead."""
    machine.keep_key_in_memory("tpm")
    (machine.docker_folder / "no-tpm").touch()

    assert machine.call("unlock") == 1

    assert "`init --store-key passphrase`" in capsys.readouterr().err
    assert plain(machine).read_text() == KEY


@pytest.mark.skipif(shutil.which("systemd-creds") is None, reason="systemd's own tool is asked")
def test_systemd_seals_and_unseals(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real systemd-creds, with the key that it has for machines without a TPM."""
    (machine.bin / "systemd-creds").unlink()
    known = subprocess.run(["systemd-creds", "--help"], capture_output=True, text=True).stdout
    kind = "null" if "null" in known else "tpm2-absent"
    monkeypatch.setattr(lock, "SEALED_WITH", (f"--with-key={kind}",))
    machine.keep_key_in_memory("tpm")

    assert machine.call("unlock", "--unattended") == 0
    restart(machine)

    assert key_of(machine).read_text() == KEY
    assert KEY.encode() not in on_disk(machine)


def test_compose_files_and_unit_agree_on_the_place() -> None:
    """Both kinds have the key in one file in /run, which the unit may write to."""
    root = Path(__file__).resolve().parents[3]
    for kind in lock.OVERLAYS:
        text = (root / f"compose.gpu.{kind}.yml").read_text(encoding="utf-8")
        assert "store_key: { file: /run/node-key/store_key }" in text
    unit = (root / "scripts/systemd/node-key@.service").read_text(encoding="utf-8")
    assert "ReadWritePaths=/run " in unit
    assert json.dumps("unlock --unattended")[1:-1] in unit


# In bundles.


@pytest.mark.parametrize("kind", [lock.PASSPHRASE, lock.TPM])
def test_bundles_of_a_new_node_hold_no_key(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does the folder that they were made in; it is so after a rotation, too."""
    operator = Operator(tmp_path)

    assert operator.init_all("--store-key", kind, "--logs", "journal") == 0

    commands = "scripts/node-admin unlock --unattended && docker compose up -d"
    assert commands in capsys.readouterr().out
    for again in ([], ["--rotate"]):
        assert operator.init(*again) == 0
        assert "store_key" not in secrets(operator)
        assert "opt/model/secrets/store_key" not in operator.bundle("model")
        assert "etc/systemd/system/node-key@.service" in operator.bundle("model")
        assert "etc/systemd/system/node-key@.service" not in operator.bundle("relay")
        assert operator.settings("model")["COMPOSE_FILE"] == (
            f"compose.gpu.yml:compose.gpu.{kind}.yml:compose.gpu.journal.yml"
        )
        assert "COMPOSE_FILE" not in operator.settings("relay") or (
            kind not in operator.settings("relay")["COMPOSE_FILE"]
        )


def test_old_node_changes_to_a_passphrase_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy of its key stays with the operator until they delete it, which they are told."""
    operator = Operator(tmp_path)
    operator.init_all()
    key = operator.text("model", "secrets/store_key")
    capsys.readouterr()

    assert operator.init("--store-key", "passphrase") == 0

    assert "delete that line there" in capsys.readouterr().out
    assert "opt/model/secrets/store_key" not in operator.bundle("model")
    assert operator.init("--store-key", "file") == 0
    assert operator.text("model", "secrets/store_key") == key
    answers = operator.out / "answers.json"
    kept = json.loads(answers.read_text())
    kept["secrets"].pop("store_key")
    answers.write_text(json.dumps(kept))
    assert operator.init("--store-key", "tpm") == 0
    capsys.readouterr()
    assert operator.init("--store-key", "file") == 0
    assert "install -m 0400 -o 10003 /run/node-key/store_key" in capsys.readouterr().out


def test_file_is_what_it_is_without_being_asked_for(tmp_path: Path) -> None:
    """The same bundles, byte for byte."""
    operator = Operator(tmp_path)
    operator.init_all()
    before = operator.files()

    assert operator.init("--store-key", "file") == 0

    assert operator.files() == before


def test_node_makes_no_key_of_its_own_where_unlock_does(tmp_path: Path) -> None:
    """`keys` would lay it open on the disk."""
    model = Alone(tmp_path, "model")
    assert model.init_node("--store-key", "passphrase") == 0
    home = model.unpack(tmp_path / "home")

    keys(home)

    assert (home / "secrets/tunnel_private_key").exists()
    assert not (home / "secrets/store_key").exists()


def test_upgrade_to_a_bundle_with_the_key_as_a_file_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would lie beside the store again."""
    open_up(machine)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in (machine.file, ".env", "secrets/link_token"):
            archive.add(machine.home / name, f"opt/model/{name}")
        entry = tarfile.TarInfo("opt/model/secrets/store_key")
        entry.size = len(KEY)
        archive.addfile(entry, io.BytesIO(KEY.encode()))
    bundle = machine.folder / "model.tar"
    bundle.write_bytes(content.getvalue())

    assert machine.call("upgrade", str(bundle)) == 1

    assert "make it with `init --store-key passphrase`" in capsys.readouterr().err
    assert not plain(machine).exists()


@pytest.mark.parametrize("named", ["compose.gpu.yml", "compose.gpu.yml:compose.gpu.tpm.yml"])
def test_upgrade_does_not_change_what_opens_the_store(
    machine: Machine, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts what the present Compose files say: the change would come later, by itself."""
    open_up(machine)
    settings = f"USERS=7\nCOMPOSE_FILE={named}\n".encode()
    bundle = machine.folder / "model.tar"
    with tarfile.open(bundle, mode="w") as archive:
        archive.add(machine.home / machine.file, f"opt/model/{machine.file}")
        entry = tarfile.TarInfo("opt/model/.env")
        entry.size, entry.mode = len(settings), 0o600
        archive.addfile(entry, io.BytesIO(settings))

    assert machine.call("upgrade", str(bundle)) == 1

    assert "and this node `passphrase`: change that by `deploy`" in capsys.readouterr().err


def test_upgrade_of_an_open_node_leaves_it_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The containers are made anew, and find the same file."""
    monkeypatch.setattr("scripts.commands.upgrade.UNITS", tmp_path / "units")
    open_up(machine)
    machine.docker.images["node/gateway:1"] = "gateway-2"

    assert machine.call("upgrade") == 0

    assert machine.states()["gateway"] == ("running", "gateway-2")
    assert key_of(machine).read_text() == KEY
    assert machine.said() == [CANARY]


def test_deploy_makes_the_file_before_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And on a node whose key is a file it does not."""
    for name, words in (("file", []), ("passphrase", ["--store-key", "passphrase"])):
        (tmp_path / name).mkdir()
        field = Field(tmp_path / name, monkeypatch)
        without_processes(field, monkeypatch)
        assert field.init_all(*words) == 0
        host = ["model", "198.18.5.7", "--out", str(field.out), "--wait", "0"]

        assert main(["deploy", *host, "--host-key", FINGERPRINT]) == 0

        names = field.names()
        assert ("store key" in names) == bool(words)
        assert not words or names.index("unpack") < names.index("store key") < names.index("up")
