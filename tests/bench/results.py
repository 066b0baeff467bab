"""Owns what a part of the benchmark reports: targets, tables, plots; and its shape as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.bench.figures import Spread


@dataclass(frozen=True)
class Target:
    """A figure that has to be reached: the median over the rounds is judged."""

    name: str
    spread: Spread
    unit: str
    bound: Literal["at most", "at least"]
    limit: float

    @property
    def is_met(self) -> bool:
        """Tell whether the median is within the limit."""
        if self.bound == "at most":
            return self.spread.median <= self.limit
        return self.spread.median >= self.limit


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Plot:
    """Lines over one axis; `name` is that of the file."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    has_log_x: bool = False


@dataclass
class Part:
    """All that one part of the benchmark has found."""

    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    """How it was measured, and what was not: sentences for readers."""
    targets: list[Target] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    seconds: float = 0.0
    measured: str = ""
    """When, and at which commit: parts of one page may come from several runs."""
    failure: str = ""
    """Why it came to no end; then the rest is what it had by then."""

    def as_json(self) -> dict[str, Any]:
        """Write everything, and of each target whether it is met."""
        written = asdict(self)
        for target, shown in zip(self.targets, written["targets"], strict=True):
            shown["is_met"] = target.is_met
        return written

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> Part:
        """Read what `as_json` wrote. Raises TypeError or KeyError where it was not that."""
        targets = [
            Target(*(one["name"], Spread(**one["spread"]), one["unit"], one["bound"], one["limit"]))
            for one in written["targets"]
        ]
        plots = [
            Plot(**{**one, "lines": {k: [(x, y) for x, y in v] for k, v in one["lines"].items()}})
            for one in written["plots"]
        ]
        tables = [Table(**one) for one in written["tables"]]
        return cls(**{**written, "targets": targets, "plots": plots, "tables": tables})
