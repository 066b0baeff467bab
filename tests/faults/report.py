"""Owns the closing figures: a table for people, and the same as JSON for machines."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.checker import Verdict
from tests.faults.faults import Done
from tests.faults.load import Counts


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    seconds: float
    done: list[Done] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    least_in_flight: int = 0
    mean_in_flight: float = 0.0
    drain_seconds: float | None = None
    """None: it did not come to rest within the deadline."""
    verdict: Verdict = field(default_factory=Verdict)
    restarts: dict[str, int] = field(default_factory=dict)

    def by_kind(self) -> dict[str, int]:
        return dict(sorted(Counter(done.fault.kind for done in self.done).items()))

    def worst_recovery(self, *, alone: bool) -> dict[str, float]:
        """The longest recovery of each kind of fault: of those that came alone, or of all."""
        worst: dict[str, float] = {}
        for done in self.done:
            if done.recovery_seconds is not None and (done.is_alone or not alone):
                kind = done.fault.kind
                worst[kind] = round(max(worst.get(kind, 0.0), done.recovery_seconds), 1)
        return dict(sorted(worst.items()))

    def worst_return(self) -> dict[str, float]:
        """The longest time that a killed process was away, of those that came alone."""
        worst: dict[str, float] = {}
        for done in self.done:
            if done.back_seconds is not None and done.is_alone:
                kind = done.fault.kind
                worst[kind] = round(max(worst.get(kind, 0.0), done.back_seconds), 1)
        return dict(sorted(worst.items()))

    def figures(self) -> dict[str, int | float | None]:
        verdict = self.verdict
        return {
            "faults": len(self.done),
            "asks": verdict.asks,
            "edits": verdict.edits,
            "tried again": self.counts.retries,
            "commands": verdict.commands,
            "answers": verdict.answers,
            "stopped": verdict.stopped,
            "reworded before their turn": verdict.reworded,
            **{kind: len(found) for kind, found in verdict.offences().items()},
            "honest failures": len(verdict.failures),
            "refusals": verdict.refusals,
            "orphaned placeholders": verdict.orphans,
            "notices left": verdict.notices,
            "reactions": verdict.reactions,
            "interleaved long answers": len(verdict.interleaved),
            "least asks in flight": self.least_in_flight,
            "mean asks in flight": round(self.mean_in_flight, 1),
            "seconds until at rest": self.drain_seconds and round(self.drain_seconds, 1),
            "seed": self.seed,
        }

    def table(self) -> str:
        back = self.worst_return()
        alone, all_ = self.worst_recovery(alone=True), self.worst_recovery(alone=False)
        lines = [f"{'fault':34}{'times':>6}{'process back':>14}{'works':>8}{'among others':>14}"]
        for kind, times in self.by_kind().items():
            row = f"{kind:34}{times:6}"
            if kind in all_:
                row += f"{_seconds(back.get(kind)):>14}{_seconds(alone.get(kind)):>8}"
                row += f"{_seconds(all_[kind]):>14}"
            lines.append(row)
        lines += ["", *(f"{name:34}{value!s:>6}" for name, value in self.figures().items())]
        for kind, found in (*self.verdict.offences().items(), ("failed", self.verdict.failures)):
            lines += [f"{kind}: {sentence}" for sentence in found[:20]]
        return "\n".join(lines)

    def write(self, file: Path) -> None:
        body = {
            "figures": self.figures(),
            "seconds": self.seconds,
            "faults": self.by_kind(),
            "worst_return_alone": self.worst_return(),
            "worst_recovery_alone": self.worst_recovery(alone=True),
            "worst_recovery": self.worst_recovery(alone=False),
            "restarts": self.restarts,
            "verdict": asdict(self.verdict),
        }
        file.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def schedule_text(schedule: Sequence[object]) -> str:
    return "\n".join(map(str, schedule))
