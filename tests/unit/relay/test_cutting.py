"""Cutting a reply into messages loses nothing, and a cut never moves while the text grows."""

import itertools
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.relay import cutting, markdown, rendering
from services.relay.cutting import Markup, Parts
from services.relay.graphemes import is_border
from services.relay.rendering import MOST_UNITS, Rendered
from services.relay.spans import read_spans
from tests.unit.relay.outputs import TOKENS, damaged, odd, ordinary
from tests.unit.relay.reading import assert_nothing_lost, assert_taken, show, units

TEXTS = st.text(alphabet=st.sampled_from("ab\u0416\U0001f600. \n"), max_size=300)
MARKUPS: list[Markup] = ["plain", "markdown"]


def messages_of(text: str, markup: Markup, most_units: int = MOST_UNITS) -> list[Rendered]:
    parts = Parts(markup, most_units)
    parts.read(text)
    return [parts.render(position) for position in range(len(parts))]


def split(text: str, most_units: int) -> list[str]:
    return [message.text for message in messages_of(text, "plain", most_units)]


def seen(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(TEXTS)
def test_no_visible_character_is_lost_and_every_part_fits(text: str) -> None:
    """All that can be seen stays, in order, in parts that Telegram takes."""
    parts = split(text, most_units=20)

    assert seen("".join(parts)) == seen(text)
    assert all(0 < units(part) <= 20 for part in parts)


@given(TEXTS, TEXTS)
def test_full_parts_never_change(text: str, more: str) -> None:
    """Text that is added later changes the last part alone: the rest is never edited."""
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
        ("words without an end here", ["words without an end", "here"]),
        ("x" * 45, ["x" * 20, "x" * 20, "x" * 5]),
        ("\U0001f600" * 11, ["\U0001f600" * 10, "\U0001f600"]),
    ],
)
def test_cuts_at_the_best_border(text: str, expected: list[str]) -> None:
    """Paragraphs before lines, lines before sentences, sentences before words."""
    assert split(text, most_units=20) == expected


@pytest.mark.parametrize(
    "character",
    [
        "e\u0301",
        "👩\u200d👩\u200d👧",
        "👍🏽",
        "🇩🇪",
        "1\ufe0f\u20e3",
        "한",
        "ก็",
        "\u0646\u064e\u0651",
    ],
)
@pytest.mark.parametrize("before", range(20))
def test_no_character_is_cut(character: str, before: int) -> None:
    """Marks, joined emoji, skin tones, flags, keycaps stay with what they belong to."""
    text = "x" * before + character * 20

    parts = split(text, most_units=20)

    assert "".join(parts) == text
    for part in parts:
        assert part.removeprefix("x" * before).replace(character, "") == ""


def test_a_character_longer_than_a_message_is_cut() -> None:
    """Marks without end cannot stay together; they are not lost either."""
    text = "a" + "\u0301" * 100

    assert "".join(split(text, most_units=20)) == text


def test_borders_of_characters() -> None:
    """Two flags are two characters, and four letters of flags too."""
    assert [n for n in range(5) if is_border("🇩🇪🇫🇷", n)] == [0, 2, 4]
    assert [n for n in range(4) if is_border("a\u200db", n)] == [0, 3]


# Markdown


def shown(text: str, most_units: int) -> list[str]:
    messages = messages_of(text, "markdown", most_units)
    assert_nothing_lost(text, messages)
    for message in messages:
        assert_taken(message)
    return [show(message) for message in messages]


def test_code_goes_on_in_the_next_message() -> None:
    """Its fence is reopened, its language and its indents are kept; nothing else moves in."""
    lines = [f"    line {n:03}" for n in range(30)]
    text = "```python\n" + "\n".join(lines) + "\n```\n\nand **after** it"

    first, *middle, last = shown(text, 200)

    assert first.startswith("[pre python]    line 000\n")
    assert all(part.startswith("[pre python]    line ") for part in middle)
    assert all(part.endswith("[/pre]") for part in [first, *middle])
    assert last.endswith("[/pre]\n\nand *after* it")


def test_code_that_fits_a_message_begins_in_the_next() -> None:
    """A block in the second half of a message is not torn."""
    code = "\n".join(f"line {n}" for n in range(12))

    parts = shown(f"{'word ' * 25}\n\n```\n{code}\n```", 200)

    assert parts == [("word " * 25).strip(), f"[pre]{code}[/pre]"]


def test_a_heading_goes_with_what_it_is_the_heading_of() -> None:
    """No message ends in a heading."""
    parts = shown(f"{'word ' * 24}\n\nmore\n\n## Heading\n\n{'word ' * 20}", 200)

    assert parts[0].endswith("more")
    assert parts[1].startswith("*Heading*\n\nword")


def test_a_table_repeats_its_head() -> None:
    """Rows in the next message are understood there."""
    rows = "\n".join(f"| {n} | x |" for n in range(40))

    parts = shown(f"| Number | Letter |\n|---|---|\n{rows}", 1000)

    assert len(parts) > 1
    assert all(part.startswith("[pre]Number | Letter\n-------+-------\n") for part in parts)


def test_lists_and_quotes_go_on() -> None:
    """Items are as deep in the next message as they would be in this; a quote is one there."""
    items = "\n".join(f"  - item {n}" for n in range(40))
    quote = "\n".join(f"> line {n}" for n in range(40))

    assert all("◦ item" in part for part in shown(f"- first\n{items}", 300))
    assert all(part.startswith(">") for part in shown(quote, 300))


def test_the_rest_of_a_line_is_no_line() -> None:
    """What a cut brings to the beginning of a message is not taken for a list or a heading."""
    words = "word " * 39

    assert shown(f"{words}long - end", 200)[1] == "- end"
    assert shown(f"{words}long # end", 200)[1] == "# end"
    assert shown(f"{words}long > end", 200)[1] == "> end"


def test_marks_are_not_torn_where_it_can_be_helped() -> None:
    """A line without an end is cut where nothing is open."""
    parts = shown(f"{'word ' * 35}**bold {'word ' * 10}bold** end", 200)

    assert parts[0] == ("word " * 35).strip()
    assert parts[1].startswith("*bold word")


def test_more_than_a_hundred_entities_begin_a_message() -> None:
    """Telegram shows no more than that in one."""
    text = "\n".join(f"- **b{n}**: `c`" for n in range(90))

    messages = messages_of(text, "markdown")

    assert len(messages) == 2
    assert sum(len(message.entities) for message in messages) == 180


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(TOKENS), max_size=60).map("".join),
    st.lists(st.sampled_from(TOKENS), max_size=60).map("".join),
    st.sampled_from(MARKUPS),
    st.sampled_from([200, 300]),
)
def test_same_beginning_same_cuts(text: str, more: str, markup: Markup, most_units: int) -> None:
    """Whatever follows, whoever reads it: in one go, or as it grew."""
    before = messages_of(text, markup, most_units)
    at_once = messages_of(text + more, markup, most_units)
    grown = Parts(markup, most_units)
    grown.read(text)
    grown.read(text + more)

    assert at_once[: len(before) - 1] == before[:-1]
    assert [grown.render(position) for position in range(len(grown))] == at_once


def made_up() -> list[str]:
    texts = [ordinary(random.Random(n), 30) for n in range(12)]
    texts += [damaged(random.Random(n), 30) for n in range(12)]
    return texts + [odd(random.Random(n), 2500) for n in range(12)]


@pytest.mark.parametrize("text", made_up(), ids=itertools.count())
def test_growing_answers_end_as_if_they_had_never_grown(text: str) -> None:
    """Full parts stay as they are, and the final text has the same, trimmed or with a remark."""
    chance = random.Random(len(text))
    parts = Parts("markdown")
    full: list[int] = []
    length = 0
    while length < len(text):
        length += chance.randint(1, 600)
        parts.read(text[:length])
        tokens = [parts.token(position) for position in range(len(parts))]
        assert tokens[: len(full)] == full
        full = tokens[:-1]

    stripped = text.strip()
    for final in (text, stripped, f"{stripped}\n\n(stopped)"):
        fresh = Parts("markdown")
        fresh.read(final)
        assert [fresh.token(position) for position in range(len(full))] == full
    assert len(full) > 1 or len(text) < 2 * MOST_UNITS


@pytest.mark.parametrize("markup", MARKUPS)
def test_text_that_is_taken_back(markup: Markup) -> None:
    """An answer that begins anew is read anew."""
    parts = Parts(markup)

    parts.read("one\n\n" * 2000)
    parts.read("two")

    assert [parts.render(position).text for position in range(len(parts))] == ["two"]


def test_part_that_telegram_does_not_take() -> None:
    """It is shown as it is written; the others are not."""
    parts = Parts("markdown", 100)
    parts.read("**a** " * 40)
    tokens = [parts.token(position) for position in range(len(parts))]

    parts.give_up(0)

    assert parts.render(0) == Rendered(("**a** " * 16).strip())
    assert parts.token(0) != tokens[0]
    assert [parts.token(position) for position in range(1, len(parts))] == tokens[1:]


class Work:
    """Counts the characters that are read and rendered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        for module, name in (
            (cutting, "read_line"),
            (cutting, "render"),
            (cutting, "render_plain"),
            (cutting, "is_visible"),
            (cutting, "count_units"),
        ):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def _counted(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(text: str, *arguments: object) -> object:
            self.characters += len(text)
            return call(text, *arguments)

        return counted


@pytest.mark.parametrize("markup", MARKUPS)
def test_cost_of_a_growing_answer(markup: Markup, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with the length and not with its square: five times the text, five times the work.

    The control: work that is done anew for the whole text is far beyond that.
    """
    work = Work(monkeypatch)

    def cost_of(length: int, *, anew: bool = False) -> int:
        answer = "\n\n".join(ordinary(random.Random(n), 6) for n in range(200))[:length]
        assert len(answer) == length
        before = work.characters
        parts = Parts(markup)
        for grown in range(300, length + 300, 300):
            parts = Parts(markup) if anew else parts
            parts.read(answer[:grown])
            for position in range(len(parts)):
                parts.token(position)
        return work.characters - before

    assert cost_of(100_000) <= 5.25 * cost_of(20_000)
    assert cost_of(50_000, anew=True) > 2.5 * 2.0 * cost_of(20_000, anew=True)


GROWING = st.lists(st.sampled_from(TOKENS) | st.just(" " * 70), max_size=60)


@settings(deadline=None)
@given(GROWING, st.sampled_from([60, 100, MOST_UNITS]), st.lists(st.booleans(), max_size=60))
def test_a_growing_answer_is_rendered_like_a_complete_one(
    pieces: list[str], most_units: int, is_shown: list[bool]
) -> None:
    """However it arrives, and whenever it was shown, each edit is what the text so far gives."""
    growing = Parts("markdown", most_units)
    text = ""
    for piece, shown in itertools.zip_longest(pieces, is_shown[: len(pieces)], fillvalue=True):
        text += str(piece)
        growing.read(text)

        if shown:
            messages = [growing.render(position) for position in range(len(growing))]
            assert messages == messages_of(text, "markdown", most_units)


def test_an_edit_reads_what_can_still_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the message that grows, complete blocks are not read again at every edit.

    The control: rendered from its source, a message is read again from its beginning.
    """
    read = 0

    def counted(text: str, *arguments: object) -> object:
        nonlocal read
        read += len(text)
        return read_spans(text, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rendering, "read_spans", counted)
    answer = "\n\n".join(f"**Paragraph** {n} has some words in it." for n in range(80))
    grown = range(60, len(answer), 60)

    parts = Parts("markdown")
    for end in grown:
        parts.read(answer[:end])
        parts.token(0)
    incremental, read = read, 0
    for end in grown:
        rendering.render(answer[:end], markdown.START)

    assert len(parts) == 1
    assert incremental <= 2 * len(answer)
    assert read > 20 * len(answer)


def test_state_of_a_long_answer_is_small() -> None:
    """A full part is three numbers and what the line before it means."""
    parts = Parts("markdown")

    parts.read("word " * 20_000)

    assert len(parts) == 25
    assert all(len(str(part.state)) < 400 for part in parts._full)
    assert isinstance(parts._full[0].state, markdown.State)
