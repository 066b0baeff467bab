"""Checks that Docker and Compose are there, new enough, and can read the Compose files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, could_not_look, failure, ok
from scripts.node.node import Node
from scripts.node.tools import NOT_FOUND

DOCKER = (25, 0)  # the first whose health checks have a start_interval
COMPOSE = (2, 24, 4)  # the first with !override; depends_on … restart came with 2.17

MISSING = failure(
    "docker-missing",
    "Docker is not installed.",
    "Install Docker 25 or newer with its Compose plugin (Debian 13: docker.io, docker-compose).",
)
UNREACHABLE = failure(
    "docker-unreachable",
    "Docker does not answer: {why}",
    "Start it (`systemctl start docker`) and look why it stopped (`journalctl -u docker`).",
)
OLD = failure(
    "docker-old",
    "Docker {version} is too old: the health checks need 25.0.",
    "Upgrade Docker to 25.0 or newer.",
)
COMPOSE_MISSING = failure(
    "compose-missing",
    "Docker has no `compose` command.",
    "Install the Compose plugin, 2.24.4 or newer (Debian 13: docker-compose).",
)
COMPOSE_OLD = failure(
    "compose-old",
    "Compose {version} is too old: the Compose files need 2.24.4.",
    "Upgrade the Compose plugin to 2.24.4 or newer.",
)
SETTINGS = failure(
    "settings-unreadable",
    "Compose cannot read its files or settings: {why}.",
    "Do what it says; -f, --env-file and --project-directory are given as to Docker Compose.",
)


def look(node: Node) -> Iterator[Finding]:
    said = node.tools.run("docker", "version", "--format", "{{json .}}")
    if said.code == NOT_FOUND:
        yield MISSING.found()
        return
    if "permission denied" in said.err.lower():
        yield could_not_look("Docker does not let this user in.", "Run this as root.")
        return
    server = json.loads(said.out).get("Server") if said.out.startswith("{") else None
    if not server:
        yield UNREACHABLE.found(why=said.why)
        return
    version = str(server["Version"])
    yield (
        ok(f"Docker {version} answers.")
        if numbers(version) >= DOCKER
        else OLD.found(version=version)
    )
    compose = node.tools.run("docker", "compose", "version", "--short")
    if compose.code != 0:
        yield COMPOSE_MISSING.found()
        return
    version = compose.out.strip().lstrip("v")
    yield (
        ok(f"Compose {version}.")
        if numbers(version) >= COMPOSE
        else COMPOSE_OLD.found(version=version)
    )
    if node.why_unreadable:
        yield SETTINGS.found(why=node.why_unreadable.rstrip("."))


def numbers(version: str) -> tuple[int, ...]:
    """`26.1.5+dfsg1` as numbers that compare."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


CHECK = Check(
    "versions",
    "Whether Docker and Compose are installed, answer, and are new enough for the Compose files; "
    "and whether Compose can read these with their settings.",
    (MISSING, UNREACHABLE, OLD, COMPOSE_MISSING, COMPOSE_OLD, SETTINGS),
    look,
)
