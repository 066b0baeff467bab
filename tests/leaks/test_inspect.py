"""What Docker was told about each container, compared with the golden files, key by key."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.pair import Pair
from tests.leaks.boxes import BOXES, container_of, made_boxes
from tests.leaks.golden import described, file_of
from tests.leaks.report import Report
from tests.leaks.wire import docker_says
from tests.leaks.world import MODEL_NODE, NODES, Control, World

DICTIONARIES = ("host", "config", "networks", "volumes")
EVERY = [(node, service) for node, services in NODES.items() for service in services]
EVERY_OF_BOXES = [(node, service) for node, services in BOXES.items() for service in services]


@pytest.mark.parametrize(("node", "service"), EVERY)
def test_container_is_as_written(world: World, report: Report, node: str, service: str) -> None:
    """Capabilities, networks, ports, mounts and all the rest, exactly.

    A difference that is meant: `python -m tests.leaks.golden` writes the files anew.
    """
    seen = described(world.pair, world.container(node, service))

    compare(report, node, service, seen)


def compare(report: Report, node: str, service: str, seen: dict[str, Any]) -> None:
    row = report.row(29, "docker inspect equals the golden files, by keys")
    golden = json.loads(file_of(node, service).read_text(encoding="utf-8"))
    keys = {(part, key) for side in (golden, seen) for part in DICTIONARIES for key in side[part]}
    row.probed += len(keys)
    row.leaked += sum(golden[part].get(key) != seen[part].get(key) for part, key in keys)
    assert seen == golden


def test_comparison_sees_a_difference(world: World, control: Control, report: Report) -> None:
    """A check that cannot fail is a defect: the unprotected container differs in what matters."""
    golden = json.loads(file_of("model", "gateway").read_text(encoding="utf-8"))
    seen = described(world.pair, control.plain)

    host, other = golden["host"], seen["host"]
    differing = {key for key in host | other if host.get(key) != other.get(key)}
    report.row(29, "docker inspect equals the golden files, by keys").control = len(differing)
    assert {"CapAdd", "CapDrop", "NetworkMode", "ReadonlyRootfs", "SecurityOpt"} <= differing


def test_every_container_has_a_golden_file(world: World) -> None:
    """Eight containers, and beside them the suite's own three."""
    shown = [
        docker_says("ps", "--quiet", "--filter", f"label=com.docker.compose.project={project}")
        for project in (world.pair.relay_node, world.pair.model_node)
    ]

    assert sum(len(lines.split()) for lines in shown) == len(EVERY) + 3
    assert all(file_of(node, service).exists() for node, service in EVERY)


# Several boxes


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with made_boxes(tmp_path_factory.mktemp("boxes")) as boxes:
        yield boxes


@pytest.mark.parametrize(("node", "service"), EVERY_OF_BOXES)
def test_container_of_a_box_is_as_written(
    boxes: Pair, report: Report, node: str, service: str
) -> None:
    """What the first model node has more for its workers, and all that a worker has, exactly."""
    seen = described(boxes, container_of(boxes, node, service))

    compare(report, node, service, seen)


def test_every_container_of_a_box_has_a_golden_file(boxes: Pair) -> None:
    """But for those that the first model node has without workers, too."""
    known = {"first": {*BOXES["first"], *MODEL_NODE}, "worker": set(BOXES["worker"])}

    for node, services in known.items():
        config = json.loads((boxes.state / f"{node}.json").read_text(encoding="utf-8"))
        assert set(config["services"]) == services
    assert all(file_of(node, service).exists() for node, service in EVERY_OF_BOXES)
