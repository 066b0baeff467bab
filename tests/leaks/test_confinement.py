"""Whoever takes a service's place is confined, and each key is missed when it is gone.

Compose files are changed in one place at a time and put to work; the configuration of a container
counts as no finding. What becomes of each mutant stands in a table at the end.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.leaks.behaviour import Finding
from tests.leaks.behaviour.cells import (
    NODES,
    WAYS,
    Cell,
    Config,
    configuration,
    prison,
    try_cells,
)
from tests.leaks.behaviour.confinement import PLACES
from tests.leaks.behaviour.rules import RULESETS
from tests.leaks.behaviour.settings import try_settings
from tests.leaks.mutants import compose, nft, settings
from tests.leaks.mutants.alike import ALIKE, expected_of, keys_of, new_variables
from tests.leaks.mutants.compose import ComposeMutant
from tests.leaks.mutants.equivalent import AT_START, EQUIVALENT
from tests.leaks.mutants.report import Report

WAVE = 12
"""So many containers are tried at once."""

SLOW_WAYS = ("order", "order-egress", "restart", "stop", "silence")
"""What is tried by waiting: all of a kind at once."""

EVERY = [f"{node} {service}" for node, service in PLACES]
SERVICES = [name for name in EVERY if name not in ALIKE or ALIKE[name].keys]
GROUPS = [
    *SERVICES,
    "volumes and networks",
    "order of starting",
    "starting and stopping",
]

TRIED = [
    *(
        (service, way)
        for way in WAYS
        if way not in ("ipc", "network", "silence")
        for service in SERVICES
    ),
    *((service, "own") for service in EVERY if service not in SERVICES),
    ("gpu engine", "ipc"),
    ("vps egress", "silence"),
    *(("vps tunnel", "network"), ("vps telegram", "network")),
    *(("gpu tunnel", "network"), ("first workers", "network")),
    *((service, "order") for service in ("vps uplink", "vps relay", "gpu uplink", "gpu gateway")),
    ("first router", "order"),
    ("vps relay", "order-egress"),
]
"""What is tried: a service of a node (or one of its networks), and how."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Config]:
    folder = tmp_path_factory.mktemp("configs")
    return {node: configuration(node, folder) for node in NODES}


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


@pytest.mark.parametrize(("subject", "way"), TRIED)
def test_whoever_is_in_a_services_place_is_confined(
    found: dict[tuple[str, str], list[Finding]], subject: str, way: str
) -> None:
    """It does what it is there for, and none of all the things that are tried beside."""
    assert found[subject, way] == []


@pytest.mark.parametrize("name", ALIKE)
def test_keys_are_those_of_one_that_is_tried(configs: dict[str, Config], name: str) -> None:
    """A key that is removed or weakened here alone is one that differs."""
    alike = ALIKE[name]
    node, _, rest = name.partition(" ")

    own = keys_of(configs[node], rest, alike.more, alike.keys)

    assert own == expected_of(alike, configs[alike.tried.partition(" ")[0]])


def test_every_service_is_tried_or_alike(configs: dict[str, Config]) -> None:
    there = [
        f"{node} {service}" for node, config in configs.items() for service in config["services"]
    ]

    assert sorted(there) == sorted({*SERVICES, *(name for name in ALIKE if name.count(" ") == 1)})
    assert [name for name in there if name not in EVERY and new_variables(configs, name)] == []


# Mutants


@pytest.fixture(scope="module")
def cells_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with prison():
        yield tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def key_mutants(cells_folder: Path) -> list[ComposeMutant]:
    """All of them, but for those of services that are confined as another is."""
    configs = {node: configuration(node, cells_folder) for node in NODES}
    made = [mutant for node in NODES for mutant in compose.mutants_of(node, configs[node])]
    alike = [ALIKE.get(subject_of(mutant)) for mutant in made]
    return [
        mutant
        for mutant, other in zip(made, alike, strict=True)
        if other is None or not other.excuses(mutant, configs[mutant.node])
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_each_key_is_missed(
    cells_folder: Path, key_mutants: list[ComposeMutant], mutants: Report, group: str
) -> None:
    """Remove or weaken one key: whoever is in the service's place can do what nobody there may."""
    made = [mutant for mutant in key_mutants if group_of(mutant) == group]
    assert made

    for mutant, findings in zip(made, try_mutants(made, cells_folder), strict=True):
        mutants.note(subject_of(mutant), mutant.name, findings)

    rows = [mutants.rows[subject] for subject in {subject_of(mutant) for mutant in made}]
    assert [name for row in rows for name in (*row.survivors, *row.wrongly_excused)] == []


@pytest.mark.parametrize("name", [name for name in EVERY if "engine" not in name])
def test_each_setting_is_missed(
    configs: dict[str, Config], cells_folder: Path, mutants: Report, name: str
) -> None:
    """Take a variable away: the service refuses to start, or works with other settings."""
    node, _, service = name.partition(" ")
    new = new_variables(configs, name)
    made = [
        mutant
        for mutant in settings.mutants_of(node, configs[node])
        if mutant.service == service and mutant.key in new
    ]
    assert made

    for mutant, findings in zip(made, try_settings(made, cells_folder), strict=True):
        mutants.note(name, mutant.name, findings)

    row = mutants.rows[name]
    assert (row.survivors, row.wrongly_excused) == ([], [])


def group_of(mutant: ComposeMutant) -> str:
    if any(way.startswith("order") for _, way in mutant.ways):
        return "order of starting"
    if any(way in SLOW_WAYS for _, way in mutant.ways):
        return "starting and stopping"
    subject = subject_of(mutant)
    return subject if subject in GROUPS else "volumes and networks"


def subject_of(mutant: ComposeMutant) -> str:
    return f"{mutant.node} {mutant.service}"


def try_mutants(mutants: Sequence[ComposeMutant], folder: Path) -> list[list[Finding]]:
    """The findings of each mutant, from all the places in which it is tried."""
    cells = [
        (number, Cell(f"m{number}-{service}-{way}", mutant.node, service, mutant.config, way))
        for number, mutant in enumerate(mutants)
        for service, way in mutant.ways
    ]
    # Those that may not start come last, together: each costs the others of its wave a second try.
    cells.sort(key=lambda entry: "host" in mutants[entry[0]].name)
    found: list[list[Finding]] = [[] for _ in mutants]
    nodes = {mutant.node for mutant in mutants}
    unchanged = {node: configuration(node, folder) for node in nodes}
    # Those that are tried by waiting do little meanwhile: all at once.
    size = len(cells) if all(cell.way in SLOW_WAYS for _, cell in cells) else WAVE
    for begin in range(0, len(cells), size):
        wave = cells[begin : begin + size]
        first = wave[0][1]
        witness = replace(first, name="witness", config=unchanged[first.node])
        findings = try_cells([witness, *(cell for _, cell in wave)], folder)
        assert findings["witness"] == [], "the unchanged service beside the mutants is well"
        for number, cell in wave:
            found[number] += findings[cell.name]
    return found


def test_every_excuse_is_of_a_mutant(mutants: Report, key_mutants: list[ComposeMutant]) -> None:
    """What is listed as changing nothing exists: a rule that is gone needs no excuse."""
    made = {f"{subject_of(mutant)}: {mutant.name}" for mutant in key_mutants}
    for ruleset in RULESETS:
        made |= {f"{ruleset.name}: {mutant.name}" for mutant in nft.mutants_of(ruleset.rules)}

    unused = [
        pattern
        for pattern, _ in EQUIVALENT
        if not any(re.fullmatch(pattern, name) for name in made)
    ]
    assert unused == []
    assert set(AT_START) <= made


def test_key_that_is_not_understood_is_an_error() -> None:
    """A key of a new kind stops the suite until there are mutants of it."""
    service = {"image": "none", "cgroup_parent": "/"}

    with pytest.raises(compose.UnknownKey):
        list(
            compose.mutants_of("vps", {"services": {"new": service}, "volumes": {}, "networks": {}})
        )
