"""Owns the containers of several boxes: the first model node's with its router, and a worker's.

They are made as Compose would make them, and never started: what Docker was told stands there.
"""

import fcntl
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.pair import Pair
from tests.integration.lab import PEER
from tests.leaks.behaviour.cells import configuration
from tests.leaks.wire import docker_says

BOXES = {
    "first": ("gateway", "router", "workers", "workers-uplink"),
    "worker": ("wireguard", "uplink", "door", "engine"),
}
"""The services of each; the first model node's others are those of one without workers."""


@contextmanager
def made_boxes(folder: Path) -> Iterator[Pair]:
    """Make the containers on networks without a way out; gives the names that they were given."""
    boxes = Pair(name="test-leaks-boxes", subnet="198.18.95", state=folder)
    files = {node: folder / f"{node}.json" for node in BOXES}
    for node, file in files.items():
        file.write_text(json.dumps(project(boxes, node, folder)), encoding="utf-8")
    with Path(tempfile.gettempdir(), f"{boxes.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # names are the whole machine's: one run at a time
        remove(files.values())
        try:
            for node, file in files.items():
                compose(file, "create", "--no-build", "--pull=never", *BOXES[node])
            yield boxes
        finally:
            remove(files.values())


def project(boxes: Pair, node: str, folder: Path) -> dict[str, object]:
    """The node's own files, but for the networks; the engine's image is not to be had here."""
    config = configuration(node, folder)
    config["services"]["engine"]["image"] = PEER
    for volume in config["volumes"].values():
        del volume["name"]
    for number, (name, network) in enumerate(config["networks"].items(), 8 * (node == "worker")):
        subnet = f"{boxes.subnet}.{16 * number}/28"
        network |= {"name": f"{boxes.name}-{node}-{name}", "internal": True}
        network["ipam"] = {"config": [{"subnet": subnet}]}
    return config | {"name": f"{boxes.name}-{node}"}


def compose(file: Path, *arguments: str) -> None:
    docker_says("compose", "-f", str(file), *arguments)


def remove(files: Iterable[Path]) -> None:
    for file in files:
        compose(file, "down", "--volumes")


def container_of(boxes: Pair, node: str, service: str) -> str:
    return boxes.container(f"{boxes.name}-{node}", service)
