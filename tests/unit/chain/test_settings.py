"""What a user chooses in the menu holds for the next answer."""

import asyncio
from typing import Any

import pytest

from tests.unit.chain.conftest import Chain, buttons_of
from tests.unit.fakes import USER, until

pytestmark = pytest.mark.long


async def wait_for_menu(chain: Chain, beginning: str) -> dict[str, Any]:
    """Wait until the only message of the bot says this."""
    async with asyncio.timeout(10):
        while True:
            for shown in await chain.shown():
                if shown["text"].startswith(beginning):
                    return shown
            await asyncio.sleep(0.02)


async def open_menu(chain: Chain) -> dict[str, Any]:
    """The menu, shown and settled."""
    await chain.say("/settings")
    menu = await wait_for_menu(chain, "Settings")
    await chain.wait_until_settled()
    return menu


async def choose(chain: Chain, page: str, choice: str) -> None:
    menu = await wait_for_menu(chain, "Settings")
    await chain.press(menu, f"set:{page}")
    async with asyncio.timeout(10):
        while not buttons_of(menu, f"set:{page}:{choice}"):
            await asyncio.sleep(0.02)
            (menu,) = [m for m in await chain.shown() if m["message_id"] == menu["message_id"]]
    await chain.press(menu, f"set:{page}:{choice}")
    await wait_for_menu(chain, "Settings")


async def test_menu_stays_one_message(chain: Chain) -> None:
    """Pages are edits of it; its buttons stand below one another, and go when it is done."""
    await chain.say("/settings")
    menu = await wait_for_menu(chain, "Settings")
    rows = menu["reply_markup"]["inline_keyboard"]
    assert [len(row) for row in rows] == [1] * len(rows)
    assert len(rows) == 8

    await choose(chain, "style", "precise")
    await choose(chain, "persona", "Teacher")
    menu = await wait_for_menu(chain, "Settings")
    assert "Style: precise" in menu["text"]
    assert "Character: Teacher" in menu["text"]
    await chain.press(menu, "set:close")
    await chain.wait_until_settled()

    (menu,) = await chain.shown()
    assert not buttons_of(menu, "")
    assert len(await chain.calls("sendMessage")) == 1


async def test_choices_reach_the_engine(chain: Chain) -> None:
    """Instruction, temperature and length are the user's own."""
    await chain.say("/system Call me Ada.")
    await chain.wait_for_answers(1)
    await chain.say("/settings")
    for page, choice in (("persona", "Teacher"), ("style", "creative"), ("length", "short")):
        await choose(chain, page, choice)

    await chain.say("Who am I?")
    await until(lambda: chain.engine.requests, "the engine is asked")

    assert chain.engine.requests[0][0] == {
        "role": "system",
        "content": "You teach.\n\nCall me Ada.\n\nAnswer briefly, in a few sentences.",
    }
    assert chain.engine.temperatures == [1.0]
    assert chain.engine.limits == [256]


async def test_answer_can_come_all_at_once(chain: Chain) -> None:
    """Without streaming the text is shown when it is complete, and not before; /stop works."""
    await chain.say("/settings")
    await choose(chain, "streaming", "off")
    await chain.wait_until_settled()
    go_on = asyncio.Event()
    chain.engine.scripts.append(["first ", go_on, "second"])

    await chain.say("tell me")
    await until(lambda: chain.engine.requests, "the engine is asked")
    edits = len(await chain.calls("editMessageText"))
    await asyncio.sleep(1.5)  # longer than a growing answer takes to be shown
    shown = [message["text"] for message in await chain.shown()]
    assert shown[1] == "…"
    go_on.set()

    assert (await chain.wait_for_answers(2))[1] == "first second"
    await chain.wait_until_settled()
    assert len(await chain.calls("editMessageText")) <= edits + 2  # the button, then the whole


async def test_menu_survives_a_relay(chain: Chain) -> None:
    """A page that a dying relay did not show is shown by the next, in the same message."""
    menu = await open_menu(chain)
    await chain.post("/fault", {"kind": "hang", "method": "editMessageText", "seconds": 2})
    await chain.press(menu, "set:style")
    await chain.wait_until_hit()

    await chain.kill("relay")
    await chain.start_relay()

    await wait_for_menu(chain, "How freely")
    assert len(await chain.calls("sendMessage")) == 1


async def test_slow_edit_of_an_old_page_does_not_win(chain: Chain) -> None:
    """The next page is not written before the answer to the one before has come."""
    menu = await open_menu(chain)
    await chain.post("/fault", {"kind": "delay", "method": "editMessageText", "seconds": 7})
    await chain.press(menu, "set:style")
    await chain.wait_until_hit()
    landed = asyncio.create_task(asyncio.sleep(7.5))  # the edit is carried out by then

    body = {
        "user": {"id": USER, "first_name": "U", "language_code": "en"}, "chat_id": USER,
        "message_id": menu["message_id"], "data": "set:close", "force": True,
    }  # fmt: skip
    await chain.post("/press", body)

    await until(lambda: not chain.outbox._entries, "it is settled", 30)
    await landed
    (menu,) = await chain.shown()
    assert menu["text"].startswith("Settings")
    assert buttons_of(menu) == []
    edits = await chain.calls("editMessageText")
    assert edits[-1]["text"].startswith("Settings")


async def test_new_message_can_end_the_answer(chain: Chain) -> None:
    """The engine is freed at once, what was said stands, and the new question is answered."""
    await chain.say("/settings")
    await choose(chain, "steering", "on")
    await chain.wait_until_settled()
    never = asyncio.Event()
    chain.engine.scripts += [["The first ", never], ["The second."]]
    await chain.say("tell me")
    await until(lambda: chain.engine.requests, "the engine is asked")

    await chain.say("no, something else")

    answers = await chain.wait_for_answers(3)
    assert answers[1:] == ["The first\n\n(stopped)", "The second."]
    assert chain.engine.aborted == 1
    assert chain.engine.requests[1][-1]["content"] == "no, something else"


async def test_usually_a_new_message_waits_its_turn(chain: Chain) -> None:
    """As long as nothing else was chosen."""
    go_on = asyncio.Event()
    chain.engine.scripts += [["The first ", go_on, "answer."], ["The second."]]
    await chain.say("tell me")
    await until(lambda: chain.engine.requests, "the engine is asked")

    await chain.say("and something else")
    await chain.wait_for_calls("sendMessage", 2)
    go_on.set()

    assert await chain.wait_for_answers(2) == ["The first answer.", "The second."]
