"""Makes up what models write: ordinary answers, and what no answer ever was but could be."""

import random
from collections.abc import Callable

WORDS = [
    "the", "answer", "is", "that", "a", "model", "writes", "words", "and", "numbers", "like",
    "42", "or", "3.14", "in", "a", "line", "of", "text", "это", "слова", "на", "русском",
    "языке", "которые", "тоже", "бывают", "текст", "справа", "налево", "שלום", "עולם", "مرحبا",
    "بالعالم", "漢字かな", "重要：", "e\u0301te\u0301", "naïve", "😀", "👩\u200d💻", "🇩🇪", "👍🏽",
    "1\ufe0f\u20e3", "snake_case_name", "std::vector<int>", "a*b", "x_1", "5$", "$10",
    "C:\\Users\\me", "&amp;", "&lt;", "<br>", "<u>under</u>", "/help", "@name", "#tag",
    "https://example.org/a_b?c=d&e=f",
]  # fmt: skip

TOKENS = [
    *"*_`~|[]()#>-+=$\\<&!:. \t\n",
    "**", "__", "```", "~~~", "~~", "||", "``", "$$", "\\(", "\\)", "\\[", "\\]", "](", "![",
    "](https://example.org/a_b)", "](nowhere)", '](https://e.org "title")', "<https://e.org>",
    "\n\n", "\n- ", "\n  - ", "\n    - ", "\n1. ", "\n> ", "\n>> ", "\n# ", "\n### ", "\n---\n",
    "\n===\n", "\n```py\n", "\n```\n", "\n~~~\n", "\n> ```\n", "\n- ```\n", "\n    ", "\n\t",
    "\n|---|---|\n", "\n| a | b |\n|---|:-:|\n| c | d |\n", " | ", "\n> [!NOTE]\n", "[ ] ", "[x] ",
    "<int>", "<u>", "</u>", "<br>", "&lt;", "&nbsp;", "&#x41;", "\u202e", "\u200d", "\u0301",
    "\x00", "\r\n", "\u00a0", "\u3000", "\ufe0f", "🇩", "word", "слово", "مرحبا", "漢", "x" * 40,
]  # fmt: skip


def ordinary(chance: random.Random, blocks: int) -> str:
    """An answer of headings, paragraphs, lists, code, tables, quotes and formulas."""
    makers = (_paragraph, _paragraph, _list, _code, _table, _quote, _heading, _formula)
    return "\n\n".join(chance.choice(makers)(chance) for _ in range(blocks))


def odd(chance: random.Random, tokens: int) -> str:
    """Marks and words in any order."""
    return "".join(chance.choice(TOKENS) for _ in range(tokens))


def damaged(chance: random.Random, blocks: int) -> str:
    """An answer that was cut somewhere, or into which something has fallen."""
    text = ordinary(chance, blocks)
    for _ in range(chance.randint(0, 4)):
        place = chance.randint(0, len(text))
        text = text[:place] + chance.choice(TOKENS) + text[place + chance.randint(0, 3) :]
    return text[: chance.randint(0, len(text))] if chance.random() < 0.5 else text


def output(chance: random.Random) -> str:
    """One of these, short more often than long."""
    size = 1 + min(int(chance.expovariate(0.25)), 60)
    make: Callable[[random.Random, int], str] = chance.choice((ordinary, damaged, damaged, odd))
    return make(chance, size * 8 if make is odd else size)


def _words(chance: random.Random, least: int, most: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(least, most)))


def _styled(chance: random.Random) -> str:
    words = _words(chance, 1, 4)
    return chance.choice(
        ("**{}**", "*{}*", "_{}_", "`{}`", "~~{}~~", "***{}***", "[{}](https://e.org/a_(b))", "{}")
    ).format(words)


def _sentence(chance: random.Random) -> str:
    pieces = [
        _styled(chance) if chance.random() < 0.3 else _words(chance, 2, 8)
        for _ in range(chance.randint(1, 4))
    ]
    return " ".join(pieces) + chance.choice((".", ".", ":", "!", "?"))


def _paragraph(chance: random.Random) -> str:
    return chance.choice((" ", "\n")).join(_sentence(chance) for _ in range(chance.randint(1, 6)))


def _list(chance: random.Random) -> str:
    lines = []
    for number in range(1, chance.randint(2, 8)):
        mark = chance.choice(("-", "*", f"{number}.", "- [ ]", "- [x]"))
        lines.append(" " * chance.choice((0, 0, 2, 3, 4)) + f"{mark} {_sentence(chance)}")
    return "\n".join(lines)


def _code(chance: random.Random) -> str:
    fence = chance.choice(("```", "```", "````", "~~~"))
    lines = [" " * chance.randint(0, 8) + _words(chance, 0, 8) for _ in range(chance.randint(0, 9))]
    indent = chance.choice(("", "", "   "))
    language = chance.choice(("", "python", "c++", "js app.js"))
    return "\n".join(indent + line for line in (fence + language, *lines, fence))


def _table(chance: random.Random) -> str:
    columns = chance.randint(1, 5)

    def row() -> str:
        return "| " + " | ".join(_words(chance, 0, 3) for _ in range(columns)) + " |"

    return "\n".join((row(), "|" + "---|" * columns, *(row() for _ in range(chance.randint(0, 6)))))


def _quote(chance: random.Random) -> str:
    return "\n".join(
        "> " + line for line in chance.choice((_paragraph, _list, _code))(chance).split("\n")
    )


def _heading(chance: random.Random) -> str:
    return "#" * chance.randint(1, 6) + " " + _words(chance, 1, 6)


def _formula(chance: random.Random) -> str:
    inner = "x_1 * y_2 + \\frac{a_b}{c * d}"
    return chance.choice(("\\[\n{}\n\\]", "$$\n{}\n$$", "with \\({}\\) in it", "and ${}$")).format(
        inner
    )
