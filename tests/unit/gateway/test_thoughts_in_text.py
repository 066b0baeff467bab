"""An engine that does not know its model's format leaves thoughts in the text: they are found."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.thinking import Thinking

CASES = [
    ("<think>hm</think>yes", "hm", "yes"),
    ("\n <think>\nhm\n</think>\n\nyes", "\nhm\n", "yes"),
    ("<think></think>yes", "", "yes"),
    ("<think>cut off", "cut off", ""),
    ("<think>a < b </thin> </think>c</think>", "a < b </thin> ", "c</think>"),
    ("<think>ends in </th", "ends in </th", ""),
    ("yes, <think>not here</think>", "", "yes, <think>not here</think>"),
    ("<thinking>no</thinking>", "", "<thinking>no</thinking>"),
    ("<thin", "", "<thin"),
    ("  ", "", "  "),
    ("", "", ""),
]


def split(pieces: Iterable[str]) -> tuple[str, str]:
    thinking = Thinking()
    parts = [*map(thinking.split, pieces), thinking.end()]
    thoughts, answers = zip(*parts, strict=True)
    thought, answer = "".join(thoughts), "".join(answers)
    return thought, answer.lstrip() if thought else answer  # it may have come before the thoughts


@pytest.mark.parametrize(("text", "thought", "answer"), CASES)
def test_thoughts_at_the_beginning_are_no_part_of_the_answer(
    text: str, thought: str, answer: str
) -> None:
    """However the text is cut into pieces."""
    assert split([text]) == (thought, answer)
    assert split(text) == (thought, answer)
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        pieces = [text[:first], text[first:second], text[second:]]
        assert split(pieces) == (thought, answer), pieces


@given(st.lists(st.sampled_from(["<", "<think>", "think>", "</", "</think>", " ", "a", "\n"])))
def test_nothing_is_lost_but_the_marks(pieces: list[str]) -> None:
    """What is thought, and what is answered, is all that was said, and in its order."""
    text = "".join(pieces)

    thought, answer = split(pieces)

    if text.lstrip().startswith("<think>"):
        inside = text.lstrip().removeprefix("<think>")
        expected, _, rest = inside.partition("</think>")
        assert (thought, answer.lstrip()) == (expected, rest.lstrip())
    else:
        assert (thought, answer) == ("", text)


def test_thoughts_are_shown_as_they_come() -> None:
    """Only what may be the closing mark is held back."""
    thinking = Thinking()

    assert [thinking.split(piece) for piece in ("<think>", "so ", "a<", "b", "</think", ">c")] == [
        ("", ""), ("so ", ""), ("a", ""), ("<b", ""), ("", ""), ("", "c"),
    ]  # fmt: skip


def test_white_space_is_passed_on_at_once() -> None:
    """Whoever counts the pieces must see an engine that says nothing else."""
    thinking = Thinking()

    assert [thinking.split(piece) for piece in ("\n", " <", "think>", "hm")] == [
        ("", "\n"), ("", " "), ("", ""), ("hm", ""),
    ]  # fmt: skip
