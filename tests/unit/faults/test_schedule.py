"""A schedule of faults follows from its seed and holds what a run must bring."""

from collections import Counter

import pytest

from tests.faults.schedule import DISRUPTIVE, ORDINARY_SECONDS, PASSING, plan


def test_same_seed_gives_the_same_schedule() -> None:
    """Times, kinds and parameters are repeated; another seed gives others."""
    assert plan(4711) == plan(4711)
    assert plan(4711) != plan(4712)


@pytest.mark.parametrize("seed", range(20))
def test_ordinary_run_has_every_kind_several_times(seed: int) -> None:
    """At least two hundred faults, each kind at least twice, none after the end."""
    schedule = plan(seed)

    times = Counter(fault.kind for fault in schedule)
    assert len(schedule) >= 200
    assert set(times) == {*DISRUPTIVE, *PASSING}
    assert min(times.values()) >= 2
    assert [fault.at for fault in schedule] == sorted(fault.at for fault in schedule)
    assert 0 <= schedule[0].at <= schedule[-1].at <= ORDINARY_SECONDS


def test_longer_runs_have_more_faults() -> None:
    """A soak keeps the pace."""
    assert len(plan(1, 10 * ORDINARY_SECONDS)) > 9 * len(plan(1))
