"""Nothing of a node is left, and what was to stay does."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.commands import uninstall
from tests.unit.adyton.machine import CANARY, Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A running node, another project, and systemd's units."""
    monkeypatch.setattr(uninstall, "UNITS", tmp_path / "units")
    monkeypatch.setattr(uninstall, "OPT", tmp_path / "opt")
    monkeypatch.setattr(uninstall, "HARDENED", tmp_path / "node-harden")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "units").mkdir()
    for name in uninstall.TEMPLATES:
        (tmp_path / "units" / name).touch()
    machine = Machine(tmp_path / "model", monkeypatch)
    (machine.docker_folder / "enabled").write_text("node@model.service\n")
    machine.up()
    docker = machine.docker
    docker.containers["else-web-1"] = {
        "Id": "other", "Name": "/else-web-1", "State": {"Status": "running"},
        "Config": {"Image": "web:1", "Labels": {"com.docker.compose.project": "else"}},
    }  # fmt: skip
    docker.volumes["else_data"] = "else"
    docker.volumes["model_weights"] = ""  # made by hand
    docker.networks["else_net"] = "else"
    docker.images |= {"web:1": "web", "node/gateway:before-upgrade": "gateway-0"}
    return machine


def left(machine: Machine) -> list[str]:
    """What is still there of the node."""
    docker = machine.docker
    names = [*docker.containers, *docker.volumes, *docker.networks, *docker.images]
    ours = [name for name in names if "else" not in name and name not in ("web:1", "node/relay:1")]
    units = [path.name for path in uninstall.UNITS.iterdir()]
    return [*ours, *units, *([str(machine.home)] if machine.home.exists() else [])]


def test_nothing_is_left(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Listed first, gone afterwards; what is of others stays; a second call has nothing to do."""
    assert machine.call("uninstall", "--yes") == 0

    out = capsys.readouterr().out
    listed = ["model-gateway-1", "model_store", "model_weights", "node/gateway:1"]
    listed += ["node/gateway:before-upgrade", "node@model.service", str(machine.home)]
    for name in listed:
        assert name in out
    assert "Looked again: nothing of that is left." in out
    assert left(machine) == []
    assert list(machine.docker.containers) == ["else-web-1"]
    assert list(machine.docker.volumes) == ["else_data"]
    assert list(machine.docker.networks) == ["else_net"]
    assert "web:1" in machine.docker.images
    assert any(line.startswith("disable --now node@model.service") for line in machine.units)


def test_nothing_is_left_of_a_worker(tmp_path: Path, machine: Machine) -> None:
    """The weights go as well; it has no store that could stay."""
    worker = Machine(tmp_path / "worker", machine.monkeypatch, "worker")
    (worker.docker_folder / "enabled").write_text("node@worker.service\n")
    worker.up()
    assert list(worker.docker.volumes) == ["worker_weights"]
    assert worker.call("uninstall", "--yes", "--keep-store") == 1

    assert worker.call("uninstall", "--yes") == 0

    assert not worker.docker.containers
    assert not worker.docker.volumes
    assert not worker.home.exists()
    assert "node/router:1" not in worker.docker.images
    assert any(line.startswith("disable --now node@worker.service") for line in worker.units)


def test_way_back_of_an_unconfirmed_change_is_not_removed(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The timer that lets the operator in again runs what lies in this folder."""
    (uninstall.HARDENED / "pending").mkdir(parents=True)

    assert machine.call("uninstall", "--yes") == 1

    assert "`harden rollback` first" in capsys.readouterr().err
    assert machine.home.exists()


def test_dry_run_only_lists(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """And without somebody to ask, nothing happens."""
    before = left(machine)
    (machine.home / "model-20270101.backup.gpg").touch()

    assert machine.call("uninstall", "--dry-run") == 0
    assert machine.call("uninstall") == 1

    told = capsys.readouterr()
    assert "going with it: model-20270101.backup.gpg. Move them away first." in told.out
    assert "give --yes" in told.err
    assert left(machine) == before


def test_store_can_stay_with_what_opens_it(machine: Machine) -> None:
    """Another start from the same bundle would go on with it."""
    (machine.home / "scripts").mkdir()
    assert machine.call("uninstall", "--yes", "--keep-store") == 0

    assert machine.said() == [CANARY]
    assert list(machine.docker.volumes) == ["model_store", "else_data"]
    assert {path.name for path in machine.home.iterdir()} == {".env", "secrets"}


def test_what_does_not_go_is_named(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The status says that not all is gone."""
    machine.docker.fails = ["volume rm"]

    assert machine.call("uninstall", "--yes") == 1

    assert "Left of volumes: model_store, model_weights." in capsys.readouterr().err


def test_units_and_images_that_another_node_needs_stay(machine: Machine) -> None:
    """Both nodes on one machine share them."""
    wants = uninstall.UNITS / "multi-user.target.wants"
    wants.mkdir()
    (wants / "node@relay.service").touch()
    relay = {"com.docker.compose.project": "relay"}
    machine.docker.containers["relay-wireguard-1"] = {
        "Id": "relay", "Name": "/relay-wireguard-1", "State": {"Status": "running"},
        "Config": {"Image": "node/wireguard:1", "Labels": relay},
    }  # fmt: skip

    assert machine.call("uninstall", "--yes") == 0

    assert (uninstall.UNITS / "node@.service").exists()
    assert "node/wireguard:1" in machine.docker.images
    assert "node/gateway:1" not in machine.docker.images


def test_checkout_is_not_removed(machine: Machine) -> None:
    """Who runs this out of a repository keeps that."""
    (machine.home / "scripts/commands").mkdir(parents=True)
    (machine.home / "scripts/commands/init.py").touch()

    assert machine.call("uninstall", "--yes") == 0

    assert machine.home.exists()


def test_node_whose_settings_are_unreadable_goes_too(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """What bears its label, and its folder; images cannot be known then, which is said."""
    (machine.home / ".env").unlink()

    assert machine.call("uninstall", "--yes") == 0

    assert "its images are not found then" in capsys.readouterr().out
    assert not [name for name in machine.docker.containers if name.startswith("model-")]
    assert not machine.home.exists()
