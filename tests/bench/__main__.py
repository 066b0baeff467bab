"""Runs the parts of the benchmark one after the other, and writes what they found.

python -m tests.bench --environments .bench/environments gateway relay
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.gateway import held_namespace
from tests.bench.processes import ROOT, Environments
from tests.bench.report import Report, read_parts, shown, write_json, write_markdown
from tests.bench.results import Part
from tests.bench.run import Run

PARTS = ("formatting", "relay", "gateway", "acceptance", "fairness", "history", "chain")
BY_NAME = ("nodes",)
"""Those that run only when they are named."""


def main() -> int:
    """Measure. Returns 1 if a part came to no end; a target that is missed is no failure."""
    arguments = _parse()
    run = Run(Environments(arguments.environments), arguments.work, arguments.quick)
    looked = machine.look(run.environments)
    began = time.monotonic()
    try:
        import uvloop  # in the benchmark's own environment alone

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            parts = runner.run(_measure(run, arguments.parts or PARTS))
    except KeyboardInterrupt:
        print("\nInterrupted: nothing is written.")
        return 1
    results = arguments.docs / "benchmarks" / "results.json"
    for part in parts:
        part.measured = looked.when
    known = read_parts(results, is_quick=run.is_quick) | {part.name: part for part in parts}
    ordered = [known[name] for name in (*PARTS, *BY_NAME) if name in known]
    command = " ".join(["./scripts/bench", *arguments.parts, *["--quick"] * arguments.quick])
    report = Report(looked, command, run.is_quick, time.monotonic() - began, ordered)
    write_json(report, arguments.json, results)
    write_markdown(report, arguments.docs / "benchmarks.md", arguments.docs / "benchmarks")
    _tell(parts, arguments.docs / "benchmarks.md")
    return 1 if any(part.failure for part in parts) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "work")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "results.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


async def _measure(run: Run, names: list[str] | tuple[str, ...]) -> list[Part]:
    parts: list[Part] = []
    async with held_namespace():
        for name in names:
            print(f"== {name}", flush=True)
            part = part_of(name).describe()
            began = time.monotonic()
            shutil.rmtree(run.directory, ignore_errors=True)
            run.directory.mkdir(parents=True)
            try:
                await part_of(name).measure(run, part)
            except Exception as error:
                # One part that breaks must not take the figures of the others with it.
                part.failure = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            part.seconds = time.monotonic() - began
            parts.append(part)
    return parts


def part_of(name: str) -> Any:
    """Load the module of a part."""
    return importlib.import_module(f"tests.bench.parts.{name}")


def _tell(parts: list[Part], page: Path) -> None:
    print()
    for part in parts:
        for target in part.targets:
            verdict = "met" if target.is_met else "MISSED"
            print(
                f"{verdict:7}{target.name}: {shown(target.spread.median)} {target.unit} "
                f"({target.bound} {shown(target.limit)})"
            )
        if part.failure:
            print(f"BROKEN {part.name}: {part.failure.splitlines()[0]}")
    print(f"\nWritten: {page}")


if __name__ == "__main__":
    sys.exit(main())
