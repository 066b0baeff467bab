"""What it costs to turn Markdown into messages: one long answer, and all edits of growing ones."""

from __future__ import annotations

import json

from tests.bench.figures import Spread, ratios
from tests.bench.processes import run_inside
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "formatting",
        "Formatting",
        [
            "The text is made of prose with styles and links, lists, tables and code, as models "
            "write them. Streamed: the text grows by 60 characters before each edit, at 12 to 15 "
            "tokens a second what comes between two edits, and each edit looks at all parts and "
            "renders the last one, as `services/relay/delivery.py` does. Processor time, in the "
            "relay's own environment.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure inside the relay's environment."""
    rounds = str(run.choose(5, 2))
    module = "tests.bench.inside.formatting"
    out = await run_inside(run.environments.python("relay"), module, rounds)
    seen = json.loads(out)
    whole, streamed = seen["whole"], {int(k): v for k, v in seen["streamed"].items()}
    growth = ratios(streamed[100_000], streamed[20_000])
    part.targets = [
        Target("Formatting: 15 kB", Spread.of([1000 * s for s in whole]), "ms", "at most", 10),
        Target("Formatting: streamed 100 kB, of streamed 20 kB", growth, "×", "at most", 5),
    ]
    rows = []
    for size, seconds in streamed.items():
        spread = Spread.of(seconds)
        rows.append((f"{size:,}", spread.median, spread.low, spread.high))
    part.tables.append(
        Table("All edits of one streamed answer", ("bytes", "s", "least", "most"), rows)
    )
    points = [(size / 1000, Spread.of(seconds).median) for size, seconds in streamed.items()]
    part.plots.append(
        Plot(
            "formatting-streamed",
            "All edits of one streamed answer",
            *("length, kB", "processor time, s"),
            {"measured": points},
        )
    )
