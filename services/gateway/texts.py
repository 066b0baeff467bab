"""Every sentence that the bot says, in the user's language: the relay knows none of them.

A language is a file in `languages`, named by its two letters (ISO 639-1); there is no other list.
"""

import re
import tomllib
import unicodedata
from pathlib import Path
from typing import TypeAlias

Language: TypeAlias = str
"""The name of a language's file, without its ending."""

ENGLISH: Language = "en"
"""For all whose language has no file."""

_SENTENCES: dict[Language, dict[str, str]] = {
    file.stem: tomllib.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parent / "languages").glob("*.toml"))
}

LANGUAGES: tuple[Language, ...] = tuple(_SENTENCES)


def is_visible(text: str) -> bool:
    """Tell whether a reader would see anything: not only spaces, controls and joiners."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def add_remark(said: str, remark: str) -> str:
    """End an answer with a sentence of ours, which a code block that was cut must not swallow."""
    if said and remark and (fence := _open_fence(said)):
        said = f"{said}\n{fence}"
    return f"{said}\n\n{remark}".strip()


def quote(text: str) -> str:
    """Write a text as a quote in Markdown: each of its lines, whatever ends it."""
    return "> " + "\n> ".join(text.strip().splitlines())


def _open_fence(text: str) -> str:
    """Find what closes the code block at the end of a text; nothing if none is open.

    The relay reads the same lines in the same way. A block in a quote ends with the quote.
    """
    fence, is_quoted = "", False
    for line in text.split("\n"):
        bare = _UNSEEN.sub("", line).expandtabs(4).strip(" ")
        if fence and (bare.startswith(">") or not is_quoted):
            if is_quoted:
                bare = bare.lstrip("> ")
            if bare.startswith(fence) and not bare.strip(fence[0]):
                fence = ""
        else:
            found = _FENCE.match(bare)
            fence, is_quoted = (found[1] if found else ""), bare.startswith(">")
    return "" if is_quoted else fence


_FENCE = re.compile(r"[> ]*(?:(?:[-*+]|\d{1,9}[.)]) +)?(`{3,}(?=[^`]*$)|~{3,})")
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def language_of(tag: str) -> Language:
    """Choose the language for a user whose client reports this IETF tag."""
    language = tag.lower().split("-")[0]
    return language if language in _SENTENCES else ENGLISH


def say(key: str, language: Language, **values: int | str) -> str:
    """Render a sentence, in English where the language has no file (any more).

    Raises KeyError for an unknown key.
    """
    return _SENTENCES[language_of(language)][key].format(**values)
