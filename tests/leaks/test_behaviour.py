"""The product as it is: whatever is tried against it, nothing goes otherwise than it must.

That each check would find something is proven in two ways: what rules refuse is seen to pass
without them (here), and each rule and key is missed when it is taken away (test_mutants).
"""

import pytest
from python_on_whales import DockerClient

from tests.integration.lab import attempt
from tests.leaks.behaviour import Finding
from tests.leaks.behaviour.cells import (
    NODES,
    WAYS,
    Cell,
    configuration,
    prison,
    try_cells,
)
from tests.leaks.behaviour.confinement import PLACES
from tests.leaks.behaviour.namespaces import Namespace
from tests.leaks.behaviour.rules import RULESETS, examine, examine_standing, unprotected

NAMES = [ruleset.name for ruleset in RULESETS]


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


@pytest.mark.parametrize("family", ["inet", "netdev"])
@pytest.mark.parametrize("name", ["telegram", "resolvers"])
def test_health_sees_a_wider_set(
    docker: DockerClient, namespaces: dict[str, Namespace], name: str, family: str
) -> None:
    """Whoever adds an address to those that the egress may call has changed its rules."""
    space = namespaces["egress"]
    egress = docker.container.inspect("mutants-rules-egress")
    space.player.load(space.ruleset.rules, space.ruleset.variables)
    assert attempt(egress, "health") == (True, ""), "control"
    member = f"element {family} node {name} {{ 198.18.75.22 }}"

    space.player.run("nft", f"add {member}")

    assert attempt(egress, "health") == (False, "")
    space.player.run("nft", f"delete {member}")
    assert attempt(egress, "health") == (True, "")


# Confinement


SERVICES = [f"{node} {service}" for node, service in PLACES]
TRIED = [
    *(
        (service, way)
        for way in WAYS
        if way not in ("ipc", "network", "silence")
        for service in SERVICES
    ),
    ("gpu engine", "ipc"),
    ("vps egress", "silence"),
    *(("vps tunnel", "network"), ("vps telegram", "network"), ("gpu tunnel", "network")),
    *((service, "order") for service in ("vps uplink", "vps relay", "gpu uplink", "gpu gateway")),
    ("vps relay", "order-egress"),
]
"""What is tried: a service of a node (or one of its networks), and how."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Finding]]:
    """What was found in each cell, by node with service and by way."""
    folder = tmp_path_factory.mktemp("cells")
    found: dict[tuple[str, str], list[Finding]] = {}
    with prison():
        configs = {node: configuration(node, folder) for node in NODES}
        for begin in range(0, len(TRIED), WAVE):
            wave = {}
            for subject, way in TRIED[begin : begin + WAVE]:
                node, name = subject.split()
                cell = Cell(f"{node}-{name}-{way}", node, name, configs[node], way)
                wave[subject, way] = cell
            findings = try_cells(list(wave.values()), folder)
            found |= {key: findings[cell.name] for key, cell in wave.items()}
    return found


WAVE = 12
"""So many containers are tried at once."""


@pytest.mark.parametrize(("subject", "way"), TRIED)
def test_whoever_is_in_a_services_place_is_confined(
    found: dict[tuple[str, str], list[Finding]], subject: str, way: str
) -> None:
    """It does what it is there for, and none of all the things that are tried beside."""
    assert found[subject, way] == []
