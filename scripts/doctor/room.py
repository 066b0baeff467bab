"""Checks that there is room on the disk and in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from scripts.doctor.finding import AS_ROOT, Check, Finding, could_not_look, failure, ok, warning
from scripts.node.node import Node
from scripts.node.tools import CannotLook

MIB = 1 << 20
LOW_DISK, FULL_DISK = 1024 * MIB, 128 * MIB
LOW_MEMORY = 48 * MIB

FULL = failure(
    "disk-full",
    "{place} has {free} MiB left.",
    "Make room: `docker image prune`, then see what is large (`du -xh / | sort -h | tail`).",
)
LOW = warning(
    "disk-low",
    "{place} has {free} MiB left.",
    "Make room before it is full: `docker image prune` removes old images.",
)
MEMORY = warning(
    "memory-low",
    "{free} MiB of memory are available.",
    "See what takes it (`ps aux --sort -rss | head`), and stop what the node does not need.",
)


def look(node: Node) -> Iterator[Finding]:
    for place, path in places(node):
        try:
            free = node.tools.disk(path)[1]
        except OSError:
            yield could_not_look(f"{place} cannot be looked at by this user.", AS_ROOT)
            continue
        if free < FULL_DISK:
            yield FULL.found(place=place, free=free // MIB)
        elif free < LOW_DISK:
            yield LOW.found(place=place, free=free // MIB)
        else:
            yield ok(f"{place} has {free // MIB} MiB left.")
    available = available_memory(node)
    if available < LOW_MEMORY:
        yield MEMORY.found(free=available // MIB)
    else:
        yield ok(f"{available // MIB} MiB of memory are available.")


def places(node: Node) -> list[tuple[str, Path]]:
    """Docker's own folder, and each volume of the node that is on a disk."""
    root = node.ask("docker", "info", "--format", "{{.DockerRootDir}}").strip()
    found = [("Docker's folder", Path(root))]
    for key, volume in (node.config.get("volumes") or {}).items():
        if (volume or {}).get("driver_opts"):
            continue  # in memory, or of the operator's own making
        said = node.tools.run("docker", "volume", "inspect", str(volume["name"]))
        if said.code == 0:
            found.append((f"The volume `{key}`", Path(json.loads(said.out)[0]["Mountpoint"])))
    return found


def available_memory(node: Node) -> int:
    try:
        lines = (node.tools.proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise CannotLook(f"/proc/meminfo cannot be read ({error.strerror})") from None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise CannotLook("the kernel does not tell how much memory is available")


CHECK = Check(
    "room",
    "Whether there is room where Docker keeps images and logs, in each volume, and in memory.",
    (FULL, LOW, MEMORY),
    look,
)
