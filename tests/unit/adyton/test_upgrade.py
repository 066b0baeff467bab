"""A node is upgraded, or goes back to what ran before, and loses no message in either case."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import upgrade
from scripts.lifecycle.images import aside
from tests.unit.adyton.machine import CANARY, COMPOSE, Machine
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
    machine.docker.facts["gateway-2"] = (2, [1, 2], 11)
    machine.docker.migrating = {"gateway-2"}
    machine.docker.sick = {"gateway-2": "always"}

    assert machine.call("upgrade", str(bundle(machine))) == 1

    assert is_as_before(machine)
    assert machine.said() == [CANARY]
    assert not machine.store.with_name("store.db.kept").exists()
    machine.docker.sick = {}
    assert machine.call("upgrade", str(bundle(machine))) == 0
    assert "The store goes from version 10 to 11" in capsys.readouterr().out
    assert machine.store.read_bytes() == b"of the new form"
    assert not machine.store.with_name("store.db.kept").exists()


def test_interrupted_upgrade_is_taken_back_by_the_next_call(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a loss of power in the middle; messages had not come in yet."""
    machine.docker.facts["gateway-2"] = (2, [1, 2], 11)
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
