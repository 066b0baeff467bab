"""Owns the promises about texts: both markup languages, entities, cleaning, lengths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stubs.telegram.client import started
from tests.stubs.telegram.errors import BotApiError
from tests.stubs.telegram.inputs import read_text
from tests.stubs.telegram.params import Params
from tests.stubs.telegram.parsing import parse
from tests.stubs.telegram.text import Entity, fix_formatted_text, utf16_length


def shown(text: str, mode: str) -> tuple[str, list[tuple[Any, ...]]]:
    """Parse a text; return what is visible and its entities as plain tuples."""
    visible, entities = parse(text, mode)
    return visible, [
        (entity.type, entity.offset, entity.length, *entity.extra.values()) for entity in entities
    ]


def refusal(text: str, mode: str) -> str:
    """Parse a text that Telegram refuses; return the reason after the common prefix."""
    with pytest.raises(BotApiError) as caught:
        parse(text, mode)
    assert caught.value.code == 400
    return caught.value.description.removeprefix("Bad Request: can't parse entities: ")


@pytest.mark.parametrize(
    ("text", "visible", "entities"),
    [
        ("<b>a</b> <strong>b</strong>", "a b", [("bold", 0, 1), ("bold", 2, 1)]),
        ("<i>a</i><em>b</em>", "ab", [("italic", 0, 1), ("italic", 1, 1)]),
        ("<u>a</u><ins>b</ins>", "ab", [("underline", 0, 1), ("underline", 1, 1)]),
        ("<s>a</s><del>b</del>", "ab", [("strikethrough", 0, 1), ("strikethrough", 1, 1)]),
        (
            '<span class="tg-spoiler">a</span><tg-spoiler>b</tg-spoiler>',
            "ab",
            [("spoiler", 0, 1), ("spoiler", 1, 1)],
        ),
        ("<code>x&lt;y</code>", "x<y", [("code", 0, 3)]),
        ("<pre>a\nb</pre>", "a\nb", [("pre", 0, 3)]),
        (
            '<pre><code class="language-python">a</code></pre>',
            "a",
            [("pre", 0, 1, "python")],
        ),
        ('<code class="language-c">a</code>', "a", [("code", 0, 1)]),
        ("<blockquote>a</blockquote>", "a", [("blockquote", 0, 1)]),
        ("<blockquote expandable>a</blockquote>", "a", [("expandable_blockquote", 0, 1)]),
        (
            '<a href="https://Example.org">a</a>',
            "a",
            [("text_link", 0, 1, "https://example.org/")],
        ),
        ('<a href="nowhere">a</a>', "a", []),
        (
            '<a href="tg://user?id=42">a</a>',
            "a",
            [("text_mention", 0, 1, {"id": 42, "is_bot": False, "first_name": "User"})],
        ),
        ("<b><i>a</i></b>", "a", [("bold", 0, 1), ("italic", 0, 1)]),
        ("<b></b>a", "a", []),
        ("&lt;&gt;&amp;&quot;&#33;&#x21;", '<>&"!!', []),
        ("&nbsp; & &copy;", "&nbsp; & &copy;", []),
        ("😀<b>😀</b>", "😀😀", [("bold", 2, 2)]),
        ("<B>a</b >", "a", [("bold", 0, 1)]),
        ("<b>a</>", "a", [("bold", 0, 1)]),
        ("a > b", "a > b", []),
    ],
)
def test_html(text: str, visible: str, entities: list[tuple[Any, ...]]) -> None:
    """HTML: tags become entities in UTF-16 units, four named references are decoded."""
    assert shown(text, "HTML") == (visible, entities)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a <b>x", 'Can\'t find end tag corresponding to start tag "b"'),
        ("é <p>x</p>", 'Unsupported start tag "p" at byte offset 3'),
        ("vector<int>", 'Unsupported start tag "int" at byte offset 6'),
        ("x</b>", "Unexpected end tag at byte offset 1"),
        (
            "<b><i>x</b></i>",
            'Unmatched end tag at byte offset 7, expected "</i>", found "</b>"',
        ),
        ("a <b", "Unclosed start tag at byte offset 2"),
        ("a < b", 'Unsupported start tag "" at byte offset 2'),
        ("<b>x</b", "Unclosed end tag at byte offset 4"),
        ("<span>x</span>", 'Tag "span" must have class "tg-spoiler" at byte offset 0'),
        ('<a href="x>y</a>', "Unclosed start tag at byte offset 0"),
        ("<a href=/x>y</a>", "Unexpected end of name token at byte offset 8"),
        ('<a ="x">y</a>', 'Empty attribute name in the tag "a" at byte offset 0'),
    ],
)
def test_html_refusals(text: str, reason: str) -> None:
    """HTML that Telegram refuses is refused with its words and byte offsets."""
    assert refusal(text, "html") == reason


@pytest.mark.parametrize(
    ("text", "visible", "entities"),
    [
        ("*a* _b_", "a b", [("bold", 0, 1), ("italic", 2, 1)]),
        (
            "__a__ ~b~ ||c||",
            "a b c",
            [("underline", 0, 1), ("strikethrough", 2, 1), ("spoiler", 4, 1)],
        ),
        ("*a _b_*", "a b", [("bold", 0, 3), ("italic", 2, 1)]),
        ("`a_b*`", "a_b*", [("code", 0, 4)]),
        ("```py\nx = 1```", "x = 1", [("pre", 0, 5, "py")]),
        ("```\nx\n```", "x\n", [("pre", 0, 2)]),
        ("`a\\`b`", "a`b", [("code", 0, 3)]),
        ("1\\. a\\!", "1. a!", []),
        (
            "[a](https://example.org/x\\)y)",
            "a",
            [("text_link", 0, 1, "https://example.org/x)y")],
        ),
        ("[example\\.org]", "example.org", [("text_link", 0, 11, "http://example.org/")]),
        (
            "[a](tg://user?id=42)",
            "a",
            [("text_mention", 0, 1, {"id": 42, "is_bot": False, "first_name": "User"})],
        ),
        (
            "![👍](tg://emoji?id=5368324170671202286)",
            "👍",
            [("custom_emoji", 0, 2, "5368324170671202286")],
        ),
        (">a\n>b\nc", "a\nb\nc", [("blockquote", 0, 4)]),
        (">a\n>b||", "a\nb", [("expandable_blockquote", 0, 3)]),
        (">a||\nb", "a\nb", [("expandable_blockquote", 0, 2)]),
        ("***a***", "a", [("bold", 0, 1)]),
        ("**", "", []),
        ("😀*😀*", "😀😀", [("bold", 2, 2)]),
        ("___a_ b__", "a b", [("underline", 0, 3), ("italic", 0, 1)]),
    ],
)
def test_markdown(text: str, visible: str, entities: list[tuple[Any, ...]]) -> None:
    """MarkdownV2: markup becomes entities; a backslash makes any ASCII character plain."""
    assert shown(text, "MarkdownV2") == (visible, entities)


@pytest.mark.parametrize("character", "_*[`~|")
def test_markdown_unclosed(character: str) -> None:
    """An entity that is opened and not closed refuses the whole message, with its byte offset."""
    doubled = character * 2 if character == "|" else character
    names = {
        "_": "Italic",
        "*": "Bold",
        "[": "TextUrl",
        "`": "Code",
        "~": "Strikethrough",
        "|": "Spoiler",
    }

    assert refusal(f"é {doubled}x", "MarkdownV2") == (
        f"Can't find end of {names[character]} entity at byte offset 3"
    )


@pytest.mark.parametrize("character", "]()>#+-=|{}.!")
def test_markdown_reserved(character: str) -> None:
    """Each reserved character that is not markup must be escaped."""
    assert refusal(f"x {character} y", "MarkdownV2") == (
        f"Character '{character}' is reserved and must be escaped with the preceding '\\'"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```py\nx", "Can't find end of PreCode entity at byte offset 0"),
        ("```\nx", "Can't find end of Pre entity at byte offset 0"),
        ("[a](b", "Can't find end of a URL at byte offset 4"),
        ("![a]", "The entity must contain a tg://emoji or tg://time URL"),
        ("![a](b)", "Invalid tg://emoji or tg://time URL specified"),
        (">*a\nb", "Can't find end of Bold entity at byte offset 1"),
    ],
)
def test_markdown_refusals(text: str, reason: str) -> None:
    """MarkdownV2 that Telegram refuses is refused with its words."""
    assert refusal(text, "MarkdownV2") == reason


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_text_always_parses(text: str) -> None:
    """Text escaped as the documentation says comes through both languages unchanged."""
    html = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    markdown = "".join(f"\\{c}" if c in "_*[]()~`>#+-=|{}.!\\" else c for c in text)

    assert parse(html, "HTML") == (text, [])
    assert parse(markdown, "MarkdownV2") == (text, [])


@given(
    st.text(alphabet="ab*_`[]()~|>\n\\<i/b>&;😀 ", max_size=30),
    st.sampled_from(["HTML", "MarkdownV2"]),
)
def test_any_input_is_parsed_or_refused(text: str, mode: str) -> None:
    """Whatever comes in, entities lie inside the visible text, or a 400 says why not."""
    try:
        visible, entities = parse(text, mode)
    except BotApiError:
        return

    length = utf16_length(visible)
    assert all(e.offset >= 0 and e.length > 0 and e.end <= length for e in entities)


@given(
    st.text(alphabet="ab 😀\n\r\t", min_size=1, max_size=20),
    st.lists(
        st.builds(
            Entity,
            st.sampled_from(["bold", "italic", "code", "pre", "blockquote", "spoiler"]),
            st.integers(0, 20),
            st.integers(0, 20),
        ),
        max_size=5,
    ),
)
def test_stored_entities_are_in_order_and_inside(text: str, entities: list[Entity]) -> None:
    """Stored entities lie inside the stored text, sorted, with nothing inside code."""
    try:
        stored = fix_formatted_text(text, entities)
    except BotApiError:
        return

    assert stored.text == stored.text.strip("\n ") or stored.entities
    assert [e.order for e in stored.entities] == sorted(e.order for e in stored.entities)
    for entity in stored.entities:
        assert entity.length > 0
        assert entity.end <= utf16_length(stored.text)
    for outer in stored.entities:
        for inner in stored.entities:
            if inner is not outer and outer.type in {"code", "pre"}:
                is_apart = inner.end <= outer.offset or outer.end <= inner.offset
                contains = inner.offset <= outer.offset and outer.end <= inner.end
                assert is_apart or (contains and inner.type == "blockquote")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("  a  ", "a"),
        ("\n a\tb \n", "a b"),
        ("a\r\nb", "a\nb"),
        ("a\x00b\x1fc", "a b c"),
        ("a\u202eb\u2028c", "abc"),
        ("a\n\n\nb", "a\n\n\nb"),
    ],
)
def test_text_is_cleaned_and_trimmed(text: str, stored: str) -> None:
    """Control characters become spaces, direction marks and carriage returns vanish."""
    assert fix_formatted_text(text, []).text == stored


def test_entities_move_with_the_text() -> None:
    """Trimming and removed characters shift and shorten entities."""
    stored = fix_formatted_text("  a\rb c  ", [Entity("bold", 4, 5)])

    assert stored.text == "ab c"
    assert stored.entities == (Entity("bold", 1, 3),)


def test_leading_space_inside_an_entity_stays() -> None:
    """Only white space before the first entity is trimmed at the start."""
    stored = fix_formatted_text("  a", [Entity("code", 1, 2)])

    assert stored == fix_formatted_text(" a", [Entity("code", 0, 2)])
    assert stored.text == " a"


@pytest.mark.parametrize(
    ("given_entities", "kept"),
    [
        ([("bold", 0, 2), ("bold", 2, 2)], [("bold", 0, 4)]),
        ([("bold", 0, 4), ("italic", 2, 4)], [("bold", 0, 2), ("italic", 2, 4), ("bold", 2, 2)]),
        ([("code", 0, 4), ("bold", 1, 2)], [("code", 0, 4)]),
        ([("bold", 0, 6), ("code", 2, 2)], [("bold", 0, 2), ("code", 2, 2), ("bold", 4, 2)]),
        ([("code", 0, 4), ("pre", 2, 4)], [("code", 0, 4)]),
        ([("blockquote", 0, 4), ("code", 2, 4)], [("blockquote", 0, 4)]),
    ],
)
def test_overlaps_are_resolved(
    given_entities: list[tuple[str, int, int]], kept: list[tuple[str, int, int]]
) -> None:
    """Overlapping entities are merged, split or dropped by Telegram's rules."""
    stored = fix_formatted_text("abcdef", [Entity(*entity) for entity in given_entities])

    assert [(e.type, e.offset, e.length) for e in stored.entities] == kept


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        (Entity("bold", -1, 2), "Receive an entity with incorrect offset -1"),
        (Entity("bold", 0, -2), "Receive an entity with incorrect length -2"),
        (Entity("bold", 9, 1), "Entity begins after the end of the text at UTF-16 offset 9"),
        (
            Entity("bold", 1, 9),
            "Entity beginning at UTF-16 offset 1 ends after the end of the text at UTF-16 "
            "offset 10",
        ),
        (
            Entity("bold", 0, 2),
            "Entity beginning at UTF-16 offset 0 ends in a middle of a UTF-16 symbol at byte "
            "offset 5",
        ),
        (Entity("bold", 2, 1), "Entity begins in a middle of a UTF-16 symbol at byte offset 5"),
    ],
)
def test_entities_outside_the_text_are_refused(entity: Entity, reason: str) -> None:
    """Entities must lie inside the text and may not cut a surrogate pair."""
    with pytest.raises(BotApiError) as caught:
        fix_formatted_text("a😀b", [entity])

    expected = reason[0].lower() + reason[1:]
    assert caught.value.description == f"Bad Request: {expected}"


async def test_found_entities_are_added() -> None:
    """Commands, links, mentions and hashtags are marked without being asked for."""
    async with started() as telegram:
        await telegram.say(7, "hi")

        message = await telegram.result(
            "sendMessage",
            chat_id=7,
            text="/help https://example.org/x. @someone #tag a@example.org",
        )

        assert [(e["type"], e["offset"], e["length"]) for e in message["entities"]] == [
            ("bot_command", 0, 5),
            ("url", 6, 21),
            ("mention", 29, 8),
            ("hashtag", 38, 4),
            ("email", 43, 13),
        ]


async def test_explicit_entities_are_validated() -> None:
    """Entities given as JSON are checked field by field; found types among them are ignored."""
    async with started() as telegram:
        await telegram.say(7, "hi")

        async def send(*entities: object) -> Any:
            return await telegram.call("sendMessage", chat_id=7, text="abc", entities=entities)

        good = await send({"type": "bold", "offset": 0, "length": 1})
        assert good["result"]["entities"] == [{"offset": 0, "length": 1, "type": "bold"}]
        assert "entities" not in (await send({"type": "url", "offset": 0, "length": 1}))["result"]
        assert (await send("x"))["description"] == (
            "Bad Request: can't parse MessageEntity: expected an Object"
        )
        assert (await send({"type": "bold", "length": 1}))["description"] == (
            "Bad Request: can't parse MessageEntity: Can't find field \"offset\""
        )
        assert (await send({"type": "x", "offset": 0, "length": 1}))["description"] == (
            "Bad Request: can't parse MessageEntity: Unsupported type specified"
        )


async def test_parse_mode_wins_over_entities() -> None:
    """With a parse_mode the given entities are ignored; unknown modes are refused."""
    async with started() as telegram:
        await telegram.say(7, "hi")
        entities = [{"type": "bold", "offset": 0, "length": 1}]

        message = await telegram.result(
            "sendMessage", chat_id=7, text="<i>a</i>", parse_mode="HTML", entities=entities
        )

        assert message["entities"] == [{"offset": 0, "length": 1, "type": "italic"}]
        assert await telegram.error("sendMessage", chat_id=7, text="a", parse_mode="bbcode") == (
            "Bad Request: unsupported parse_mode"
        )


def read(text: str, *entities: dict[str, Any]) -> list[dict[str, Any]]:
    """Give a text with its entities as a call has them; return the entities that are kept."""
    params = Params({"text": text, "entities": json.dumps(entities)})
    raw = read_text(params, "text", "entities")
    return [e.as_json() for e in fix_formatted_text(raw.text, raw.entities, find=False).entities]


@pytest.mark.parametrize(
    "kind",
    [
        "bold", "italic", "underline", "strikethrough", "spoiler", "code", "pre", "blockquote",
        "expandable_blockquote",
    ],
)  # fmt: skip
def test_entities_of_a_call_are_kept(kind: str) -> None:
    """Every type that formats is taken as it is given."""
    entity = {"type": kind, "offset": 1, "length": 2}

    assert read("abcd", entity) == [entity]


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        ({"type": "heading", "offset": 0, "length": 1}, "Unsupported type specified"),
        ({"type": "bold", "length": 1}, 'Can\'t find field "offset"'),
        ({"type": "text_link", "offset": 0, "length": 1}, 'Can\'t find field "url"'),
        ({"type": "bold", "offset": 0, "length": 9}, "ends after the end of the text"),
        ({"type": "bold", "offset": 9, "length": 1}, "begins after the end of the text"),
        ({"type": "bold", "offset": 1, "length": 1}, "in a middle of a UTF-16 symbol"),
        ({"type": "bold", "offset": -1, "length": 1}, "incorrect offset"),
    ],
)
def test_entities_that_are_refused(entity: dict[str, Any], reason: str) -> None:
    """Unknown types, missing fields, and places that the text does not have."""
    with pytest.raises(BotApiError, match=reason) as caught:
        read("\U0001f600b", entity)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.org/a_b", "https://example.org/a_b"),
        ("https://Example.org", "https://example.org/"),
        ("example.org/x", "http://example.org/x"),
        ("docs/page.md", None),
        ("http://localhost:8000", None),
        ("javascript:alert(1)", None),
    ],
)
def test_links_of_a_call(url: str, kept: str | None) -> None:
    """A link that Telegram does not know is dropped without a word; its text stays."""
    entity = {"type": "text_link", "offset": 0, "length": 1, "url": url}

    assert [entity["url"] for entity in read("a", entity)] == ([kept] if kept else [])


def test_no_more_than_a_hundred_entities_are_kept() -> None:
    """Those beyond are dropped without a word."""
    entities = [{"type": "bold", "offset": 2 * n, "length": 1} for n in range(120)]

    assert read("a " * 120, *entities) == entities[:100]
