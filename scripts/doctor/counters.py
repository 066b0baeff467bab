"""Checks whether the rulesets go on refusing packets.

Counters only say something when they grow, so what they were at the last look is kept, in memory,
until the machine is restarted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.doctor.finding import Check, Finding, ok, warning
from scripts.node.node import Container, Node
from scripts.node.rules import refusals
from scripts.node.tools import CannotLook

REFUSED_OUT = warning(
    "refused-out",
    "{service} has tried to send {count} packets that its rules refuse, since {since}.",
    "Nothing got out. A few come with a restart of either node; if the number grows, something in "
    "that namespace wants to go where it must not: look at what runs there (`docker top {name}`).",
)
REFUSED_IN = warning(
    "refused-in",
    "{service} was sent {count} packets that its rules refuse, since {since}.",
    "They were dropped without an answer. At an outside interface they are strangers' knocking; "
    "inside the tunnel the other node sends what it should not: run this command there.",
)


def look(node: Node) -> Iterator[Finding]:
    known, first = recall(node), True
    for service, container in node.guarded.items():
        now = refusals(node, container)
        before = known.get(key_of(container))
        first = first and before is None
        found = False
        for name, problem in (("refused_out", REFUSED_OUT), ("refused_in", REFUSED_IN)):
            count = now.get(name, 0) - (before or {}).get(name, 0)
            if count > 0:
                found = True
                since = "the last look" if before else "it was started"
                yield problem.found(service=service, count=count, since=since, name=container.name)
        if not found:
            since = "the last look" if before else "it was started"
            yield ok(f"{service} has refused nothing since {since}.")


def remember(node: Node) -> None:
    """Keep the counters as they are now, this command's own probes included."""
    found: dict[str, Any] = {}
    try:
        for container in node.guarded.values():
            found[key_of(container)] = refusals(node, container)
        file = memory_of(node)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(file)
    except (CannotLook, OSError):
        return  # the next look counts from the containers' start


def recall(node: Node) -> dict[str, dict[str, int]]:
    try:
        return dict(json.loads(memory_of(node).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def memory_of(node: Node) -> Path:
    return node.tools.memory / "node-check" / f"{node.project}.json"


def key_of(container: Container) -> str:
    """A restarted container counts from nothing."""
    return f"{container.id} {container.raw['State']['StartedAt']}"


CHECK = Check(
    "refused packets",
    "Whether the rulesets refused packets since the last look (or since the container was started, "
    "at the first one).",
    (REFUSED_OUT, REFUSED_IN),
    look,
)
