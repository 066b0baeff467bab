"""Two relays on one token do not take the stream from each other for ever."""

from services.relay.tenure import Tenure


class Clock:
    """A clock that goes only when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lose_after(tenure: Tenure, clock: Clock, held_seconds: float) -> float:
    tenure.begin()
    clock.now += held_seconds
    return tenure.lose()


def test_relay_that_loses_again_and_again_yields_longer() -> None:
    """From 10 seconds, doubling, to a minute at most."""
    clock = Clock()
    tenure = Tenure(clock)

    yields = [lose_after(tenure, clock, held_seconds=12) for _ in range(8)]

    assert yields == [10, 20, 40, 60, 60, 60, 60, 60]


def test_relay_that_held_the_stream_for_long_has_no_rival() -> None:
    """After five minutes in office the next loss counts as the first."""
    clock = Clock()
    tenure = Tenure(clock)
    for _ in range(4):
        lose_after(tenure, clock, held_seconds=12)

    assert lose_after(tenure, clock, held_seconds=299) == 60
    assert lose_after(tenure, clock, held_seconds=300) == 10
