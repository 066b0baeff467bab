"""Checks that the rulesets that stand are those that the entrypoints load."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, could_not_look, failure, ok, warning
from scripts.node.node import Node
from scripts.node.rules import golden_rules, other_tables, standing_rules
from scripts.node.tools import CannotLook

GONE = failure(
    "rules-gone",
    "{service} has no ruleset.",
    "Restart it (`docker restart {name}`), and find out who flushed its rules.",
)
CHANGED = failure(
    "rules-changed",
    "The ruleset of {service} is not the one that its settings give; difference: {line}",
    "Restart it (`docker restart {name}`), and find out who changed its rules; after a change of "
    "settings, `docker compose … up -d`.",
)
FOREIGN = warning(
    "rules-foreign",
    "The namespace of {service} has tables of somebody else's: {tables}.",
    "Docker may put tables of its own there, which can only refuse more; restart the container "
    "(`docker restart {name}`) if they are not Docker's.",
)


def look(node: Node) -> Iterator[Finding]:
    for service, container in node.guarded.items():
        try:
            standing = standing_rules(node, container)
            foreign = other_tables(node, container)
            if not standing:
                yield GONE.found(service=service, name=container.name)
                continue
            golden = golden_rules(node, service, container)
        except CannotLook as why:
            yield could_not_look(f"{why}.")
            continue
        if standing != golden:
            line = first_difference(golden, standing)
            yield CHANGED.found(service=service, name=container.name, line=line)
        else:
            digest = hashlib.sha256(standing.encode()).hexdigest()[:12]
            yield ok(f"{service}: the ruleset is the golden one ({digest}).")
        if foreign:
            tables = ", ".join(foreign)
            yield FOREIGN.found(service=service, tables=tables, name=container.name)


def first_difference(golden: str, standing: str) -> str:
    """The first line that is missing, with `-`, and the first that is too many, with `+`."""
    lines = difflib.unified_diff(golden.splitlines(), standing.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    first = [next((line for line in changed if line[0] == sign), "") for sign in "-+"]
    return " ".join(" ".join(first).split()) or "none"


CHECK = Check(
    "rulesets",
    "Whether each ruleset is the golden one. The golden one is loaded by the entrypoint of the "
    "same image, with the settings of the Compose files, in a throwaway container without a "
    "network. Members of sets count, learnt addresses and counters do not.",
    (GONE, CHANGED, FOREIGN),
    look,
)
