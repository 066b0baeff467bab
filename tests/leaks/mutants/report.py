"""Owns the closing figures: how many mutants each file and service had, and which were missed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.leaks.behaviour import Finding
from tests.leaks.mutants.equivalent import AT_START, excuse

STARTING = ("starting", "loading the rules")
"""The checks that find what does not start."""


@dataclass
class Row:
    """One ruleset's or service's mutants."""

    caught: int = 0
    at_start: int = 0
    """So many of those caught did not even start."""
    equivalent: int = 0
    survivors: list[str] = field(default_factory=list)
    wrongly_excused: list[str] = field(default_factory=list)
    """Listed as changing nothing, and yet something was found."""

    @property
    def made(self) -> int:
        """Without those that change nothing."""
        return self.caught + len(self.survivors)


class Report:
    """What became of all mutants."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.by: dict[str, str] = {}
        """The first finding of each mutant that was caught."""

    @classmethod
    def of(cls, parts: Iterable[Path]) -> "Report":
        """Put together what several workers have written; no two have tried the same subject."""
        report = cls()
        for part in parts:
            body = json.loads(part.read_text(encoding="utf-8"))
            for subject, row in body["rows"].items():
                del row["made"]
                assert subject not in report.rows, f"{subject}: tried by two workers"
                report.rows[subject] = Row(**row)
            report.by |= body["by"]
        return report

    def note(self, subject: str, name: str, findings: Sequence[Finding]) -> None:
        row = self.rows.setdefault(subject, Row())
        full = f"{subject}: {name}"
        if excuse(full):
            row.equivalent += 1
            if findings:
                row.wrongly_excused.append(f"{name}: {findings[0]}")
        elif findings and findings[0].check in STARTING:
            if full not in AT_START or AT_START[full] not in findings[0].seen:
                row.survivors.append(f"{name}: {findings[0]}")
                return
            row.caught += 1
            row.at_start += 1
            self.by[full] = str(findings[0])
        elif findings:
            row.caught += 1
            self.by[full] = str(findings[0])
        else:
            row.survivors.append(name)

    def figures(self) -> dict[str, float]:
        rows = self.rows.values()
        made, caught = sum(row.made for row in rows), sum(row.caught for row in rows)
        return {
            "made": made,
            "caught": caught,
            "caught at start": sum(row.at_start for row in rows),
            "equivalent": sum(row.equivalent for row in rows),
            "score": round(caught / made, 4) if made else 0.0,
        }

    def table(self) -> str:
        head = (
            f"{'ruleset or service':24}{'made':>6}{'caught':>8}{'at start':>10}{'equivalent':>12}"
        )
        lines = [head]
        for subject, row in self.rows.items():
            lines.append(
                f"{subject:24}{row.made:6}{row.caught:8}{row.at_start:10}{row.equivalent:12}"
            )
        lines += ["", *(f"{name:24}{value:6g}" for name, value in self.figures().items())]
        for subject, row in self.rows.items():
            lines += [f"missed: {subject}: {name}" for name in row.survivors]
            lines += [f"not equivalent: {subject}: {name}" for name in row.wrongly_excused]
        return "\n".join(lines)

    def write(self, file: Path) -> None:
        body = {
            "figures": self.figures(),
            "rows": {
                subject: {"made": row.made, **asdict(row)} for subject, row in self.rows.items()
            },
            "by": self.by,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
