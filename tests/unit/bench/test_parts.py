"""The benchmark's parts, as the command offers them and as they are run."""

import pytest

from scripts.bench import BY_NAME, ENVIRONMENTS, PARTS, ROOT
from tests.bench import __main__ as bench
from tests.bench.inside.formatting import streamed, text_of, whole
from tests.bench.parts import nodes
from tests.bench.parts.chain import _judge
from tests.bench.program import first_token, last_token
from tests.bench.telegram import BenchTelegram, Shown


def test_the_command_offers_the_parts_that_there_are() -> None:
    """In the same order; each environment has its lock."""
    assert tuple(part.name for part in PARTS) == bench.PARTS
    assert tuple(part.name for part in BY_NAME) == bench.BY_NAME
    for part in (*PARTS, *BY_NAME):
        for name in ("bench", *part.environments):
            assert (ROOT / "requirements" / f"{name}.txt").exists()
    assert ENVIRONMENTS.is_relative_to(ROOT / ".bench")


@pytest.mark.parametrize("name", [*bench.PARTS, *bench.BY_NAME])
def test_each_part_says_what_it_is_about(name: str) -> None:
    """Under its own name, with how it was measured."""
    part = bench.part_of(name).describe()

    assert part.name == name
    assert part.notes


async def test_a_bot_gets_what_waits_in_hundreds() -> None:
    """As from Telegram; what was delivered does not come again."""
    telegram = BenchTelegram()
    telegram.push(telegram.message(7, "hello") for _ in range(130))

    polls = [await telegram._poll() for _ in range(2)]

    assert [len(poll) for poll in polls] == [100, 30]
    assert telegram.polled.is_set()


def test_the_engines_own_time_is_taken_off() -> None:
    """An edit that shows nothing of the answer is not its first; the first final counts."""
    begun, text = first_token(10.010, 10.050), " word"
    shown = [
        Shown(10.020, 7, 1, "…", is_edit=False),
        Shown(10.030, 7, 1, "Stop", is_edit=True),
        Shown(10.080, 7, 1, begun + text, is_edit=True),
        Shown(10.500, 7, 1, begun + text + last_token(10.400), is_edit=True),
        Shown(16.500, 7, 1, begun + text + last_token(10.400), is_edit=True),
        Shown(10.300, 8, 2, begun, is_edit=True),
    ]

    (seen,) = _judge(7, [10.0], shown)

    assert seen.placeholder_milliseconds == pytest.approx(20)
    assert seen.first_milliseconds == pytest.approx(40)
    assert seen.final_seconds == pytest.approx(0.1)


def test_the_text_is_as_long_as_it_says() -> None:
    """Of whole and of streamed answers, so that sizes can be compared."""
    text = text_of(3000)

    assert len(text.encode()) == 3000
    assert whole(text) > 0
    assert streamed(text) > whole(text)


def test_a_final_is_the_first_edit_that_shows_the_whole_text() -> None:
    """It is said once more after a quiet moment, which does not count."""
    edits = [(1.0, "Q4x"), (1.5, "Q4x says"), (2.0, "Q4x says it all"), (8.0, "Q4x says it all")]

    assert nodes._first_whole(edits) == 2.0
    assert {nodes._mark(text) for _, text in edits} == {"Q4x"}
    assert nodes._mark("") == ""
