"""Owns the closing figures: one line for each scenario, for people and as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Row:
    """What one scenario came to."""

    number: int
    title: str
    probed: int = 0
    """Packets and connections that were tried; in a fault without any, frames that were judged."""
    leaked: int = 0
    control: int = 0
    """How often the same was seen where nothing protects."""
    recovery_seconds: list[float] = field(default_factory=list)
    note: str = ""


@dataclass
class Report:
    """The rows of one run; a scenario may be played in parts."""

    rows: dict[tuple[int, str], Row] = field(default_factory=dict)
    lost_frames: int = 0
    escaped_packets: int = 0

    def row(self, number: int, title: str) -> Row:
        return self.rows.setdefault((number, title), Row(number, title))

    def table(self) -> str:
        lines = [f"{'':4}{'scenario':58}{'probed':>9}{'leaked':>8}{'control':>9}{'recovery':>16}"]
        for _, row in sorted(self.rows.items()):
            worst = ""
            if row.recovery_seconds:
                worst = f"{max(row.recovery_seconds):.1f} s of {len(row.recovery_seconds)}"
            figures = f"{row.probed:9}{row.leaked:8}{row.control:9}{worst:>16}"
            lines.append(f"{row.number:>2}  {row.title:58}{figures}")
            lines += [f"      {row.note}"] if row.note else []
        lines.append(
            f"frames that the captures lost: {self.lost_frames}; "
            f"packets of the tests that were bound for another network: {self.escaped_packets}"
        )
        return "\n".join(lines)

    def write(self, file: Path) -> None:
        body = {
            "scenarios": [asdict(row) for _, row in sorted(self.rows.items())],
            "lost_frames": self.lost_frames,
            "escaped_packets": self.escaped_packets,
        }
        file.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
