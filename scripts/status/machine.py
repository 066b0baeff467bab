"""Looks at the machine itself: disk, memory, load, and since when it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.doctor.room import LOW_DISK, LOW_MEMORY, available_memory
from scripts.node.tools import CannotLook
from scripts.status.facts import Fact, Tone, duration, size

if TYPE_CHECKING:
    from scripts.status.look import Looker

NAME, TITLE = "machine", "Machine"

DOCKER_FOLDER = "/var/lib/docker"
FOLDER_SECONDS = 600.0


def look(looker: Looker) -> list[Fact]:
    tools, facts = looker.node.tools, []

    def folder() -> str:
        said = tools.run("docker", "info", "--format", "{{.DockerRootDir}}")
        return said.out.strip() if said.code == 0 and said.out.startswith("/") else DOCKER_FOLDER

    try:
        total, free = tools.disk(Path(looker.seldom("folder", folder, FOLDER_SECONDS)))
        value = {"free": free, "total": total}
        tone = Tone.BAD if free < LOW_DISK else Tone.PLAIN
        facts.append(Fact("disk_bytes", value, "disk", f"{size(free)} of {size(total)} free", tone))
    except OSError as why:
        facts.append(Fact("disk_bytes", None, "disk", f"unknown ({why.strerror})", Tone.NOTICE))
    try:
        free = available_memory(looker.node)
        tone = Tone.BAD if free < LOW_MEMORY else Tone.PLAIN
        facts.append(
            Fact("available_memory_bytes", free, "memory", f"{size(free)} available", tone)
        )
        uptime = float((tools.proc / "uptime").read_text("ascii").split()[0])
        facts.append(Fact("up_seconds", round(uptime), "runs for", duration(uptime)))
    except (CannotLook, OSError):
        facts.append(Fact("available_memory_bytes", None, "memory", "unknown", Tone.NOTICE))
    load = os.getloadavg()[0]
    facts.append(Fact("load", round(load, 2), "load", f"{load:.2f} of {os.cpu_count() or 1}"))
    return facts
