"""The product as it is: whatever is tried against it, nothing goes otherwise than it must.

That each check would find something is proven in two ways: what rules refuse is seen to pass
without them (here), and each rule and key is missed when it is taken away (test_mutants).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from python_on_whales import DockerClient

from tests.integration.lab import Lab
from tests.integration.test_tunnel import Keys
from tests.leaks.behaviour import Finding
from tests.leaks.behaviour.cells import (
    NODES,
    ORDERS,
    WAYS,
    Cell,
    configuration,
    prison,
    try_cells,
)
from tests.leaks.behaviour.confinement import PLACES
from tests.leaks.behaviour.namespaces import Namespace, open_namespaces
from tests.leaks.behaviour.rules import RULESETS, examine, examine_standing, unprotected

NAMES = [ruleset.name for ruleset in RULESETS]


@pytest.fixture(scope="module")
def namespaces(
    docker: DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Namespace]]:
    with (
        Lab(docker, "mutants-rules", "198.18.79") as lab,
        open_namespaces(lab, Keys(tmp_path_factory.mktemp("keys"))) as namespaces,
    ):
        yield namespaces


@pytest.mark.parametrize("name", NAMES)
def test_rules_that_the_product_has_loaded_hold(
    namespaces: dict[str, Namespace], name: str
) -> None:
    """In the namespace of a started container: what must pass passes, and nothing else does."""
    space = namespaces[name]
    trials = [t for t in space.ruleset.trials(space.ports) if not t.before_rules]

    findings = examine_standing(space.ruleset, space.player, trials, space.ports)

    assert findings == []


@pytest.mark.parametrize("name", NAMES)
def test_rules_hold_over_what_stood_before(namespaces: dict[str, Namespace], name: str) -> None:
    """Neither earlier rules nor conversations that were open before live on."""
    space = namespaces[name]

    findings = examine(space.ruleset, space.player, space.ports, space.ruleset.rules, patient=True)

    assert findings == []


@pytest.mark.parametrize("name", NAMES)
def test_files_of_rules_are_what_the_product_loads(
    namespaces: dict[str, Namespace], name: str
) -> None:
    """The kernel has the same after a start as after loading the file, so mutants are of it."""
    space = namespaces[name]

    space.player.load(space.ruleset.rules, space.ruleset.variables)

    assert space.player.listing() == space.loaded


@pytest.mark.parametrize("name", NAMES)
def test_without_rules_everything_that_is_tried_passes(
    namespaces: dict[str, Namespace], name: str
) -> None:
    """The control: no trial is refused by anything but the rules."""
    space = namespaces[name]

    assert unprotected(space.ruleset, space.player, space.ports) == []


# Confinement


def unchanged_cells(folder: Path) -> list[Cell]:
    """Every service's place in every way that applies to it, as the product has it."""
    configs = {node: configuration(node, folder) for node in NODES}
    cells = [
        Cell(f"{node}-{service}-{way}", node, service, configs[node], way)
        for way in (*WAYS, *ORDERS)
        for node, service in PLACES
        if applies(way, configs[node]["services"][service])
    ]
    cells += [
        Cell(f"{node}-{network}-network", node, network, configs[node], "network")
        for node in NODES
        for network in configs[node]["networks"]
    ]
    return cells


def applies(way: str, service: dict[str, object]) -> bool:
    dependencies = service.get("depends_on") or {}
    assert isinstance(dependencies, dict)
    needed = {
        "order": "wireguard" in dependencies,
        "order-egress": "egress" in dependencies,
        "ipc": "ipc" in service,
        "network": False,
    }
    return needed.get(way, True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Finding]]:
    """What was found in each cell, by node with service and by way."""
    folder = tmp_path_factory.mktemp("cells")
    found = {}
    with prison():
        cells = sorted(unchanged_cells(folder), key=lambda cell: cell.way in ORDERS)
        for begin in range(0, len(cells), WAVE):
            wave = cells[begin : begin + WAVE]
            findings = try_cells(wave, folder)
            for cell in wave:
                found[f"{cell.node} {cell.service}", cell.way] = findings[cell.name]
    return found


WAVE = 12
"""So many containers are tried at once."""


@pytest.mark.parametrize("way", [*WAYS, *ORDERS])
@pytest.mark.parametrize("service", [f"{node} {service}" for node, service in PLACES])
def test_whoever_is_in_a_services_place_is_confined(
    found: dict[tuple[str, str], list[Finding]], service: str, way: str
) -> None:
    """It does what it is there for, and none of all the things that are tried beside."""
    assert found.get((service, way), []) == []


def test_networks_carry_no_ipv6(found: dict[tuple[str, str], list[Finding]]) -> None:
    """Not even for a member that has not turned it off."""
    networks = {key: findings for key, findings in found.items() if key[1] == "network"}

    assert len(networks) == 3
    assert [finding for findings in networks.values() for finding in findings] == []
