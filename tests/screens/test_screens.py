"""Representative chats, drawn into .test/screens, light and dark, so that a person can judge them.

What is asserted is that the pictures show all there is to see; whether it is good, eyes decide.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.gateway.engine import Finished, Thought
from tests.conftest import STATE
from tests.screens.draw import (
    COLLAPSED_LINES,
    THEMES,
    WIDTH,
    Line,
    Message,
    Style,
    draw_chat,
    lay_out,
)
from tests.unit.chain.conftest import Chain, buttons_of
from tests.unit.chain.test_pictures import GREEN, photo, sees, send_album
from tests.unit.fakes import USER
from tests.unit.pictures import BLUE, RED

FOLDER = STATE / "screens"

ANSWER = """## Three ways to sort

Sorting **in place** is fastest; *stable* sorts keep the order of equals. See [the manual](https://example.org/sort).

1. `list.sort()` changes the list
2. `sorted()` makes a new one
   - with `key=` you say by what
   - with `reverse=True` the other way round

```python
def by_length(words: list[str]) -> list[str]:
    return sorted(words, key=len)
```

| Way | Time | Stable |
|---|---|---|
| merge sort | n log n | yes |
| heap sort | n log n | no |

> Premature optimisation is the root of all evil.

The bound is $n \\log n$, ~~always~~ for comparisons."""

RUSSIAN = """**Рецепт борща**

- свёкла — 2 шт.
- капуста — 300 г
- картофель — 3 шт.

Варите *не спеша*: вкус зависит от зажарки."""


async def say(chain: Chain, text: str, language: str = "en") -> None:
    user = {"id": USER, "first_name": "U", "language_code": language}
    await chain.post("/say", {"user": user, "text": text})


async def say_and_wait(chain: Chain, text: str, language: str = "en") -> None:
    """Until the bot has said something to it, and nothing is under way any more."""
    before = await sent(chain)
    await say(chain, text, language)
    async with asyncio.timeout(15):
        while await sent(chain) == before:
            await asyncio.sleep(0.02)
    await chain.wait_until_settled()


async def sent(chain: Chain) -> int:
    return sum([len(await chain.calls(way)) for way in ("sendMessage", "sendDocument")])


async def chat(chain: Chain) -> list[Message]:
    """All that stands in the chat, oldest first; photos with their content."""
    async with chain.control.get(f"/chat/{USER}") as response:
        messages = list((await response.json())["messages"])
    for message in messages:
        if sizes := message["extra"].get("photo"):
            message["photo"] = await chain.download(sizes[-1]["file_id"])
    return messages


async def wait_for(chain: Chain, beginning: str, count: int = 1) -> Message:
    """Wait until so many of the bot's messages begin like this; returns the newest."""
    async with asyncio.timeout(15):
        while True:
            shown = [m for m in await chain.shown() if m["text"].startswith(beginning)]
            if len(shown) >= count:
                return shown[-1]
            await asyncio.sleep(0.02)


async def keep(chain: Chain, name: str) -> list[Message]:
    """Draw the chat in all themes; returns its messages."""
    messages = await chat(chain)
    assert messages
    for theme in THEMES:
        picture = draw_chat(messages, theme)
        assert picture.width == WIDTH
        colours = picture.getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20, "something stands there"
        FOLDER.mkdir(parents=True, exist_ok=True)
        picture.save(FOLDER / f"{name}-{theme}.png", optimize=True)
    return messages


def drawn(message: Message) -> str:
    """What the picture of a message says, without its line breaks."""
    return "".join(spoken(line) for line in lay_out(message, 600) if line.block != "head")


def spoken(line: Line) -> str:
    return "".join(text for text, _ in line.runs)


def flat(text: str) -> str:
    return text.replace("\n", "")


async def test_formatted_answer(chain: Chain) -> None:
    """Headings, lists, code, a table, a quote, a link; and buttons below."""
    chain.engine.scripts.append([ANSWER])
    await say_and_wait(chain, "How do I sort in Python?")

    *_, answer = await keep(chain, "formatted")

    assert drawn(answer) == flat(answer["text"])
    kinds = {entity["type"] for entity in answer["entities"]}
    assert kinds >= {"bold", "italic", "code", "pre", "blockquote", "text_link", "strikethrough"}
    assert buttons_of(answer, "again:")


async def test_growing_answer(chain: Chain) -> None:
    """What stands there while it is written: so far, and a button that stops it."""
    held = asyncio.Event()
    chain.engine.scripts.append(
        ["It begins with\n```python\nprint('an open", held, " fence')\n```"]
    )
    await say(chain, "Show me")
    await wait_for(chain, "It begins")

    *_, growing = await keep(chain, "growing")

    assert buttons_of(growing, "stop:")
    held.set()
    await chain.wait_until_settled()


async def test_thoughts(chain: Chain) -> None:
    """A long thought is a quote that is folded until somebody opens it."""
    await say(chain, "/settings")
    menu = await wait_for(chain, "Settings")
    await chain.wait_until_settled()
    await chain.press(menu, "set:reasoning")
    while not buttons_of(menu := (await chain.shown())[0], "set:reasoning:on"):
        await asyncio.sleep(0.02)
    await chain.press(menu, "set:reasoning:on")
    await wait_for(chain, "Settings")
    thought = " ".join(f"Step {number}: consider the next possibility." for number in range(30))
    chain.engine.scripts.append([Thought(thought), "It is **42**."])
    await say(chain, "What is it?")
    await wait_for(chain, "Step 0")
    await chain.wait_until_settled()

    *_, answer = await keep(chain, "thoughts")

    assert "expandable_blockquote" in {entity["type"] for entity in answer["entities"]}
    folded = [line for line in lay_out(answer, 600) if line.block == "blockquote"]
    assert len(folded) == COLLAPSED_LINES + 1


async def test_menus(chain: Chain) -> None:
    """/settings, two of its pages, and the question before all is forgotten."""
    await chain.kill("gateway")
    chain.models = {"Fast": "small", "Thorough": "large"}
    await chain.start_gateway()
    await say_and_wait(chain, "/settings")
    await say(chain, "/settings")
    menu = await wait_for(chain, "Settings", 2)
    await chain.wait_until_settled()
    await chain.press(menu, "set:style")
    await wait_for(chain, "How freely")
    await say(chain, "/settings")
    menu = await wait_for(chain, "Settings", 2)
    await chain.wait_until_settled()
    await chain.press(menu, "set:model")
    await wait_for(chain, "Which model")
    await say_and_wait(chain, "/forget")

    messages = await keep(chain, "menus")

    assert sum(bool(buttons_of(m, "")) for m in messages if m["from"]["is_bot"]) == 4


async def test_what_goes_wrong_and_what_goes_on(chain: Chain) -> None:
    """An answer that failed, one that was stopped, one at its limit, and a file."""
    chain.engine.scripts.append([ValueError("broken")])
    await say(chain, "First")
    while not any(buttons_of(m, "retry:") for m in await chain.shown()):
        await asyncio.sleep(0.02)
    chain.engine.scripts.append(["This goes on and on", asyncio.Event()])
    await say(chain, "Second")
    await wait_for(chain, "This goes on")
    await say(chain, "/stop")
    await wait_for(chain, "This goes on and on\n\n(stopped)")
    await chain.wait_until_settled()
    chain.engine.scripts.append(["This is as long as it may", Finished("length", 10, 256)])
    await say_and_wait(chain, "Third")
    await say_and_wait(chain, "/export")

    messages = await keep(chain, "troubles")

    assert any(buttons_of(message, "more:") for message in messages)
    assert messages[-1]["extra"]["document"]["file_name"] == "conversation.md"
    assert "conversation.md" in drawn(messages[-1])


async def test_russian(chain: Chain) -> None:
    """The bot's own words and the model's, in Russian."""
    chain.engine.scripts.append([RUSSIAN])
    await say_and_wait(chain, "/help", "ru")
    await say_and_wait(chain, "Как сварить борщ?", "ru")

    messages = await keep(chain, "russian")

    assert messages[1]["text"].startswith("Напишите сообщение")
    assert drawn(messages[-1]) == flat(messages[-1]["text"])


async def test_admin(chain: Chain) -> None:
    """What only admins see."""
    for command in ("/help", "/users", "/heartbeat", "/pause", "/resume"):
        await say_and_wait(chain, command)

    messages = await keep(chain, "admin")

    assert [m["from"]["is_bot"] for m in messages] == [False, True] * 5


async def test_chart(chain: Chain) -> None:
    """What everybody has used: a photo that is read alike in both themes."""
    store = chain.outbox._store

    def use() -> None:
        for number in range(240):
            user, ago = 500_000_000 + number % 12 * 37_124_817, number * 7 % 30
            tokens = 2000 + number * 7919 % 9000 // (1 + number % 12)
            sql = "INSERT OR IGNORE INTO usage VALUES(?, date('now', ?), 3, ?, 0, 0)"
            store._db.execute(sql, (user, f"-{ago} days", tokens))

    await store.run(use)
    await say_and_wait(chain, "/usage")

    *_, chart = await keep(chain, "chart")

    assert chart["photo"].startswith(b"\x89PNG")
    assert drawn(chart) == flat(chart["text"])


async def test_pictures(chain: Chain) -> None:
    """An album that is being fetched, its answer, and one more picture than can be seen."""
    await sees(chain, 2)
    await chain.post("/fault", {"kind": "hang", "method": "file", "seconds": 1})
    chain.engine.scripts += [
        ["The left one is **red**, the right one blue."],
        ["The last is green."],
    ]
    await send_album(chain, await photo(chain, RED, "Which colours?"), await photo(chain, BLUE))
    await wait_for(chain, "Looking at the picture…")
    looking = await chat(chain)
    await wait_for(chain, "The left one")
    await chain.wait_until_settled()
    last = [await photo(chain, colour) for colour in (RED, BLUE, GREEN)]
    last[0]["caption"] = "And the last?"
    await send_album(chain, *last)
    await wait_for(chain, "The last is green")
    await chain.wait_until_settled()

    messages = await keep(chain, "pictures")

    assert [drawn(m) for m in looking[:2]] == ["Which colours?", ""]
    assert all(m["photo"] for m in looking[:2])
    assert "could look at the last 2 only" in drawn(messages[-1])
    assert sum(m["from"]["is_bot"] for m in messages) == 2


# The drawing itself


def message(text: str, *entities: dict[str, Any]) -> Message:
    return {"from": {"is_bot": True}, "text": text, "entities": list(entities)}


@pytest.mark.parametrize(
    "text", ["", " ", "one", "word " * 40, "w" * 200, "a\n\nb", "😀 c 😀", "  two  spaces  "]
)
def test_nothing_is_lost_between_lines(text: str) -> None:
    """Lines are broken at words, or within a word that is too long; each fits."""
    lines = list(lay_out(message(text), 400))

    assert "".join(map(spoken, lines)) == flat(text)
    for line in lines:
        hanging = Style().font.getlength(" " * (len(said := spoken(line)) - len(said.rstrip())))
        assert line.width - hanging <= 400


def test_offsets_count_utf_16_units() -> None:
    """A character beyond the basic plane takes two of them."""
    bold = {"type": "bold", "offset": 3, "length": 1}

    (line,) = lay_out(message("😀 b c", bold), 400)

    assert [(text, set(style.kinds)) for text, style in line.runs] == [
        ("😀 ", set()), ("b", {"bold"}), (" c", set()),
    ]  # fmt: skip


def test_pictures_differ_where_chats_do(tmp_path: Path) -> None:
    """By text, by entities, by theme: a picture is not blank."""

    def picture(
        entities: Sequence[dict[str, Any]], text: str = "text", theme: str = "light"
    ) -> bytes:
        return draw_chat([message(text, *entities)], theme).tobytes()

    kinds = ("bold", "italic", "code", "underline", "strikethrough", "spoiler", "text_link", "pre")
    pictures = [picture([{"type": kind, "offset": 0, "length": 4}]) for kind in kinds]
    pictures += [picture([]), picture([], "next"), picture([], theme="dark")]

    assert len(set(pictures)) == len(pictures)
