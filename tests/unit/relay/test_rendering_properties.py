"""Whatever a model writes: no visible text is lost, and Telegram takes every message."""

import os
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.relay.cutting import Parts
from services.relay.markdown import START
from services.relay.rendering import Rendered, render
from services.relay.spans import BOLD, ITALIC, read_spans
from tests.unit.relay.outputs import TOKENS, output
from tests.unit.relay.reading import assert_nothing_lost, assert_taken

OUTPUTS = int(os.environ.get("FUZZ_OUTPUTS", "3000"))
"""So many made-up outputs in all: set it to 100000 for a long run, of some minutes."""

CHUNKS = 12

SOUP = st.lists(st.sampled_from(TOKENS), max_size=40).map("".join)


def messages_of(text: str) -> list[Rendered]:
    parts = Parts("markdown")
    parts.read(text)
    return [parts.render(position) for position in range(len(parts))]


@settings(deadline=None)
@given(st.text() | SOUP)
@example("<<br>u>")
@example("<<u>u>x</u>")
def test_nothing_is_lost_and_telegram_takes_it(text: str) -> None:
    """Of any text at all, and of any mixture of marks."""
    messages = messages_of(text)

    assert_nothing_lost(text, messages)
    for message in messages:
        assert_taken(message)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_made_up_outputs(chunk: int) -> None:
    """The same of many thousands of outputs, ordinary, damaged and odd."""
    for number in range(chunk, OUTPUTS, CHUNKS):
        text = output(random.Random(number))
        try:
            messages = messages_of(text)
            assert_nothing_lost(text, messages)
            for message in messages:
                assert_taken(message)
        except Exception as error:
            raise AssertionError(f"output {number}: {text!r}") from error


@settings(deadline=None)
@given(SOUP)
def test_a_message_of_its_own_is_never_longer_than_it_was_written(text: str) -> None:
    """Tables aside: so a part whose source fits a message fits one once rendered."""
    if "|" not in text:
        written = text.replace("\t", "    ").replace("<br>", "<br>" + " " * 24)
        lines = text.count("\n") + 1
        assert len(render(text, START).text) <= len(written) + 24 * lines


_ENGLISH = st.lists(
    st.sampled_from(["*", "**", "***", "_", "__", "a", "b c", " ", ",", "-", ")"]),
    max_size=12,
).map("".join)


@settings(deadline=None, max_examples=1000)
@given(_ENGLISH)
def test_emphasis_is_commonmarks(text: str) -> None:
    """Another reader finds the same words bold and italic; CommonMark knows no strikethrough."""
    text = f"x{text}x"

    spans = read_spans(text)

    ours = [(c, s.style) for s in spans for c in s.text if c.isalpha()]
    assert ours == _as_commonmark(text)


def _as_commonmark(text: str) -> list[tuple[str, int]]:
    (_, inline, _) = MarkdownIt("commonmark").parse(text)
    open_tags: list[str] = []
    seen: list[tuple[str, int]] = []
    for token in inline.children or []:
        if token.nesting == 1:
            open_tags.append(token.tag)
        elif token.nesting == -1:
            open_tags.remove(token.tag)
        style = (BOLD if "strong" in open_tags else 0) | (ITALIC if "em" in open_tags else 0)
        seen += [(character, style) for character in token.content if character.isalpha()]
    return seen
