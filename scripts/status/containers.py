"""Looks at the containers: what Docker says of each, and what the kernel says of their memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scripts.doctor.states import moment
from scripts.node.node import Container, Node
from scripts.status.facts import Tone


@dataclass(frozen=True)
class Row:
    """One service of the Compose files."""

    service: str
    state: str
    """As Docker calls it; `missing`: there is no container."""
    health: str = "none"
    up_seconds: int | None = None
    restarts: int = 0
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None

    @property
    def tone(self) -> Tone:
        if self.state != "running" or self.health == "unhealthy":
            return Tone.BAD
        return Tone.NOTICE if self.health == "starting" else Tone.GOOD

    def as_json(self) -> dict[str, object]:
        return vars(self)


def look(node: Node) -> list[Row]:
    """A row for each service, in the files' order. Raises CannotLook."""
    return [row_of(node, service, node.containers.get(service)) for service in node.services]


def row_of(node: Node, service: str, container: Container | None) -> Row:
    if container is None:
        return Row(service, "missing")
    restarts = int(container.raw.get("RestartCount") or 0)
    if not container.is_running:
        return Row(service, container.status, restarts=restarts)
    started = moment(str(container.raw["State"]["StartedAt"]))
    return Row(
        service,
        container.status,
        container.health,
        max(0, round(node.tools.now() - started)),
        restarts,
        memory_of(node, container),
        int(container.raw["HostConfig"].get("Memory") or 0) or None,
    )


def memory_of(node: Node, container: Container) -> int | None:
    """What a container's processes hold, less files that the kernel could drop, as `docker stats`.

    From the kernel, since `docker stats` takes two seconds. None where it does not tell.
    """
    try:
        lines = (node.tools.proc / str(container.pid) / "cgroup").read_text("utf-8").splitlines()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            root = node.tools.sys / "fs/cgroup"
            if not controllers:
                return _held(root / path.lstrip("/"), "memory.current", "inactive_file")
            if "memory" in controllers.split(","):
                group = root / "memory" / path.lstrip("/")
                return _held(group, "memory.usage_in_bytes", "total_inactive_file")
    except (OSError, ValueError):
        return None
    return None


def _held(group: Path, current: str, droppable: str) -> int:
    used = int((group / current).read_text("ascii"))
    found = re.search(rf"(?m)^{droppable} (\d+)$", (group / "memory.stat").read_text("ascii"))
    return max(0, used - int(found[1] if found else 0))
