"""Writes what was measured: docs/benchmarks.md, its plots, and the same as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.machine import Machine
from tests.bench.results import Part, Plot, Table, Target

MISSED = "**missed**"


@dataclass(frozen=True)
class Report:
    """One run of the benchmark."""

    machine: Machine
    command: str
    is_quick: bool
    seconds: float
    parts: Sequence[Part]

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine.as_json(),
            "command": self.command,
            "is_quick": self.is_quick,
            "seconds": round(self.seconds, 1),
            "parts": {part.name: part.as_json() for part in self.parts},
        }


def write_json(report: Report, *files: Path) -> None:
    """Write the same to each of these files."""
    written = json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n"
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(written, encoding="utf-8")


def read_parts(file: Path, *, is_quick: bool) -> dict[str, Part]:
    """Read the parts of an earlier run of the same kind; none where there was no such run."""
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        if written["is_quick"] != is_quick:
            return {}
        return {name: Part.from_json(part) for name, part in written["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_markdown(report: Report, file: Path, plots: Path) -> None:
    """Write the page and its plots, which lie in a directory beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(report, plots.name), encoding="utf-8")
    for part in report.parts:
        for plot in part.plots:
            draw(plot, plots / f"{plot.name}.png")


def page(report: Report, plots: str) -> str:
    """Write the page; `plots` is the directory of the pictures, seen from it."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `./scripts/bench`; edits are overwritten. Ratios are taken side by side in "
        "one run: every round measures both, one right after the other, and a figure is the "
        "median of the rounds with the least and the most beside it. Absolute figures belong to "
        "this machine. Parts that were run by themselves take the place of their earlier figures.",
        "",
    ]
    if report.is_quick:
        lines += ["**A quick run, which shows that everything works: its figures say little.**", ""]
    lines += [f"Command: `{report.command}`, {report.seconds / 60:.1f} minutes.", ""]
    lines += _table(Table("", ("", ""), report.machine.rows()))
    lines += ["## Targets", "", *_verdicts(report.parts)]
    for part in report.parts:
        lines += _part(part, plots)
    return "\n".join(lines).rstrip() + "\n"


def _verdicts(parts: Sequence[Part]) -> list[str]:
    targets = [target for part in parts for target in part.targets]
    missed = [target for target in targets if not target.is_met]
    lines = [f"{len(targets) - len(missed)} of {len(targets)} targets are met.", ""]
    rows = [_target_row(target) for target in sorted(targets, key=lambda one: one.is_met)]
    lines += _table(Table("", ("target", "wanted", "median", "least", "most", ""), rows))
    for part in parts:
        if part.failure:
            lines += [f"`{part.name}` came to no end: {part.failure.splitlines()[0]}", ""]
    return lines


def _target_row(target: Target) -> tuple[str, ...]:
    spread = target.spread
    return (
        target.name,
        f"{target.bound} {shown(target.limit)} {target.unit}".rstrip(),
        *(f"{shown(value)} {target.unit}".rstrip() for value in (spread.median,)),
        shown(spread.low),
        shown(spread.high),
        "met" if target.is_met else MISSED,
    )


def _part(part: Part, plots: str) -> list[str]:
    lines = [f"## {part.title}", ""]
    lines += [f"`./scripts/bench {part.name}`, {part.seconds:.0f} s, {part.measured}.", ""]
    for note in part.notes:
        lines += [note, ""]
    if part.failure:
        lines += ["It came to no end:", "", "```", part.failure, "```", ""]
    for table in part.tables:
        lines += _table(table)
    for plot in part.plots:
        lines += [f"![{plot.title}]({plots}/{plot.name}.png)", ""]
    return lines


def _table(table: Table) -> list[str]:
    lines = [f"**{table.title}**", ""] if table.title else []
    lines.append(_row(table.columns))
    lines.append(_row(["---"] * len(table.columns)))
    lines += [_row([_cell(cell) for cell in row]) for row in table.rows]
    return [*lines, ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: str | float) -> str:
    text = cell if isinstance(cell, str) else shown(cell)
    return text.replace("|", "\\|").replace("\n", " ")


def shown(value: float) -> str:
    """Write a number as people read it: three digits that matter, and no more than that."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def draw(plot: Plot, file: Path) -> None:
    """Draw one plot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=110, layout="constrained")
    for label, points in plot.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker=".", label=label)
    if plot.has_log_x:
        axes.set_xscale("log")
    axes.set_title(plot.title, fontsize=10)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, metadata={"Software": None})
    pyplot.close(figure)
