"""The relay's sign of its polls: times and a number, for whoever looks after the node."""

from pathlib import Path

import pytest

from services.relay.polls import PollSign


class Clock:
    def __init__(self) -> None:
        self.now = 1000.7

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(file: Path) -> dict[str, int]:
    lines = file.read_text(encoding="ascii").splitlines()
    return {name: int(value) for name, _, value in (line.partition("=") for line in lines)}


def test_sign_tells_the_last_answer(tmp_path: Path, clock: Clock) -> None:
    """0 until Telegram has answered, then when it did last."""
    sign = PollSign(tmp_path / "polls", clock)

    sign.begin()
    assert set(told(tmp_path / "polls").values()) == {0}

    sign.answered()
    clock.now += 60
    sign.answered()
    assert told(tmp_path / "polls")["answered_at"] == 1060


def test_sign_tells_since_when_updates_wait(tmp_path: Path, clock: Clock) -> None:
    """From the first look at which something waited; more of them change only the number."""
    sign = PollSign(tmp_path / "polls", clock)

    sign.waiting(1)
    clock.now += 30
    sign.waiting(3)
    waits = told(tmp_path / "polls")
    assert (waits["waiting"], waits["waiting_since"]) == (3, 1000)

    sign.waiting(0)
    clock.now += 30
    sign.waiting(2)
    assert told(tmp_path / "polls")["waiting_since"] == 1060


def test_sign_tells_what_came_and_went_last(tmp_path: Path, clock: Clock) -> None:
    """What came is written with the look that follows at once."""
    sign = PollSign(tmp_path / "polls", clock)

    sign.came()
    sign.waiting(0)
    clock.now += 9
    sign.went()

    assert told(tmp_path / "polls") | {"came_at": 1000, "went_at": 1009} == told(tmp_path / "polls")


def test_sign_that_cannot_be_written_stops_nothing(tmp_path: Path, clock: Clock) -> None:
    """A full tmpfs is no reason to carry no messages."""
    PollSign(tmp_path / "missing" / "polls", clock).answered()
