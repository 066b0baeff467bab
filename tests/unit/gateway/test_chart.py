"""The picture shows each day's tokens by user, to all eyes, whatever the numbers are."""

import io
from datetime import date, timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.gateway import chart
from services.gateway.chart import Chart, DayUsage, draw, gather

LAST = date(2026, 11, 27)
DAYS = 30
TODAY = LAST.isoformat()
YESTERDAY = (LAST - timedelta(days=1)).isoformat()

Colour = tuple[int, ...]


def rgb(colour: str) -> Colour:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def luminance(colour: Colour) -> float:
    """As WCAG 2 defines it."""
    linear = [part / 255 for part in colour]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in linear]
    return sum(v * weight for v, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(rgb(one)), luminance(rgb(other))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def picture_of(*rows: DayUsage) -> Image.Image:
    found = gather(rows, LAST, DAYS)
    assert found is not None
    return Image.open(io.BytesIO(draw(found))).convert("RGB")


def column(picture: Image.Image, days_ago: int) -> list[Colour]:
    """All colours in the middle of a day's bar, from the base up."""
    width = (chart.RIGHT - chart.LEFT) / DAYS
    x = round(chart.RIGHT - (days_ago + 0.5) * width) + 4
    return [
        tuple(picture.getpixel((x, y)))  # type: ignore[arg-type]  # RGB
        for y in range(chart.BOTTOM - 1, chart.TOP - 2, -1)
    ]


def height(picture: Image.Image, days_ago: int, place: int = 0) -> int:
    """How many pixels of a user's colour stand above a day."""
    return column(picture, days_ago).count(rgb(chart.COLOURS[place]))


def legend(picture: Image.Image) -> list[Colour]:
    """The colours that the legend names, in order."""
    places = [
        (40 + number % 4 * 300 + 17, chart.LEGEND_TOP + number // 4 * chart.LEGEND_LINE + 17)
        for number in range(8)
    ]
    found = [tuple(picture.getpixel(at)) for at in places]  # type: ignore[arg-type]  # RGB
    return [colour for colour in found if colour != rgb(chart.GROUND)]


@pytest.mark.parametrize("rows", [[], [(7, TODAY, 0)], [(7, "2026-01-01", 5)]])
def test_nothing_used_is_nothing_to_draw(rows: list[DayUsage]) -> None:
    """Not at all, no tokens, or too long ago."""
    assert gather(rows, LAST, DAYS) is None


usages = st.lists(
    st.tuples(
        st.integers(1, 300),
        st.integers(0, DAYS - 1).map(lambda ago: (LAST - timedelta(days=ago)).isoformat()),
        st.integers(0, 10**15),
    )
)


@given(usages)
def test_no_token_is_lost_in_the_sum(rows: list[DayUsage]) -> None:
    """Each day's bar is what its users used; the first users are those who used most."""
    found = gather(rows, LAST, DAYS)

    if found is None:
        assert not any(tokens for _, _, tokens in rows)
        return
    for number, tokens in enumerate(found.tokens):
        day = (date.fromisoformat(found.first_day) + timedelta(days=number)).isoformat()
        assert sum(tokens) == sum(row[2] for row in rows if row[1] == day)
    totals = [sum(day[place] for day in found.tokens) for place in range(len(found.users))]
    assert totals == sorted(totals, reverse=True)
    assert len(found.users) + found.others == len({row[0] for row in rows if row[2]})
    assert Chart.from_json(found.to_json()) == found


def test_picture_is_opaque_and_as_wide_as_telegram_shows() -> None:
    """Otherwise Telegram puts its theme behind it, or shrinks its letters."""
    found = gather([(7, TODAY, 5)], LAST, DAYS)
    assert found is not None

    picture = Image.open(io.BytesIO(draw(found)))

    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (1280, 800))
    assert picture.getpixel((0, 0)) == rgb(chart.GROUND)


def test_text_and_bars_stand_out() -> None:
    """WCAG 2: 4.5 for text, 3 for what is no text."""
    assert contrast(chart.INK, chart.GROUND) >= 4.5
    for colour in (*chart.COLOURS, chart.OTHERS_COLOUR):
        assert contrast(colour, chart.GROUND) >= 3


BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}
"""Machado, Oliveira and Fernandes, 2009: what is seen of red, green and blue."""


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_are_told_apart(kind: str) -> None:
    """Also by those who see no red, or no green."""
    colours = [rgb(colour) for colour in (*chart.COLOURS, chart.OTHERS_COLOUR)]
    seen = [
        [sum(w * part for w, part in zip(row, colour, strict=True)) for row in BLINDNESS[kind]]
        for colour in colours
    ]

    distances = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for one, other in combinations(seen, 2)
    ]
    assert min(distances) > 35


def test_bars_are_as_high_as_their_numbers() -> None:
    """Of one user, on two days; no other day has a bar."""
    picture = picture_of((7, TODAY, 4000), (7, YESTERDAY, 1000))

    whole = chart.BOTTOM - chart.TOP
    assert height(picture, 0) == pytest.approx(whole, abs=2)
    assert height(picture, 1) == pytest.approx(whole / 4, abs=2)
    assert [height(picture, ago) for ago in range(2, DAYS)] == [0] * (DAYS - 2)
    assert legend(picture) == [rgb(chart.COLOURS[0])]


def test_users_stand_on_one_another() -> None:
    """Who used most stands at the bottom; together they are as high as their sum."""
    picture = picture_of((7, TODAY, 3000), (8, TODAY, 1000))

    bar = [colour for colour in column(picture, 0) if colour != rgb(chart.GROUND)]
    first, second = rgb(chart.COLOURS[0]), rgb(chart.COLOURS[1])
    assert bar.index(second) == bar.count(first)
    assert bar.count(first) == pytest.approx(3 * bar.count(second), abs=4)
    assert legend(picture) == [first, second]


def test_200_users_are_seven_and_the_others() -> None:
    """The others share a colour of their own, and stand in the legend once."""
    picture = picture_of(*((1000 + user, TODAY, 100 + user) for user in range(200)))

    colours = [*map(rgb, chart.COLOURS), rgb(chart.OTHERS_COLOUR)]
    assert legend(picture) == colours
    bar = column(picture, 0)
    assert bar.count(colours[-1]) > 10 * bar.count(colours[0]) > 0


@pytest.mark.parametrize("tokens", [10**7, 10**12, 2**63 - 1])
def test_a_huge_day_hides_no_other(tokens: int) -> None:
    """The scale follows it; a small day is still seen, and nothing leaves its place."""
    picture = picture_of((7, TODAY, tokens), (7, YESTERDAY, 1))

    assert height(picture, 0) <= chart.BOTTOM - chart.TOP
    assert height(picture, 0) > (chart.BOTTOM - chart.TOP) / 2
    assert height(picture, 1) == chart.LEAST_PIXELS
    above = picture.crop((chart.LEFT + 1, 0, chart.RIGHT, chart.TOP - 2))
    assert above.getcolors() == [(above.width * above.height, rgb(chart.GROUND))]


def test_longest_ids_stay_in_their_columns() -> None:
    """Sixteen digits are more than Telegram uses; before each next mark there is ground."""
    picture = picture_of(*((9_999_999_999_999_900 + user, TODAY, 5) for user in range(8)))

    for number in range(1, 4):
        at = 40 + number * 300
        gap = picture.crop((at - 12, chart.LEGEND_TOP - 10, at, chart.HEIGHT))
        assert gap.getcolors() == [(gap.width * gap.height, rgb(chart.GROUND))]


@pytest.mark.parametrize(
    ("most", "step", "count"),
    [(1, 1, 1), (4, 1, 4), (5, 2, 3), (40, 10, 4), (122_000, 50_000, 3), (3 * 10**9, 10**9, 3)],
)
def test_scale_is_round(most: int, step: int, count: int) -> None:
    """One, two or five of something, at most four times, and no less than is needed."""
    assert chart._scale(most) == (step, count)


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (950, "950"), (1500, "1.5k"), (150_000, "150k"), (2 * 10**6, "2M"), (10**9, "1G")],
)
def test_numbers_are_short(number: int, written: str) -> None:
    """There is room for five letters beside the bars."""
    assert chart._short(number) == written
