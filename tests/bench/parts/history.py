"""What a turn costs as its chat and the store grow."""

from __future__ import annotations

import json

from tests.bench.figures import Spread
from tests.bench.processes import run_inside
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "history",
        "History",
        [
            "A turn is all that the gateway does for a question but HTTP, in its own environment: "
            "accept, compose the prompt (with 7,168 tokens of room), pass on an answer of 20 "
            "tokens, commit, forget the reply. A first turn tells the engine two messages; from "
            "about 100 turns on the room is full, and what is told stays the same. Every place is "
            "measured in each round; the small store holds the chats of this table alone.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure inside the gateway's environment."""
    messages, longest = run.choose(1_000_000, 20_000), 10_000
    rounds = run.choose(60, 5)
    out = await run_inside(
        run.environments.python("gateway"),
        "tests.bench.inside.history",
        *(str(run.directory), str(messages), str(longest), str(rounds)),
    )
    seen: dict[str, list[float]] = json.loads(out)
    first, full_chat = seen["small 0"], seen["small 400"]
    part.targets = [
        _ratio(f"store of {messages:,} messages, first turn", seen["full 0"], first),
        _ratio(
            f"store of {messages:,}, chat of {longest:,}",
            seen[f"full {longest}"],
            seen[f"small {longest}"],
        ),
        _ratio(f"chat of {longest:,} turns, of one of 400", seen[f"small {longest}"], full_chat),
        _ratio(
            f"chat of {longest:,} in {messages:,}, of a first turn", seen[f"full {longest}"], first
        ),
    ]
    lengths = [int(name.split()[1]) for name in seen if name.startswith("small")]
    rows: list[tuple[str | float, ...]] = []
    for length in lengths:
        small, full = (Spread.of(seen[f"{name} {length}"]) for name in ("small", "full"))
        rows.append(
            (f"{length:,}", *(1000 * s for s in (small.median, small.low, full.median, full.low)))
        )
    columns = (
        "turns before",
        "small store p50, ms",
        "least",
        f"{messages:,} messages p50, ms",
        "least",
    )
    part.tables.append(Table("One turn", columns, rows))
    part.plots.append(
        Plot(
            "history",
            "One turn, by the length of its chat",
            *("turns before", "ms"),
            {
                f"{name} store": [
                    (max(1, n), 1000 * Spread.of(seen[f"{name} {n}"]).median) for n in lengths
                ]
                for name in ("small", "full")
            },
            has_log_x=True,
        )
    )


def _ratio(name: str, ours: list[float], theirs: list[float]) -> Target:
    """Compare the medians: a single turn's time is mostly the disk's mood."""
    third = len(ours) // 3 or 1
    cuts = range(0, third * min(3, len(ours)), third)
    spread = Spread.of(
        [
            Spread.of(ours[at : at + third]).median / Spread.of(theirs[at : at + third]).median
            for at in cuts
        ]
    )
    return Target(f"History: {name}", spread, "×", "at most", 1.2)
