"""What the model writes in Markdown stands in the chat as Telegram shows such things."""

import pytest

from services.relay.cutting import Parts
from services.relay.markdown import START
from services.relay.rendering import LONG_QUOTE_UNITS, Rendered, render
from tests.unit.relay.reading import assert_nothing_lost, assert_taken, show


def check(source: str, expected: str) -> None:
    message = render(source, START)

    assert show(message) == expected
    assert_taken(message)
    assert_nothing_lost(source, [message])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain words, nothing else", "plain words, nothing else"),
        ("**bold** and __bold__", "*bold* and *bold*"),
        ("*italic* and _italic_", "_italic_ and _italic_"),
        ("~~gone~~", "~gone~"),
        ("||the butler||", "||the butler||"),
        ("`code`, ``a ` b``", "`code`, `a ` b`"),
        ("<u>underlined</u>", "__underlined__"),
        ("***both***", "*_both_*"),
        ("**bold with `code` in it**", "*bold with *`code`* in it*"),
        ("**bold *and italic* again**", "*bold _and italic_ again*"),
        ("snake_case_name and 2*3*4", "snake_case_name and 2_3_4"),
        ("2 * 3 * 4, a_b, __init__.py", "2 * 3 * 4, a_b, __init__.py"),
        ("not **closed", "not **closed"),
        ("closed** not opened", "closed** not opened"),
        (r"\*stars\* and \_lines\_", "*stars* and _lines_"),
        (r"C:\Users\me\.ssh", r"C:\Users\me\.ssh"),
        ("**重要：**请注意", "*重要：*请注意"),
        ("Он сказал: **«Привет!»**", "Он сказал: *«Привет!»*"),
        ("😀 **😀** 😀", "😀 *😀* 😀"),
        ("a || b || c", "a || b || c"),
        ("the norm ||x - y|| of it", "the norm ||x - y|| of it"),
        ("one  \ntwo\\\nthree", "one\ntwo\nthree"),
    ],
)
def test_emphasis(source: str, expected: str) -> None:
    """Emphasis becomes entities; what only looks like it stays."""
    check(source, expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("[name](https://example.org/a_b)", "[name](https://example.org/a_b)"),
        ("[**bold** name](https://e.org)", "[*bold* name](https://e.org)"),
        ("[a](<https://e.org/x y>)", "a (https://e.org/x y)"),
        ("[wiki](https://e.org/X_(y))", "[wiki](https://e.org/X_(y))"),
        ('[a](https://e.org "Title")', "[a](https://e.org) (Title)"),
        ("[here](docs/page.md)", "here (docs/page.md)"),
        ("[local](http://localhost:8000)", "local (http://localhost:8000)"),
        ("![a cat](https://e.org/cat.png)", "[a cat](https://e.org/cat.png)"),
        (
            "[![alt](https://e.org/i.png)](https://e.org)",
            "[alt](https://e.org/i.png) (https://e.org)",
        ),
        ("[](https://e.org)", "https://e.org"),
        ("<https://e.org/a_b_c>", "https://e.org/a_b_c"),
        ("https://e.org/a_b_c*d*e", "https://e.org/a_b_c_d_e"),
        ("see _https://e.org/x_", "see _https://e.org/x_"),
        ("[text][1] and [^2]", "[text][1] and [^2]"),
        ("[1]: https://e.org", "[1]: https://e.org"),
        ("a[0](x) = [1, 2]", "a0 (x) = [1, 2]"),
    ],
)
def test_links(source: str, expected: str) -> None:
    """A link that Telegram knows is one; of another the address is shown."""
    check(source, expected)


@pytest.mark.parametrize(
    "source",
    [
        "std::vector<int> and map<string, vector<int>>",
        "<div class='a'>x</div>",
        "<!-- a remark -->",
        "a < b && c > d",
        "<script>alert(1)</script>",
        "<think>\nno\n</think>",
    ],
)
def test_html_stays_visible(source: str) -> None:
    """Text that looks like HTML is text."""
    check(source, source)


def test_characters_written_as_html() -> None:
    """They are read as everywhere in Markdown; in code they are not."""
    check("a &lt; b &amp;&nbsp;c `&lt;`", "a < b &\xa0c `&lt;`")
    check("&#8238; &bogus; &", "&#8238; &bogus; &")


@pytest.mark.parametrize(
    "source",
    [
        r"\(a_1 * b_2 * c_3\)",
        r"\[ x_1 * y_1 * z \]",
        "$a_1 * b_2$ and $c_*d_*$",
        "$$\n\\sum_{i=1}^n x_i * y_i * z\n$$",
        "\\[\na\n+ b_1\n- c_1\n> d * e * f\n\\]",
        r"It costs $5, or **$6**.".replace("**", ""),
        r"inline \(x_1\) and $$y_1 * z_1 * w$$ display",
    ],
)
def test_formulas_stay_as_they_are(source: str) -> None:
    """Nothing in a formula is emphasis, a list or a quote, and its delimiters stay."""
    check(source, source)


def test_a_formula_ends_with_its_paragraph() -> None:
    """An opening that nothing closes takes no more than that."""
    check("\\[ x_1 *y*\n\n*after*", "\\[ x_1 *y*\n\n_after_")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# One\n\ntext", "*__One__*\n\ntext"),
        ("## Two ##", "*Two*"),
        ("### *Three* and `code`", "*_Three_ and *`code`"),
        ("Title\n=====\ntext", "*Title*\ntext"),
        ("#hashtag", "#hashtag"),
        ("above\n\n---\n\nbelow", "above\n\n———\n\nbelow"),
        ("above\n***\nbelow", "above\n———\nbelow"),
        ("a\n\n\n\nb", "a\n\nb"),
    ],
)
def test_headings_and_rules(source: str, expected: str) -> None:
    """Headings are bold, rules are short, and empty lines do not add up."""
    check(source, expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("- a\n- b", "• a\n• b"),
        ("* a\n+ b", "• a\n• b"),
        ("- a\n  - b\n    - c\n- d", "• a\n    ◦ b\n        ▪ c\n• d"),
        ("1. a\n  - b\n2. c", "1. a\n    ◦ b\n2. c"),
        ("1) a\n2) b", "1) a\n2) b"),
        ("7. seven\n8. eight", "7. seven\n8. eight"),
        ("- [ ] open\n- [x] done", "☐ open\n☑ done"),
        ("1. [x] done", "1. ☑ done"),
        ("- a\n  goes on\n\n  second paragraph", "• a\n    goes on\n\n    second paragraph"),
        ("- **a**: b\n- c", "• *a*: b\n• c"),
        (
            "1. run:\n   ```sh\n   make\n     all\n   ```\n2. done",
            "1. run:\n[pre sh]make\n  all[/pre]\n2. done",
        ),
        ("- ```sh\n  make\n  ```", "•\n[pre sh]make[/pre]"),
        ("- a\n\nafter", "• a\n\nafter"),
    ],
)
def test_lists(source: str, expected: str) -> None:
    """Bullets, numbers as they were written, boxes; nested by their indent, however small."""
    check(source, expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("```python\nx = 1\n```", "[pre python]x = 1[/pre]"),
        ("```\n**x** <b>\n```\nafter", "[pre]**x** <b>[/pre]\nafter"),
        ("~~~c++\nint x;\n~~~", "[pre c++]int x;[/pre]"),
        ("````md\n```\nx\n```\n````", "[pre md]```\nx\n```[/pre]"),
        ("```python\nx = 1", "[pre python]x = 1[/pre]"),
        ("```js app.js\nf()\n```", "[pre js]app.js\nf()[/pre]"),
        ("```\n\tx\n```", "[pre]    x[/pre]"),
        ("```\n    x\n```", "[pre]    x[/pre]"),
        ("text\n```py\n```\nmore", "text\n```py\nmore"),
        ("```py", "```py"),
        ("```not a fence```", "`not a fence`"),
        (
            "text:\n\n    indented\n\n    code\n\nafter",
            "text:\n\n[pre]indented\n\ncode[/pre]\n\nafter",
        ),
    ],
)
def test_code(source: str, expected: str) -> None:
    """Blocks keep every character, and their language; one that is not closed is one already."""
    check(source, expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("> a\n> b\n\nafter", ">a\nb<\n\nafter"),
        ("> a\n>\n> **b**", ">a\n\n*b*<"),
        ("> a\n>> b", ">a\n> b<"),
        ("> [!NOTE]\n> careful", ">*NOTE*\ncareful<"),
        ("> - a\n> - b", ">• a\n• b<"),
        ("> ```py\n> x = 1\n> ```", ">[pre py]x = 1[/pre]<"),
        ("> a\nb", ">a<\nb"),
        ("> a\n\n> b", ">a<\n\n>b<"),
    ],
)
def test_quotes(source: str, expected: str) -> None:
    """Quotes hold whatever stands in them."""
    check(source, expected)


def test_long_quotes_are_folded() -> None:
    """A quote that would fill a screen can be unfolded by whoever wants to read it."""
    check(
        f"> {'word ' * (LONG_QUOTE_UNITS // 5)}end", f">>{'word ' * (LONG_QUOTE_UNITS // 5)}end<<"
    )
    check("> a\n" * 9, ">>" + "a\n" * 8 + "a<<")
    check("> a\n" * 8, ">" + "a\n" * 7 + "a<")


def test_table_that_fits_a_phone() -> None:
    """It stands in columns of one width, aligned as the model says."""
    check(
        "| Name | Size | |\n|:--|--:|:-:|\n| a | 1 | x |\n| bcd | 100 | yyy |\nafter",
        "[pre]Name | Size |\n-----+------+----\na    |    1 |  x\nbcd  |  100 | yyy[/pre]\nafter",
    )
    check("a|b\n-|-\n`c`|**d**", "[pre]a | b\n--+--\nc | d[/pre]")
    check("| 水 | b |\n|---|---|\n| c | d |", "[pre]水 | b\n---+--\nc  | d[/pre]")


def test_table_that_does_not_fit_a_phone() -> None:
    """It is told row by row: the first cell as a title, the others with the names of the head."""
    check(
        "| Animal | What it eats all day | Where |\n|---|---|---|\n"
        "| Cow | grass, and *more* grass | [map](https://e.org) |\n| Cat | | at home |",
        "Animal | What it eats all day | Where\n\n"
        "*Cow*\n• What it eats all day: grass, and _more_ grass\n• Where: [map](https://e.org)\n\n"
        "*Cat*\n• Where: at home",
    )


def test_no_table_without_its_second_line() -> None:
    """Bars alone are bars; while the head grows it is a line of text."""
    check("a | b\nc | d", "a | b\nc | d")
    check("| a | b |", "| a | b |")
    check("| a | b |\n|--", "| a | b |\n|--")
    check("| a | b |\n|---|\n", "| a | b |\n|---|")


def test_what_telegram_drops_is_not_sent() -> None:
    """Then what was sent is what is shown: control characters, white space around."""
    message = render("\x00a\x1b b\u202ec\r\n  ", START)
    plain = render("#\t#", START)

    assert message == Rendered("a bc")
    assert plain == Rendered("# #")
    assert_taken(message)
    assert_taken(plain)


def test_more_entities_than_telegram_shows() -> None:
    """One line with too many keeps those without which something would be missing."""
    source = " ".join(f"**b{n}** [l{n}](https://e.org/{n})" for n in range(60))

    message = render(source, START)

    assert len(message.entities) == 100
    assert sum(entity.type == "text_link" for entity in message.entities) == 60
    assert_nothing_lost(source, [message])


def test_a_growing_answer_is_readable_at_every_length() -> None:
    """Whatever an answer is cut in, each of its beginnings is a message that Telegram takes."""
    answer = (
        "# Title\n\nSome **bold** and `code`:\n\n1. one\n   ```py\n   x = [1]\n   ```\n2. two\n\n"
        "| a | b |\n|---|---|\n| 1 | **2** |\n\n> quote [link](https://e.org)\n\n\\[ x_1 \\]\nend"
    )
    for length in range(1, len(answer) + 1):
        parts = Parts("markdown")
        parts.read(answer[:length])
        messages = [parts.render(position) for position in range(len(parts))]
        for message in messages:
            assert_taken(message)
        assert_nothing_lost(answer[:length], messages)
