"""Owns ./scripts/bench: makes an environment for each thing that is measured, and measures.

The measuring itself is in tests/bench. It runs in an environment of its own; the services run in
theirs, with the packages of their images and nothing else, and so do the peers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts import setup
from scripts.steps import StepFailed, Steps, end_on_sigterm, finish
from scripts.test import make_venv

ROOT = setup.ROOT
STATE = ROOT / ".bench"
ENVIRONMENTS = STATE / "environments"


@dataclass(frozen=True)
class Part:
    """One part, and the environments that it needs beside the benchmark's own."""

    name: str
    about: str
    environments: tuple[str, ...] = ()
    images: tuple[setup.Images, ...] = ()
    """Docker images; none: it needs no Docker."""


PARTS = (
    Part("formatting", "Markdown of whole and of growing answers", ("relay",)),
    Part(
        "relay",
        "start, memory, updates a second beside two other libraries, 1,000 chats at once",
        ("relay", "bench-python-telegram-bot"),
    ),
    Part("gateway", "latency and throughput beside LiteLLM", ("gateway", "bench-litellm")),
    Part("acceptance", "asks committed a second", ("gateway",)),
    Part("fairness", "one heavy user and four light ones", ("gateway",)),
    Part("history", "one turn in a long chat and a large store", ("gateway",)),
    Part("chain", "from the update to what its user sees, without tunnels", ("gateway", "relay")),
)
BY_NAME = (
    Part(
        "nodes",
        "both nodes in Docker: the chain with tunnels, memory, starts, images; only when named",
        images=(setup.RELAY_NODE, setup.model_node("llamacpp"), setup.STUBS),
    ),
)

EXAMPLES = """examples:
  ./scripts/bench                      all of it, a quarter of an hour; writes docs/benchmarks.md
  ./scripts/bench gateway relay        these parts alone; the page keeps its others
  ./scripts/bench --quick              as little as shows that it works; writes .bench/quick/
  ./scripts/bench --dry-run            what it would install and measure

parts:
"""


def main() -> int:
    """Measure. Returns 1 if a part came to no end; a missed target is a finding, not a failure."""
    end_on_sigterm()
    arguments = _parse()
    wanted = [part for part in (*PARTS, *BY_NAME) if part.name in arguments.parts] or list(PARTS)
    images = [image for part in wanted for image in part.images]
    names = sorted({"bench", *(name for part in wanted for name in part.environments)})
    if arguments.dry_run:
        for name in names:
            print(f"would install requirements/{name}.txt into {ENVIRONMENTS / name}")
        for part in wanted:
            print(f"would measure {part.name}: {part.about}")
        print(f"would write {arguments.out / 'benchmarks.md'}")
        return 0
    steps = Steps(len(names) + bool(images) * setup.step_count(images), STATE / "setup.log")
    try:
        with setup.only_one():
            for name in names:
                with steps.step(f"Python packages: {name}") as step:
                    make_venv(step, ENVIRONMENTS / name, ROOT / "requirements" / f"{name}.txt")
            if images:
                setup.prepare(steps, images)
    except StepFailed as failure:
        steps.fail(failure)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The next run goes on from here.")
        return 1
    return _measure(arguments, [part.name for part in wanted])


def _measure(arguments: argparse.Namespace, parts: list[str]) -> int:
    command = [str(ENVIRONMENTS / "bench/bin/python"), "-P", "-m", "tests.bench"]
    command += [f"--environments={ENVIRONMENTS}", f"--docs={arguments.out}"]
    command += ["--quick"] if arguments.quick else []
    command += parts if arguments.parts else []
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        finish(process)
        return 1


def _parse() -> argparse.Namespace:
    listed = "\n".join(f"  {part.name:12}{part.about}" for part in (*PARTS, *BY_NAME))
    parser = argparse.ArgumentParser(
        prog="./scripts/bench",
        description="Measure what the chain costs, side by side with what it is compared with. "
        "Nothing else should keep the machine busy meanwhile.",
        epilog=EXAMPLES + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="all, unless some are named")
    parser.add_argument(
        "--quick", action="store_true", help="little of each: it shows that it works"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument(
        "--out", type=Path, help="where the page goes (docs/, of a quick run .bench/quick/)"
    )
    arguments = parser.parse_args()
    known = [part.name for part in (*PARTS, *BY_NAME)]
    for name in arguments.parts:
        if name not in known:
            parser.error(f"there is no part `{name}`: choose from {', '.join(known)}")
    default = STATE / "quick" if arguments.quick else ROOT / "docs"
    arguments.out = (arguments.out or default).resolve()
    return arguments


if __name__ == "__main__":
    sys.exit(main())
