"""Checks that every container of the node is there, runs, is healthy, and stays so."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, ok, warning
from scripts.node.node import UPLINK, Container, Node

RECENT_SECONDS = 3600

MISSING = failure(
    "container-missing",
    "There is no container for {service}.",
    "Start the node: `docker compose … up -d`, as it is always called here.",
)
CUT_OFF = failure(
    "other-node-cut-off",
    "{service} is kept down by `revoke`: the other node was cut off, and nothing is let in.",
    "To pair again: take another VPS, make new bundles (`init --vps ADDRESS --rotate --token-file "
    "FILE`), and bring both over (`deploy`); this node's lifts it.",
)
STOPPED = failure(
    "container-stopped",
    "{service} does not run ({status}, exit status {code}). It said last: {words}",
    "Mend what it says, then start it: `docker compose … up -d`; scripts/reconcile does so by "
    "itself.",
)
RESTARTING = failure(
    "container-restarting",
    "{service} ends again and again ({count} times). It said last: {words}",
    "Mend what it says; Docker goes on trying by itself.",
)
PAUSED = failure(
    "container-paused",
    "{service} is paused.",
    "Let it go on: `docker unpause {name}`.",
)
UNHEALTHY = failure(
    "container-unhealthy",
    "{service} is unhealthy: it runs and does not do its part.",
    "Restart it (`docker restart {name}`), or let scripts/reconcile do so; if it comes again, read "
    "`docker logs {name}`.",
)
STARTING = warning(
    "container-starting",
    "{service} has not become healthy yet.",
    "Wait, and look again; `docker logs {name}` tells how far it is.",
)
MEMORY = warning(
    "container-out-of-memory",
    "{service} was ended by the kernel because it needed more memory than its limit.",
    "See what else the machine does with its memory; if it comes again, give the service more.",
)
RESTARTED = warning(
    "container-restarted",
    "{service} was restarted by Docker {count} times, last {age} ago.",
    "Read why in `docker logs {name}`.",
)
OLD_IMAGE = warning(
    "container-of-older-image",
    "{service} runs an older image than the one that {image} names now.",
    "Make it anew: `docker compose … up -d`.",
)
LEFTOVER = warning(
    "container-left-over",
    "{name} belongs to this project, and to no service of its Compose files.",
    "Remove it, if it is not yours to keep: `docker rm -f {name}`.",
)


def look(node: Node) -> Iterator[Finding]:
    for service in node.services:
        if node.is_off(service) and service == UPLINK:
            yield CUT_OFF.found(service=service)
            continue
        container = node.containers.get(service)
        if container is None:
            yield MISSING.found(service=service)
            continue
        found = list(of_container(node, service, container))
        yield from found
        if not found:
            yield ok(f"{service} runs and is {container.health.replace('none', 'unwatched')}.")
    kept = {container.id for container in node.containers.values()}
    for container in node.all_containers:
        if container.id not in kept:
            yield LEFTOVER.found(name=container.name)


def of_container(node: Node, service: str, container: Container) -> Iterator[Finding]:
    state, count = container.raw["State"], int(container.raw.get("RestartCount") or 0)
    name = container.name
    if container.status == "restarting":
        yield RESTARTING.found(service=service, count=count, words=last_words(node, container))
        return
    if container.status == "paused":
        yield PAUSED.found(service=service, name=name)
        return
    if not container.is_running:
        words = last_words(node, container)
        code = state.get("ExitCode")
        yield STOPPED.found(service=service, status=container.status, code=code, words=words)
        return
    if container.health == "unhealthy":
        yield UNHEALTHY.found(service=service, name=name)
    elif container.health == "starting":
        yield STARTING.found(service=service, name=name)
    if state.get("OOMKilled"):
        yield MEMORY.found(service=service)
    age = node.tools.now() - moment(str(state["StartedAt"]))
    if count and age < RECENT_SECONDS:
        yield RESTARTED.found(service=service, count=count, age=f"{age / 60:.0f} min", name=name)
    image = str(node.services[service].get("image", ""))
    current = node.tools.run("docker", "image", "inspect", "--format", "{{.Id}}", image)
    if current.code == 0 and current.out.strip() != container.image:
        yield OLD_IMAGE.found(service=service, image=image)


def last_words(node: Node, container: Container) -> str:
    """What a container said last: its logs hold events, never what users wrote."""
    said = node.tools.run("docker", "logs", "--tail", "3", container.id)
    lines = [line.strip() for line in (said.out + said.err).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing."


def moment(stamp: str) -> float:
    """Docker's time stamps, in seconds since 1970."""
    whole = re.sub(r"\.\d+", "", stamp).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(whole).timestamp()


CHECK = Check(
    "containers",
    "Whether each service of the Compose files has a container that runs, is healthy, was not "
    "restarted in the last hour, and is made of the current image.",
    (MISSING, CUT_OFF, STOPPED, RESTARTING, PAUSED, UNHEALTHY, STARTING)
    + (MEMORY, RESTARTED, OLD_IMAGE, LEFTOVER),
    look,
)
