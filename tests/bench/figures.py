"""Owns the arithmetic of the benchmark: percentiles, spreads over rounds, pairs, fairness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """Interpolate linearly between the two nearest values; `share` is 0 to 1.

    Raises ValueError where there are no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """Find the middle value."""
    return percentile(values, 0.5)


@dataclass(frozen=True)
class Spread:
    """One figure over several rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up what the rounds gave. Raises ValueError where there was none."""
        return cls(median(values), min(values), max(values), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Compare round by round: each pair was measured right after one another."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def differences(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Subtract round by round."""
    return Spread.of([a - b for a, b in zip(ours, theirs, strict=True)])


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all have the same, 1/n when one has everything."""
    total = sum(shares)
    squares = sum(share * share for share in shares)
    return total * total / (len(shares) * squares) if squares else 0.0
