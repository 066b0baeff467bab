"""Owns the order of the checks and their running: one that breaks does not keep the others away."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator

from scripts.doctor import (
    census,
    clock,
    counters,
    dumps,
    hardening,
    logs,
    refusals,
    room,
    rules,
    sockets,
    states,
    tunnel,
    versions,
)
from scripts.doctor.finding import Check, Finding, Level, could_not_look
from scripts.node.kinds import Kind
from scripts.node.node import Node
from scripts.node.tools import CannotLook

COMMON = (
    versions.CHECK,
    states.CHECK,
    census.CHECK,
    rules.CHECK,
    hardening.CHECK,
    tunnel.CHECK,
    counters.CHECK,  # before the next one, which lets the rulesets refuse something
    refusals.CHECK,
    sockets.CHECK,
    clock.CHECK,
    room.CHECK,
    dumps.CHECK,
    logs.CHECK,
)

SEVERITY = {Level.OK: 0, Level.NOT_APPLICABLE: 0, Level.COULD_NOT_LOOK: 1, Level.WARNING: 1}
"""The exit status that a finding asks for; what is not here asks for 2."""


def checks_of(kind: Kind) -> list[Check]:
    """All checks of a kind of node, in order. Only what is on this machine is imported."""
    own: list[Check] = [importlib.import_module(name).CHECK for name in kind.checks]
    return [*COMMON, *own]


def examine(node: Node, checks: Iterable[Check]) -> Iterator[Finding]:
    """Run checks one after the other; each finding bears its check's name."""
    for check in checks:
        for finding in look(node, check):
            yield dataclasses.replace(finding, check=check.name)
    counters.remember(node)


def look(node: Node, check: Check) -> Iterator[Finding]:
    try:
        yield from check.look(node)
    except CannotLook as why:
        yield could_not_look(f"{why}.")
    except Exception as error:  # a check that breaks must not hide what others find
        yield could_not_look(
            f"This check itself broke: {type(error).__name__} at {place_of(error)}."
        )


def place_of(error: BaseException) -> str:
    """Where an exception was raised."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"


def status_of(findings: Iterable[Finding]) -> int:
    return max((SEVERITY.get(finding.level, 2) for finding in findings), default=0)
