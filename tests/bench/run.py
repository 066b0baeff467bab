"""Owns what all parts of one run share: where they work, and how much they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.bench.processes import Environments

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One run. `is_quick`: as little as shows that everything works."""

    environments: Environments
    directory: Path
    is_quick: bool

    def choose(self, whole: T, quick: T) -> T:
        """Take one of two sizes."""
        return quick if self.is_quick else whole

    def say(self, sentence: str) -> None:
        """Tell whoever waits how far it is."""
        print(f"    {sentence}", flush=True)
