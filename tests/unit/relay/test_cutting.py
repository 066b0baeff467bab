"""Cutting a reply into messages loses nothing and is stable while the text grows."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.relay.cutting import Parts

TEXTS = st.text(alphabet=st.sampled_from("ab\u0416\U0001f600. \n"), max_size=300)


def split(text: str, most_units: int) -> list[str]:
    parts = Parts("plain", most_units)
    parts.read(text)
    return [parts.render(position).text for position in range(len(parts))]


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def visible(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(TEXTS)
def test_no_visible_character_is_lost_and_every_part_fits(text: str) -> None:
    """All that can be seen stays, in order, in parts that Telegram takes."""
    parts = split(text, most_units=20)

    assert visible("".join(parts)) == visible(text)
    assert all(0 < units(part) <= 20 for part in parts)


@given(TEXTS, TEXTS)
def test_full_parts_never_change(text: str, more: str) -> None:
    """Text that is added later changes the last two parts at most: the rest is never edited."""
    before = split(text, most_units=20)
    after = split(text + more, most_units=20)

    settled = before[:-1]
    assert after[: len(settled)] == settled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("short", ["short"]),
        ("first paragraph\n\nsecond one", ["first paragraph", "second one"]),
        ("a line of text\nanother line", ["a line of text", "another line"]),
        ("one sentence. Another one", ["one sentence.", "Another one"]),
        ("words without an end here", ["words without an", "end here"]),
        ("x" * 45, ["x" * 20, "x" * 20, "x" * 5]),
        ("\U0001f600" * 11, ["\U0001f600" * 10, "\U0001f600"]),
    ],
)
def test_cuts_at_the_best_border(text: str, expected: list[str]) -> None:
    """Paragraphs before lines, lines before sentences, sentences before words."""
    assert split(text, most_units=20) == expected
