"""Says what the figures belong to: the machine, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench.processes import ROOT, Environments

PACKAGES = {
    "bench": ("uvicorn", "uvloop", "httptools"),
    "gateway": ("fastapi", "uvicorn", "aiohttp", "apsw-sqlite3mc", "orjson", "pydantic"),
    "relay": ("aiogram", "aiohttp", "pydantic"),
    "bench-litellm": ("litellm",),
    "bench-python-telegram-bot": ("python-telegram-bot",),
}


@dataclass(frozen=True)
class Machine:
    """A machine, and what is installed on it."""

    facts: tuple[tuple[str, str], ...]

    def rows(self) -> tuple[tuple[str, str], ...]:
        return self.facts

    @property
    def when(self) -> str:
        """Say when it was looked at, and at which commit."""
        facts = dict(self.facts)
        return f"{facts['date']}, commit {facts['commit']}"

    def as_json(self) -> dict[str, Any]:
        return dict(self.facts)


def look(environments: Environments) -> Machine:
    """Read what there is."""
    facts = [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", _commit()),
        ("processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores"),
        ("memory", f"{_memory_gib():.1f} GiB"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("disk of the store", _file_system(ROOT)),
        ("load before the run", f"{os.getloadavg()[0]:.2f}"),
        ("Python", platform.python_version()),
    ]
    facts += [(f"environment {name}", _versions(environments, name)) for name in PACKAGES]
    return Machine(tuple(facts))


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)


def _file_system(path: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if str(path).startswith(where) and len(where) >= len(best[0]):
            best = (where, kind)
    return best[1]


def _versions(environments: Environments, name: str) -> str:
    if not (environments.directory / name).exists():
        return "not installed"
    library = next((environments.directory / name / "lib").glob("python*"), Path())
    found = {
        one.metadata["Name"].lower(): one.version
        for one in metadata.distributions(path=[str(library / "site-packages")])
    }
    shown = [f"{package} {found.get(package, '?')}" for package in PACKAGES[name]]
    return ", ".join([library.name or sys.implementation.name, *shown])
