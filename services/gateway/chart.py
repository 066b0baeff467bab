"""Draws who has used how much: a bar a day, its tokens stacked by user. It knows numbers alone.

Words stay out of the picture: Pillow's own font has no Cyrillic, and a caption speaks the user's
language. The ground is opaque, so that it reads alike in Telegram's light and dark themes.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from math import ceil
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

MOST_USERS = 7
"""Users with a colour of their own; all others share one more."""

WIDTH, HEIGHT = 1280, 800
"""Pixels. Telegram shrinks photos above 1280; a phone shows this at about a quarter."""

SIZE = 40
"""Pixels of a letter: some ten points on a phone."""

GROUND, GRID, INK = "#17212b", "#33424f", "#f2f4f6"

COLOURS = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0083d0",
)  # fmt: skip
"""Okabe and Ito's, which colour-blind people tell apart; their blue is lighter here, as the ground
is dark."""

OTHERS_COLOUR = "#a6adb4"

LEFT, RIGHT, TOP, BOTTOM = 165, 1250, 40, 520
"""The plane of the bars, in pixels."""

LEGEND_TOP, LEGEND_LINE, LEGEND_COLUMNS = 640, 72, 4

LEAST_PIXELS = 3
"""A day on which anything was used is seen, beside however busy a day."""

DayUsage: TypeAlias = tuple[int, str, int]
"""A user's id, a day (ISO 8601), and the tokens of that user on that day."""


@dataclass(frozen=True)
class Chart:
    """What is to be drawn."""

    first_day: str
    """ISO 8601."""
    users: tuple[int, ...]
    """Those with a colour of their own; who has used most stands first."""
    others: int
    """How many more there are."""
    tokens: tuple[tuple[int, ...], ...]
    """By day, oldest first; in each as many numbers as users, and that of the others if any."""

    def to_json(self) -> str:
        """Write it down, for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Chart":
        """Read what `to_json` has written."""
        raw = json.loads(text)
        tokens = tuple(tuple(day) for day in raw["tokens"])
        return cls(raw["first_day"], tuple(raw["users"]), raw["others"], tokens)


def gather(rows: Iterable[DayUsage], last_day: date, days: int) -> Chart | None:
    """Sum up what was used in so many days, the last one included; None if nothing was."""
    first_day = last_day - timedelta(days=days - 1)
    known = {(first_day + timedelta(days=number)).isoformat(): number for number in range(days)}
    used = [(user, known[day], tokens) for user, day, tokens in rows if day in known and tokens]
    totals: Counter[int] = Counter()
    for user, _, tokens in used:
        totals[user] += tokens
    if not totals:
        return None
    ranked = sorted(totals, key=lambda user: (-totals[user], user))
    users = ranked[:MOST_USERS]
    place = {user: number for number, user in enumerate(users)}
    table = [[0] * min(len(ranked), MOST_USERS + 1) for _ in range(days)]
    for user, day, tokens in used:
        table[day][place.get(user, MOST_USERS)] += tokens
    others = len(ranked) - len(users)
    return Chart(first_day.isoformat(), tuple(users), others, tuple(map(tuple, table)))


def draw(chart: Chart) -> bytes:
    """Draw a chart as a PNG of WIDTH x HEIGHT pixels."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    pen = ImageDraw.Draw(picture)
    step, count = _scale(max(map(sum, chart.tokens)))
    _draw_grid(pen, step, count)
    _draw_bars(pen, chart, step * count)
    _draw_days(pen, chart)
    _draw_legend(pen, chart)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _scale(most: int) -> tuple[int, int]:
    """Divide the height into a few round steps: tokens a step, and how many steps."""
    power = 1
    while power * 10 * 4 < most:
        power *= 10
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step * 4 >= most)
    return step, ceil(most / step)


def _draw_grid(pen: ImageDraw.ImageDraw, step: int, count: int) -> None:
    for number in range(count + 1):
        y = BOTTOM - round(number * (BOTTOM - TOP) / count)
        pen.line((LEFT, y, RIGHT, y), fill=GRID, width=2)
        pen.text((LEFT - 18, y), _short(step * number), fill=INK, font=_font(SIZE), anchor="rm")


def _short(number: int) -> str:
    """Write a round number of tokens in few letters."""
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:g}{letter}"
    return str(number)


def _draw_bars(pen: ImageDraw.ImageDraw, chart: Chart, limit: int) -> None:
    width = (RIGHT - LEFT) / len(chart.tokens)
    for day, tokens in enumerate(chart.tokens):
        left, right = LEFT + day * width + 3, LEFT + (day + 1) * width - 3
        below, bottom = 0, BOTTOM
        for place, count in enumerate(tokens):
            below += count
            top = BOTTOM - round(below * (BOTTOM - TOP) / limit)
            if top < bottom:
                pen.rectangle((left, top, right, bottom - 1), fill=_colour(chart, place))
                bottom = top
        if below and BOTTOM - bottom < LEAST_PIXELS:
            colour = _colour(chart, tokens.index(max(tokens)))
            pen.rectangle((left, BOTTOM - LEAST_PIXELS, right, BOTTOM - 1), fill=colour)


def _colour(chart: Chart, place: int) -> str:
    return COLOURS[place] if place < len(chart.users) else OTHERS_COLOUR


def _draw_days(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    """Name each seventh day, counted back from the last one: month and day."""
    first, days = date.fromisoformat(chart.first_day), len(chart.tokens)
    width = (RIGHT - LEFT) / days
    for day in range(days - 1, -1, -7):
        label = (first + timedelta(days=day)).strftime("%m-%d")
        middle = LEFT + (day + 0.5) * width
        pen.line((middle, BOTTOM, middle, BOTTOM + 10), fill=INK, width=2)
        half = _font(SIZE).getlength(label) / 2
        middle = min(middle, WIDTH - 10 - half)
        pen.text((middle, BOTTOM + 22), label, fill=INK, font=_font(SIZE), anchor="mt")


def _draw_legend(pen: ImageDraw.ImageDraw, chart: Chart) -> None:
    """Name each colour's user; the others are `+12`, if they are twelve."""
    labels = [*map(str, chart.users), *([f"+{chart.others}"] if chart.others else [])]
    margin, mark = 40, 34
    width = (WIDTH - 2 * margin) / LEGEND_COLUMNS
    font = _font_for(labels, width - mark - 50)
    for place, label in enumerate(labels):
        line, column = divmod(place, LEGEND_COLUMNS)
        left, middle = margin + column * width, LEGEND_TOP + line * LEGEND_LINE + mark / 2
        box = (left, middle - mark / 2, left + mark, middle + mark / 2)
        pen.rectangle(box, fill=_colour(chart, place))
        pen.text((left + mark + 14, middle), label, fill=INK, font=font, anchor="lm")


def _font_for(labels: Sequence[str], most: float) -> ImageFont.FreeTypeFont:
    """Choose the largest letters, from SIZE down, in which each label fits."""
    longest = max(_font(SIZE).getlength(label) for label in labels)
    return _font(min(SIZE, int(SIZE * most / longest)))


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
