"""What the model writes in Markdown stands formatted in the chat; what the bot says does not."""

import asyncio

from tests.unit.chain.conftest import Chain

ANSWER = (
    "## Vectors\n\nA `vector<int>` holds **numbers**, see [the page](https://example.org/a_b):\n\n"
    "```cpp\nstd::vector<int> v;\n```"
)


async def test_answer_stands_formatted(chain: Chain) -> None:
    """Its marks are gone, entities stand in their place, and no call was refused."""
    chain.engine.scripts.append([ANSWER[:40], ANSWER[40:]])
    await chain.say("what is a vector?")

    answers = await chain.wait_for_answers(1)

    assert answers == [
        "Vectors\n\nA vector<int> holds numbers, see the page:\n\nstd::vector<int> v;"
    ]
    (message,) = await chain.shown()
    assert message["entities"] == [
        {"type": "bold", "offset": 0, "length": 7},
        {"type": "code", "offset": 11, "length": 11},
        {"type": "bold", "offset": 29, "length": 7},
        {"type": "text_link", "offset": 42, "length": 8, "url": "https://example.org/a_b"},
        {"type": "pre", "offset": 53, "length": 19, "language": "cpp"},
    ]
    await chain.wait_until_settled()


async def test_links_have_no_preview(chain: Chain) -> None:
    """Telegram is told so with every edit: it would fetch the page, and its owner would know."""
    chain.engine.scripts.append(["See https://example.org/secret-page"])
    await chain.say("where?")

    await chain.wait_for_answers(1)

    edits = await chain.calls("editMessageText")
    assert edits
    assert all(edit["link_preview_options"] == {"is_disabled": True} for edit in edits)


async def test_conversation_remembers_what_the_model_wrote(chain: Chain) -> None:
    """The engine is told its own Markdown, not what was made of it."""
    chain.engine.scripts.extend([["**bold**"], ["fine"]])
    await chain.say("first")
    await chain.wait_for_answers(1)
    await chain.say("second")

    await chain.wait_for_answers(2)

    assert chain.engine.requests[1][2] == {"role": "assistant", "content": "**bold**"}


async def test_sentences_of_the_bot_are_plain(chain: Chain) -> None:
    """They may hold any characters: nothing in them is a mark."""
    await chain.say("/help")

    (text,) = await chain.wait_for_answers(1)

    assert "/forget — erase" in text
    assert all("entities" not in call for call in await chain.calls("editMessageText"))


async def test_stopped_in_the_middle_of_code(chain: Chain) -> None:
    """The remark stands below the code, and not in it."""
    chain.engine.scripts.append(["Look:\n```py\nx = 1", asyncio.Event()])
    await chain.say("tell me")

    async def code() -> bool:
        shown = await chain.shown()
        return bool(shown) and shown[0]["text"] == "Look:\nx = 1"

    while not await code():
        await asyncio.sleep(0.02)
    await chain.say("/stop")

    assert await chain.wait_for_answers(1) == ["Look:\nx = 1\n\n(stopped)"]
    (message,) = await chain.shown()
    assert message["entities"] == [{"type": "pre", "offset": 6, "length": 5, "language": "py"}]


async def test_restarted_relay_shows_the_same(chain: Chain) -> None:
    """In the middle of an answer of several messages: it edits them, to what they were."""
    go_on = asyncio.Event()
    long = "\n\n".join(f"**{n}** " + "word " * 60 for n in range(30))
    chain.engine.scripts.append([long, go_on, "\n\n*end*"])
    await chain.say("tell me")

    async def messages() -> list[str]:
        return [str(message["text"]) for message in await chain.shown()]

    while "29 word" not in "".join(before := await messages()):
        await asyncio.sleep(0.02)
    entities = [message["entities"] for message in await chain.shown()]
    await chain.kill("relay")
    await chain.start_relay()
    go_on.set()

    while not (after := await chain.answers()) or not after[-1].endswith("end"):
        await asyncio.sleep(0.02)
    assert len(before) > 2
    assert after[: len(before) - 1] == before[:-1]
    assert [m["entities"] for m in await chain.shown()][: len(before) - 1] == entities[:-1]
    assert "".join(after).count("29 word") == 1
    assert len(await chain.calls("sendMessage")) == len(after)
