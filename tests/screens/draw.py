"""Draws a chat, as the stub of the Bot API recorded it, into a picture a person can judge.

Entities are applied as Telegram's clients do: only the likeness is meant, not the last pixel. What
a phone shows is what counts, so a picture is as wide as a phone.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

FONTS = Path("/usr/share/fonts/truetype/dejavu")
WIDTH = 780  # pixels: a phone of 390 points, two pixels a point
SIZE, LINE = 30, 40
PAD, GAP, RADIUS = 22, 14, 24
COLLAPSED_LINES = 3  # of a quote that can be expanded

Message = dict[str, Any]
Colours = dict[str, str]

THEMES: dict[str, Colours] = {
    "light": {
        "chat": "#d5e3ec", "bot": "#ffffff", "user": "#e3fdc8", "text": "#101010",
        "link": "#1a73c9", "code": "#eef1f4", "dim": "#70808c", "bar": "#3390d6",
        "quote": "#eaf4fc", "button": "#8fb2c8", "label": "#ffffff",
    },
    "dark": {
        "chat": "#0e1621", "bot": "#182533", "user": "#2b5278", "text": "#f2f4f6",
        "link": "#6ab3f3", "code": "#0f1a25", "dim": "#7f91a4", "bar": "#6ab3f3",
        "quote": "#1e3145", "button": "#23364a", "label": "#f2f4f6",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a run of text looks."""

    kinds: frozenset[str] = frozenset()

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        is_mono = bool(self.kinds & {"code", "pre"})
        return _font(is_mono, "bold" in self.kinds, "italic" in self.kinds)


@lru_cache
def _font(is_mono: bool, is_bold: bool, is_italic: bool) -> ImageFont.FreeTypeFont:
    weight = ("Bold" if is_bold else "") + ("Oblique" if is_italic else "")
    name = f"DejaVuSans{'Mono' if is_mono else ''}{'-' + weight if weight else ''}.ttf"
    return ImageFont.truetype(FONTS / name, SIZE - 4 if is_mono else SIZE)


@dataclass
class Line:
    """One line of a bubble, as wide as it may be."""

    runs: list[tuple[str, Style]] = field(default_factory=list)
    block: str = ""
    """What it is part of: "pre", "blockquote", "head" (above code), or nothing."""

    @property
    def width(self) -> float:
        return sum(style.font.getlength(text) for text, style in self.runs)


def draw_chat(messages: Sequence[Message], theme: str) -> Image.Image:
    """Draw all messages of a chat below one another; `theme` is one of THEMES."""
    colours = THEMES[theme]
    drawn = [draw_message(message, colours) for message in messages]
    height = sum(picture.height + GAP for picture in drawn) + GAP
    chat = Image.new("RGB", (WIDTH, max(height, 200)), colours["chat"])
    top = GAP
    for message, picture in zip(messages, drawn, strict=True):
        left = GAP if message["from"]["is_bot"] else WIDTH - picture.width - GAP
        chat.paste(picture, (left, top))
        top += picture.height + GAP
    return chat


def draw_message(message: Message, colours: Colours) -> Image.Image:
    """Draw one bubble with its buttons."""
    most = WIDTH - 2 * GAP - 2 * PAD - 40
    lines = list(lay_out(message, most))
    rows: list[list[Message]] = (message.get("reply_markup") or {}).get("inline_keyboard", [])
    inner = max([line.width for line in lines] + [most if rows else 60])
    width, text_height = round(inner) + 2 * PAD, LINE * len(lines) + 2 * PAD
    photo = _photo(message, most + 2 * PAD)
    if photo:
        width, text_height = photo.width, text_height + photo.height
    button_height = LINE + 28
    height = text_height + len(rows) * (button_height + 8)
    picture = Image.new("RGB", (width, height), colours["chat"])
    pen = ImageDraw.Draw(picture)
    own = colours["bot" if message["from"]["is_bot"] else "user"]
    pen.rounded_rectangle((0, 0, width - 1, text_height - 1), RADIUS, fill=own)
    top = PAD
    if photo:
        picture.paste(photo, (0, 0))
        top += photo.height
    for number, line in enumerate(lines):
        _draw_line(pen, line, PAD, top + number * LINE, width - 2 * PAD, colours)
    for number, row in enumerate(rows):
        top = text_height + 8 + number * (button_height + 8)
        _draw_buttons(pen, [button["text"] for button in row], top, width, button_height, colours)
    return picture


def _photo(message: Message, width: int) -> Image.Image | None:
    """Shrink the message's photo, if it has one, to the width of its bubble."""
    if "photo" not in message:
        return None
    photo = Image.open(io.BytesIO(message["photo"])).convert("RGB")
    return photo.resize((width, round(photo.height * width / photo.width)))


def _draw_line(
    pen: ImageDraw.ImageDraw, line: Line, left: int, top: int, width: int, colours: Colours
) -> None:
    x = float(left)
    if line.block:
        fill = colours["quote" if line.block == "blockquote" else "code"]
        pen.rectangle((left - 8, top, left + width + 8, top + LINE), fill=fill)
        pen.rectangle((left - 8, top, left - 4, top + LINE), fill=colours["bar"])
        x += 8
    for text, style in line.runs:
        end = x + style.font.getlength(text)
        colour = colours["text"]
        if style.kinds & {"text_link", "url", "mention", "bot_command", "hashtag", "email"}:
            colour = colours["link"]
        if line.block == "head" or "dim" in style.kinds:
            colour = colours["dim"]
        if "code" in style.kinds:
            pen.rectangle((x, top + 2, end, top + LINE - 2), fill=colours["code"])
        if "spoiler" in style.kinds:
            pen.rectangle((x, top + 4, end, top + LINE - 4), fill=colours["dim"])
        else:
            pen.text((x, top + LINE - 10), text, fill=colour, font=style.font, anchor="ls")
        for kind, at in (("underline", LINE - 5), ("strikethrough", LINE - 20)):
            if kind in style.kinds:
                pen.line((x, top + at, end, top + at), fill=colour, width=2)
        x = end


def _draw_buttons(
    pen: ImageDraw.ImageDraw,
    labels: Sequence[str],
    top: int,
    width: int,
    height: int,
    colours: Colours,
) -> None:
    each = (width - 8 * (len(labels) - 1)) / len(labels)
    for number, label in enumerate(labels):
        left = round(number * (each + 8))
        box = (left, top, left + round(each) - 1, top + height - 1)
        pen.rounded_rectangle(box, RADIUS // 2, fill=colours["button"])
        while _font(False, False, False).getlength(label) > each - 20 and len(label) > 2:
            label = label[:-2] + "…"
        middle = (left + each / 2, top + height / 2)
        font = _font(False, False, False)
        pen.text(middle, label, fill=colours["label"], font=font, anchor="mm")


# Lines


def lay_out(message: Message, most: float) -> Iterator[Line]:
    """Break a message into lines of at most so many pixels."""
    extra = message.get("extra", {})
    if file := extra.get("document"):
        yield Line([("▤ ", Style(frozenset({"text_link"}))), (file["file_name"], _BOLD)])
    text = message["text"] or extra.get("caption", "")  # what a user wrote below a file
    collapsed = 0
    block_before, quote_before = "", ""
    for characters, kinds, quote_id, language in _paragraphs(text, message["entities"]):
        block = next((kind for kind in ("pre", "blockquote") if kind in kinds), "")
        if block == "pre" and block_before != "pre":
            yield Line([(language or "code", Style())], "head")
        collapsed = collapsed if quote_id == quote_before else 0
        for line in _wrap(characters, most - (16 if block else 0)):
            line.block = block
            if quote_id.startswith("expandable"):
                collapsed += 1
                if collapsed == COLLAPSED_LINES + 1:
                    yield Line([("⌄ more", Style(frozenset({"dim"})))], "blockquote")
                if collapsed > COLLAPSED_LINES:
                    continue
            yield line
        block_before, quote_before = block, quote_id


_BOLD = Style(frozenset({"bold"}))


def _paragraphs(
    text: str, entities: Sequence[dict[str, Any]]
) -> Iterator[tuple[list[tuple[str, Style]], set[str], str, str]]:
    """Each line of the text: its characters with their looks, the blocks it is in, which quote
    that is, and the language of its code.

    Offsets of entities count UTF-16 units.
    """
    characters: list[tuple[str, Style]] = []
    blocks: set[str] = set()
    quote, language, unit = "", "", 0
    for character in text:
        here = [e for e in entities if e["offset"] <= unit < e["offset"] + e["length"]]
        unit += len(character.encode("utf-16-le")) // 2
        kinds = {entity["type"].removeprefix("expandable_") for entity in here}
        blocks |= kinds & {"pre", "blockquote"}
        for entity in here:
            if "blockquote" in entity["type"]:
                quote = f"{entity['type']} {entity['offset']}"
            language = entity.get("language", language)
        if character == "\n":
            yield characters, blocks, quote, language
            characters, blocks, quote, language = [], set(), "", ""
        else:
            characters.append((character, Style(frozenset(kinds))))
    yield characters, blocks, quote, language


def _wrap(characters: Sequence[tuple[str, Style]], most: float) -> Iterator[Line]:
    line, used = Line(), 0.0
    for word in _words(characters):
        width = sum(style.font.getlength(text) for text, style in word)
        if used and used + width > most and word[0][0].strip():
            yield line
            line, used = Line(), 0.0
        for text, style in word:
            step = style.font.getlength(text)
            if used + step > most and text != " ":  # a space may hang over the edge
                yield line
                line, used = Line(), 0.0
            if line.runs and line.runs[-1][1] == style:
                line.runs[-1] = (line.runs[-1][0] + text, style)
            else:
                line.runs.append((text, style))
            used += step
    yield line


def _words(characters: Sequence[tuple[str, Style]]) -> Iterator[list[tuple[str, Style]]]:
    word: list[tuple[str, Style]] = []
    for character, style in characters:
        if word and (character == " ") != (word[-1][0] == " "):
            yield word
            word = []
        word.append((character, style))
    if word:
        yield word
