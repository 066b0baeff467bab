"""Owns one look at the node, and what a look may remember for the next one.

It costs two processes, and a few more every ten seconds for what changes seldom or is dear to ask.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from scripts.doctor.examination import place_of
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Said, Tools
from scripts.status import containers, machine, tunnel
from scripts.status.containers import Row
from scripts.status.facts import Fact, Panel, Tone

SELDOM_SECONDS = 10.0
PATIENCE_SECONDS = 10.0
"""A Docker that has not answered by then counts as one that does not answer."""

T = TypeVar("T")


class HastyTools(Tools):
    """This machine, for somebody who waits at a terminal."""

    def run(
        self,
        *command: str,
        stdin: str = "",
        seconds: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Said:
        return super().run(*command, stdin=stdin, seconds=min(seconds, PATIENCE_SECONDS), env=env)


@dataclass(frozen=True)
class Snapshot:
    """What one look has found."""

    node: str
    seen_at: float
    """Seconds since 1970."""
    problems: Sequence[str]
    """Why something could not be looked at, a sentence each."""
    rows: Sequence[Row]
    panels: Sequence[Panel]

    def as_json(self) -> dict[str, object]:
        return {
            "node": self.node,
            "seen_at": round(self.seen_at),
            "problems": list(self.problems),
            "containers": [row.as_json() for row in self.rows],
            **{it.name: {fact.name: fact.value for fact in it.facts} for it in self.panels},
        }


class Looker:
    """Looks at one node again and again."""

    def __init__(self, make_node: Callable[[], Node]) -> None:
        """`make_node` makes one that has asked nothing yet."""
        self._make_node = make_node
        self.node = make_node()
        self._kept: dict[str, tuple[float, Any]] = {}
        self._counted: dict[str, tuple[float, float]] = {}

    @property
    def now(self) -> float:
        return self.node.tools.now()

    def look(self) -> Snapshot:
        """Look once. Never raises: what could not be looked at stands among the problems."""
        problems: list[str] = []
        rows: list[Row] = []
        panels: list[Panel] = []
        try:
            if self.node.why_unreadable:
                self.node = self._make_node()  # somebody may have mended the files
            self.node.refresh()
            rows = containers.look(self.node)
            panels = [panel for module in self._modules() for panel in self._panel(module)]
        except CannotLook as why:
            problems = [f"{self.node.why_unreadable or why}: the doctor says what to do"]
        except Exception as error:  # the view goes on, and says so
            problems = [f"this look broke: {type(error).__name__} at {place_of(error)}"]
        panels += self._panel(machine)
        return Snapshot(self.node.kind.name, self.now, problems, rows, panels)

    def seldom(self, key: str, ask: Callable[[], T], seconds: float = SELDOM_SECONDS) -> T:
        """What `ask` says, or what it said at most so many seconds ago. Raises what it raises."""
        at, answer = self._kept.get(key, (0.0, None))
        if key not in self._kept or not 0 <= self.now - at < seconds:
            answer = ask()
            self._kept[key] = self.now, answer
        return answer  # type: ignore[no-any-return]  # a key has one kind of answer

    def rate(self, key: str, count: float) -> float | None:
        """How much a counter grew in a second since it was told here last.

        None at the first time, and where the counter has begun anew.
        """
        now = self.now
        at, before = self._counted.get(key, (now, count))
        self._counted[key] = now, count
        return (count - before) / (now - at) if now > at and count >= before else None

    def _modules(self) -> list[ModuleType]:
        return [tunnel, *map(importlib.import_module, self.node.kind.panels)]

    def _panel(self, module: ModuleType) -> Iterator[Panel]:
        """What one module finds; nothing where there is nothing of its kind."""
        try:
            facts: Sequence[Fact] | None = module.look(self)
        except CannotLook as why:
            facts = [Fact("problem", str(why), "", f"{why}.", Tone.NOTICE)]
        if facts is not None:
            yield Panel(module.NAME, module.TITLE, facts)
