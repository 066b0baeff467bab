"""The benchmark's arithmetic."""

import pytest

from tests.bench.figures import Spread, differences, jain, median, percentile, ratios


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.99, 5.0),
        ([1.0, 3.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0, 5.0], 0.5, 3.0),
        ([4.0, 1.0, 3.0, 2.0, 5.0], 0.0, 1.0),
        ([4.0, 1.0, 3.0, 2.0, 5.0], 1.0, 5.0),
        ([0.0, 10.0], 0.99, 9.9),
    ],
)
def test_a_percentile_lies_between_its_neighbours(
    values: list[float], share: float, expected: float
) -> None:
    """Values in any order; between two of them it is interpolated."""
    assert percentile(values, share) == pytest.approx(expected)


def test_no_values_have_no_percentile() -> None:
    """A figure that was not measured is no zero."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_spread_keeps_the_worst_and_the_best_round() -> None:
    """Whoever reads a median sees how far the rounds were apart."""
    spread = Spread.of([3.0, 1.0, 8.0])

    assert (spread.median, spread.low, spread.high, spread.rounds) == (3.0, 1.0, 8.0, 3)


def test_rounds_are_compared_in_pairs() -> None:
    """A machine that was slow in one round was so for both: pairs say what medians hide."""
    ours, theirs = [1.0, 10.0, 2.0], [2.0, 20.0, 4.0]

    assert ratios(ours, theirs) == Spread(0.5, 0.5, 0.5, 3)
    assert differences(ours, theirs) == Spread(-2.0, -10.0, -1.0, 3)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([4.0, 4.0, 4.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25), ([1.0, 3.0], 0.8), ([0.0, 0.0], 0.0)],
)
def test_jains_index_is_one_for_equals(shares: list[float], expected: float) -> None:
    """It is 1/n when one has everything; nobody having anything is not fair."""
    assert jain(shares) == pytest.approx(expected)


def test_a_median_of_an_even_count_is_the_middle() -> None:
    """As everywhere else."""
    assert median([1.0, 2.0, 4.0, 100.0]) == 3.0
