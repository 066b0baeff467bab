"""A node is upgraded, or goes back to what ran before, and loses no message in either case."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import upgrade
from scripts.lifecycle import revoked
from scripts.lifecycle.images import aside
from tests.unit.adyton.machine import CANARY, COMPOSE, STORE_VERSION, Machine
from tests.unit.fakes import KEY


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "model", monkeypatch)
    monkeypatch.setattr(upgrade, "UNITS", tmp_path / "units")
    machine.up()
    load(machine)
    return machine


def load(machine: Machine) -> None:
    """Bring the images of the next release."""
    machine.docker.images |= {
        "node/wireguard:2": "wireguard-2",
        "node/gateway:2": "gateway-2",
        "node/relay:2": "relay-2",
        "node/router:2": "router-2",
    }
    machine.docker.facts["relay-2"] = (2, [1, 2], 0)


def bundle(machine: Machine, **files: str) -> Path:
    """The next release's bundle: other images, one more script, one more unit."""
    compose = json.loads(json.dumps(COMPOSE[machine.file]).replace("$VERSION", "2"))
    home = f"opt/{machine.kind}"
    content: dict[str, Any] = {
        f"{home}/{machine.file}": json.dumps(compose),
        f"{home}/.env": "USERS=7\nNEW=1\n",
        f"{home}/scripts/new.py": "print()\n",
        "etc/systemd/system/node@.service": "[Unit]\n",
    }
    content |= {f"{home}/{name}": text for name, text in files.items()}
    file = machine.folder / "bundle.tar"
    with tarfile.open(file, "w") as archive:
        for name, text in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o600 if name.endswith(".env") else 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return file


def images(machine: Machine) -> dict[str, str]:
    return {service: image for service, (_, image) in machine.states().items()}


def is_as_before(machine: Machine) -> bool:
    """All runs on the old images, by their old names, and nothing of the try is left."""
    left = [path for path in machine.home.rglob("*") if path.name == upgrade.WORK]
    running = {status for status, _ in machine.states().values()}
    names = {aside(name) for name in machine.docker.images} & set(machine.docker.images)
    return (
        images(machine)
        == {
            "wireguard": "wireguard-1",
            "uplink": "wireguard-1",
            "gateway": "gateway-1",
            "engine": "engine-1",
        }
        and running == {"running"}
        and machine.docker.images["node/gateway:1"] == "gateway-1"
        and not names
        and left == []
        and (machine.home / ".env").read_text() == "USERS=7\n"
        and not (machine.home / "scripts/new.py").exists()
        and not (upgrade.UNITS / "node@.service").exists()
    )


def test_upgrade_to_a_bundle(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and images become new; the store stays, and the second call finds nothing to do."""
    file = bundle(machine)

    assert machine.call("upgrade", str(file)) == 0
    assert "wire 2 of 1 to 2, the other node was not heard" in capsys.readouterr().out
    assert images(machine)["gateway"] == "gateway-2"
    assert images(machine)["uplink"] == "wireguard-2"
    assert (machine.home / "scripts/new.py").exists()
    assert (upgrade.UNITS / "node@.service").exists()
    assert "daemon-reload" in machine.units
    assert machine.said() == [CANARY]
    assert not (machine.home / upgrade.WORK).exists()
    calls = len(machine.calls)
    assert machine.call("upgrade", str(file)) == 0

    assert "nothing was changed" in capsys.readouterr().out
    assert not [call for call in machine.calls[calls:] if " up " in call or call.startswith("tag")]


def test_messages_come_in_when_all_is_known_to_run(machine: Machine) -> None:
    """The tunnel is tried while nobody listens, and shut until the store's keeper is well."""
    assert machine.call("upgrade", str(bundle(machine))) == 0

    steps = [
        call.partition(".yml ")[2].split()
        for call in machine.calls
        if " up " in call or " stop " in call
    ]
    done = [(words[0], {it for it in words if it in COMPOSE["compose.gpu.yml"]["services"]})
            for words in steps]  # fmt: skip
    assert done == [
        ("stop", {"uplink", "gateway"}),
        ("up", {"uplink"}),
        ("stop", {"uplink"}),
        ("up", {"wireguard", "gateway", "engine"}),
        ("up", {"uplink"}),
    ]


def test_dry_run_changes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """It says which images and files would."""
    before = {path: path.read_bytes() for path in machine.home.rglob("*") if path.is_file()}
    calls = len(machine.calls)

    assert machine.call("upgrade", str(bundle(machine)), "--dry-run") == 0

    out = capsys.readouterr().out
    assert "node/gateway:2" in out
    assert "scripts/new.py" in out
    assert before == {path: path.read_bytes() for path in machine.home.rglob("*") if path.is_file()}
    assert not [c for c in machine.calls[calls:] if " up " in c or " stop " in c or c[:3] == "tag"]


def test_images_of_the_same_name_that_were_loaded(machine: Machine) -> None:
    """Without a bundle: what a name means has changed."""
    machine.docker.images["node/gateway:1"] = "gateway-2"

    assert machine.call("upgrade") == 0

    assert images(machine)["gateway"] == "gateway-2"


@pytest.mark.parametrize("sick", ["wireguard-2", "gateway-2"])
def test_upgrade_that_does_not_run_goes_back(
    machine: Machine, sick: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever of the new containers is not well; why is said."""
    (machine.docker_folder / "enabled").write_text("node-reconcile@model.timer\n")
    machine.docker.sick = {sick: "always"}

    assert machine.call("upgrade", str(bundle(machine))) == 1

    assert "is unhealthy. It said: these are its last words" in capsys.readouterr().err
    assert is_as_before(machine)
    assert machine.said() == [CANARY]
    assert machine.units[-1] == "start node-reconcile@model.timer"


def test_images_that_had_the_same_name_go_back(machine: Machine) -> None:
    """Their names mean the old ones again."""
    machine.docker.images["node/gateway:1"] = "gateway-2"
    machine.docker.sick = {"gateway-2": "always"}

    assert machine.call("upgrade") == 1

    assert is_as_before(machine)


def test_store_goes_back_with_the_gateway_that_knows_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new gateway brings it to a new form, and then does not run: the copy comes back."""
    machine.docker.facts["gateway-2"] = (2, [1, 2], STORE_VERSION + 1)
    machine.docker.migrating = {"gateway-2"}
    machine.docker.sick = {"gateway-2": "always"}

    assert machine.call("upgrade", str(bundle(machine))) == 1

    assert is_as_before(machine)
    assert machine.said() == [CANARY]
    assert not machine.store.with_name("store.db.kept").exists()
    machine.docker.sick = {}
    assert machine.call("upgrade", str(bundle(machine))) == 0
    step = f"from version {STORE_VERSION} to {STORE_VERSION + 1}"
    assert f"The store goes {step}" in capsys.readouterr().out
    assert machine.store.read_bytes() == b"of the new form"
    assert not machine.store.with_name("store.db.kept").exists()


def test_interrupted_upgrade_is_taken_back_by_the_next_call(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a loss of power in the middle; messages had not come in yet."""
    machine.docker.facts["gateway-2"] = (2, [1, 2], STORE_VERSION + 1)
    machine.docker.migrating = {"gateway-2"}
    file = bundle(machine)

    def lose_power(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(upgrade, "go_back", lose_power)
        machine.docker.sick = {"gateway-2": "always"}
        with pytest.raises(SystemExit):
            machine.call("upgrade", str(file))
    machine.docker.sick = {}
    assert machine.store.read_bytes() == b"of the new form"
    assert machine.call("upgrade", str(file), "--dry-run") == 1

    assert machine.call("upgrade", str(file)) == 1

    assert "has been taken back" in capsys.readouterr().err
    assert is_as_before(machine)
    assert machine.said() == [CANARY]


def test_upgrade_that_was_interrupted_when_messages_came_in_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go back would lose them."""
    file = bundle(machine)

    def lose_power(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(upgrade, "discard", lose_power)
        with pytest.raises(SystemExit):
            machine.call("upgrade", str(file))

    assert machine.call("upgrade", str(file)) == 0

    assert images(machine)["gateway"] == "gateway-2"
    assert not (machine.home / upgrade.WORK).exists()


@pytest.mark.parametrize(
    ("heard", "facts", "why"),
    [
        ("", (4, [3, 4], 10), "this node speaks version 2 of the wire"),
        ("1", (3, [2, 3], 10), "the other node was last heard with version 1"),
        ("2", (2, [1, 2], 9), "the new images know 9"),
    ],
)
def test_upgrade_that_would_not_fit_is_refused(
    machine: Machine,
    heard: str,
    facts: tuple[int, list[int], int],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Too far from the other node, or older than the store: nothing is touched."""
    machine.docker.heard = heard
    machine.docker.facts["gateway-2"] = facts

    assert machine.call("upgrade", str(bundle(machine))) == 1

    assert why in capsys.readouterr().err
    assert is_as_before(machine)


def test_image_that_is_missing_is_said_before_anything_stops(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or it is built first."""
    built = {name: machine.docker.images.pop(name) for name in ("node/gateway:2",)}
    assert machine.call("upgrade", str(bundle(machine))) == 1
    assert "the image node/gateway:2 is not here" in capsys.readouterr().err
    assert is_as_before(machine)
    machine.docker.built = built

    assert machine.call("upgrade", str(bundle(machine)), "--build") == 0

    assert images(machine)["gateway"] == "gateway-2"


@pytest.mark.parametrize(
    "files",
    [{"../../../etc/passwd": "x"}, {"secrets/store_key": "f" * 64}],
    ids=["way out", "another key"],
)
def test_bundle_that_is_not_for_this_node_is_refused(
    machine: Machine, files: dict[str, str]
) -> None:
    """One that reaches out of its folder, or that would close the store for good."""
    assert machine.call("upgrade", str(bundle(machine, **files))) == 1

    assert is_as_before(machine)
    assert (machine.home / "secrets/store_key").read_text() == KEY


def test_node_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    """Forward and back; the other node's bundle is not taken."""
    monkeypatch.setattr(upgrade, "UNITS", tmp_path / "units-of-relay")
    relay = Machine(tmp_path / "relay", monkeypatch, "relay")
    relay.docker.facts["relay-1"] = (2, [1, 2], 0)
    relay.up()
    load(relay)
    theirs = bundle(machine)
    assert relay.call("upgrade", str(theirs)) == 1
    relay.docker.sick = {"relay-2": "always"}
    assert relay.call("upgrade", str(bundle(relay))) == 1
    assert images(relay)["relay"] == "relay-1"
    relay.docker.sick = {}

    assert relay.call("upgrade", str(bundle(relay))) == 0

    assert images(relay)["relay"] == "relay-2"


def test_worker(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Forward and back; its door is asked for no wire, and the first box's bundle is not taken."""
    monkeypatch.setattr(upgrade, "UNITS", tmp_path / "units-of-worker")
    theirs = bundle(machine)
    worker = Machine(tmp_path / "worker", monkeypatch, "worker")
    worker.up()
    load(worker)
    file = bundle(worker)
    assert worker.call("upgrade", str(theirs)) == 1
    assert worker.call("upgrade", str(file), "--dry-run") == 0
    assert "It speaks" not in capsys.readouterr().out
    worker.docker.sick = {"router-2": "always"}
    assert worker.call("upgrade", str(file)) == 1
    assert images(worker)["door"] == "router-1"
    changes = ("stop", "up", "rm")
    done = [call.partition(".yml ")[2] for call in worker.calls]
    steps = [it for it in done if it.startswith(changes)]
    assert [it.split()[0] for it in steps] == ["up", "stop", "up", "stop", "rm", "up"]
    assert steps[1] == "stop --timeout 30 door", "the engine goes on"
    assert (worker.home / ".env").read_text() == "USERS=7\n"
    worker.docker.sick = {}

    assert worker.call("upgrade", str(file)) == 0

    assert images(worker) == {
        "wireguard": "wireguard-2",
        "uplink": "wireguard-2",
        "door": "router-2",
        "engine": "engine-1",
    }
    assert not [call for call in worker.calls if call.startswith("run ")]
    assert worker.call("upgrade", str(file)) == 0
    assert "nothing was changed" in capsys.readouterr().out


def test_overlay_that_a_bundle_adds(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Its image has to be there before anything changes; its service runs in the end, or goes."""
    router = json.dumps({"services": {"router": {"image": "node/router:2"}}})
    named = f"USERS=7\nCOMPOSE_FILE={machine.file}:compose.gpu.router.yml\n"
    file = bundle(machine, **{".env": named, "compose.gpu.router.yml": router})
    image = machine.docker.images.pop("node/router:2")
    assert machine.call("upgrade", str(file)) == 1
    assert "the image node/router:2 is not here" in capsys.readouterr().err
    assert is_as_before(machine)
    machine.docker.images["node/router:2"] = image

    assert machine.call("upgrade", str(file)) == 0

    assert images(machine)["router"] == "router-2"
    assert machine.said() == [CANARY]


def killed_in(machine: Machine, name: str, *words: str, before: bool = True) -> None:
    """Call `upgrade` and end it, as by SIGKILL, when it comes to a function of its own."""

    class Killed(BaseException):
        pass

    original = getattr(upgrade, name)

    def die(*given: Any, **more: Any) -> None:
        if not before:
            original(*given, **more)
        raise Killed

    with machine.monkeypatch.context() as patched:
        patched.setattr(upgrade, name, die)
        patched.setattr(upgrade, "give_up", lambda *_: None)
        with pytest.raises(Killed):
            machine.call("upgrade", *words)


def test_upgrade_that_was_killed_while_the_tunnel_was_tried_alone_goes_back(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The uplink runs by itself then, and nobody answers."""
    file = bundle(machine)
    killed_in(machine, "wait_until_well", str(file))
    assert machine.states()["uplink"] == ("running", "wireguard-2")
    assert machine.states()["gateway"][0] == "exited"

    assert machine.call("upgrade", str(file)) == 1

    assert "has been taken back" in capsys.readouterr().err
    assert is_as_before(machine)


def test_interrupted_upgrade_whose_gateway_is_not_well_does_not_stay(machine: Machine) -> None:
    """Messages may have come in, into a store that the old gateway can read: nothing is lost."""
    file = bundle(machine)
    killed_in(machine, "discard", str(file))
    machine.say("since")
    machine.docker.sick = {"gateway-2": "always"}
    assert machine.compose("up", "--force-recreate", "gateway") == 0

    assert machine.call("upgrade", str(file)) == 1

    assert is_as_before(machine)
    assert machine.said() == [CANARY, "since"]


def test_machine_that_was_started_anew_in_the_middle_loses_no_message(machine: Machine) -> None:
    """Everything that is there starts at boot, and takes messages into a store of the new form."""
    machine.docker.facts["gateway-2"] = (2, [1, 2], STORE_VERSION + 1)
    machine.docker.migrating = {"gateway-2"}
    file = bundle(machine)
    killed_in(machine, "put_files", str(file), before=False)
    assert machine.compose("up") == 0

    assert machine.call("upgrade", str(file)) == 0

    assert machine.store.read_bytes() == b"of the new form"
    assert {image for _, image in machine.states().values()} == {
        "wireguard-2", "gateway-2", "engine-1",
    }  # fmt: skip
    assert not (machine.home / upgrade.WORK).exists()


def test_file_that_was_half_kept_does_not_come_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that lost its power, or had no room, in the middle of the copy."""
    file = bundle(machine)
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "..env.part":
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert machine.call("upgrade", str(file)) == 1

    assert is_as_before(machine)
    assert (machine.home / ".env").stat().st_mode & 0o777 == 0o600
    assert not list(machine.home.rglob("*.part"))


def test_upgrade_that_was_killed_while_it_tidied_up_is_over(machine: Machine) -> None:
    """What was kept is gone in part: nothing could go back to it."""
    file = bundle(machine)
    machine.docker.sick = {"gateway-2": "always"}
    rmtree = shutil.rmtree

    def die(path: Path, **more: Any) -> None:
        if path.name == upgrade.WORK:
            rmtree(path / "before")
            raise SystemExit
        rmtree(path, **more)

    with machine.monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(SystemExit):
            machine.call("upgrade", str(file))
    machine.docker.sick = {}

    assert machine.call("upgrade", str(file)) == 0

    assert images(machine)["gateway"] == "gateway-2"
    assert not (machine.home / upgrade.WORK).exists()


def test_store_that_a_restore_has_kept_is_not_taken_for_the_copy(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """An upgrade that goes back would put it in the place of all that was said since."""
    machine.docker.facts["gateway-2"] = (2, [1, 2], STORE_VERSION + 1)
    kept = machine.store.with_name("store.db.kept")
    kept.write_bytes(b"of long ago")

    assert machine.call("upgrade", str(bundle(machine))) == 1

    assert "a `restore` was interrupted" in capsys.readouterr().err
    assert is_as_before(machine)
    assert machine.said() == [CANARY]
    assert kept.read_bytes() == b"of long ago"


def test_upgrade_goes_back_although_nobody_listens(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection over which it was called is gone, and what it says goes nowhere."""
    machine.docker.sick = {"gateway-2": "always"}

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Gone())
        machine.call("upgrade", str(bundle(machine)))

    assert is_as_before(machine)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_signal_leaves_nothing_half_done(
    machine: Machine, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection does not end it; a polite kill takes it back."""
    put_files = upgrade.put_files

    def interrupted(*given: Any) -> None:
        put_files(*given)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(upgrade, "put_files", interrupted)
    handlers = {it: signal.getsignal(it) for it in (signal.SIGHUP, signal.SIGTERM)}
    file = bundle(machine)

    status = machine.call("upgrade", str(file))

    if number == signal.SIGHUP:
        assert status == 0
        assert images(machine)["gateway"] == "gateway-2"
    else:
        assert status == 130
        assert is_as_before(machine)
    assert handlers == {it: signal.getsignal(it) for it in handlers}


def test_timer_goes_on_after_a_call_that_was_killed(machine: Machine) -> None:
    """It was stopped by that call; the node's unit says that it is to be on."""
    file = bundle(machine)
    killed_in(machine, "put_files", str(file))
    (machine.docker_folder / "enabled").write_text("node@model.service\n")

    assert machine.call("upgrade", str(file)) == 1

    assert machine.units[-1] == "start node-reconcile@model.timer"


def test_node_that_was_cut_off_is_upgraded_without_its_tunnel(machine: Machine) -> None:
    """Nobody waits for a container that shall not be."""
    compose = json.loads((machine.home / machine.file).read_text())
    compose["services"]["uplink"]["deploy"] = {"replicas": 0}
    (machine.home / machine.file).write_text(json.dumps(compose))
    del machine.docker.containers["model-uplink-1"]
    machine.docker.images["node/gateway:1"] = "gateway-2"

    assert machine.call("upgrade") == 0

    assert images(machine) == {
        "wireguard": "wireguard-1", "gateway": "gateway-2", "engine": "engine-1",
    }  # fmt: skip


def test_bundle_that_would_unseal_the_logs_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was made without `init --logs journal`."""
    (machine.home / "sealing").mkdir()

    assert machine.call("upgrade", str(bundle(machine))) == 1

    assert "go to the disk in plain text" in capsys.readouterr().err
    assert is_as_before(machine)


def test_bundle_that_was_revoked_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would let the lost VPS in again."""
    revoked.note(machine.home / "secrets", [b"lost"])
    file = bundle(machine, **{"secrets/link_token": "lost"})

    assert machine.call("upgrade", str(file)) == 1

    assert "link_token that was revoked here" in capsys.readouterr().err
    assert is_as_before(machine)
