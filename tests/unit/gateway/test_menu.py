"""/settings: what a user can choose, who may press, and what becomes of it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.inbox import MOST_UNSEEN_REPLIES, Inbox
from services.gateway.limits import Limits
from services.gateway.manner import House, Preferences
from services.gateway.menu import Menu
from services.gateway.outbox import Outbox, UnknownReply
from services.gateway.queue import Queue
from services.gateway.settings import PERSONA_BYTES
from services.gateway.store import NOTHING, Piece, Store
from services.wire import Batch, Hello, Reply
from tests.unit.fakes import USER, message, open_store, put_menu

CHAT = (USER, 0)
OTHER = 8
PERSONAS = ["Teacher", "Зануда: второй"]


@dataclass
class Talk:
    """What users do, and the replies that are not delivered."""

    store: Store
    outbox: Outbox
    inbox: Inbox
    updates: int = 0

    async def say(self, text: str, **changes: object) -> list[Reply]:
        self.updates += 1
        update = message(self.updates, text, **changes)
        await self.inbox.accept(Batch(bot_id=1, updates=[update]))
        return await self.store.run(self.store.undelivered_replies)

    async def press(self, data: str, message_id: int = 50, **changes: object) -> str:
        """Press what is under this message; returns what the user is told."""
        self.updates += 1
        fields = {"kind": "press", "message_id": message_id, "press_id": "1", "press_data": data}
        update = message(self.updates, None, **(fields | changes))
        receipts = await self.inbox.accept(Batch(bot_id=1, updates=[update]))
        return receipts.receipts[0].notice

    async def menu(self) -> Reply:
        """The one reply that is not delivered."""
        (reply,) = await self.store.run(self.store.undelivered_replies)
        assert [entry.reply.id for entry in self.outbox._entries.values()] == [reply.id]
        return reply

    async def deliver(self, reply: Reply, message_id: int = 0) -> None:
        """The reply stands in its chat."""
        if message_id:
            await self.store.run(self.store.record_part, reply.id, 0, message_id)
        await self.store.run(self.store.drop_reply, reply.id, 1)
        self.outbox.forget(reply.id)

    async def preferences(self, user_id: int = USER) -> Preferences:
        return await self.store.run(self.store.preferences, user_id)


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncGenerator[Talk]:
    async with open_store(tmp_path) as store:
        outbox = Outbox(store, [])
        access = Access(store, frozenset({USER, OTHER}))
        inbox = Inbox(store, Queue(), outbox, access, Limits(9, 9, 900), personas=PERSONAS)
        yield Talk(store, outbox, inbox)


@pytest.fixture
async def opened(talk: Talk) -> Talk:
    """A user's menu stands in message 50."""
    (menu,) = await talk.say("/settings")
    await talk.deliver(menu, 50)
    return talk


def labels(reply: Reply) -> list[str]:
    return [button.label for button in reply.buttons]


async def test_menu_says_how_things_stand(talk: Talk) -> None:
    """One line for each preference, one button to change it, and one to be done."""
    (menu,) = await talk.say("/settings")

    assert menu.text == (
        "Settings\n\nLanguage: as in Telegram\nStyle: balanced\nLength: as it comes\n"
        "While I write: show the answer\nMy thoughts: kept to myself\n"
        "A new message: waits its turn\nCharacter: usual"
    )
    assert labels(menu) == [
        "Language", "Style", "Length", "While I write", "My thoughts", "A new message",
        "Character", "Done",
    ]  # fmt: skip
    assert all(button.data.startswith("set:") for button in menu.buttons)


@pytest.mark.parametrize(
    ("page", "choice", "wanted"),
    [
        ("language", "ru", Preferences(language="ru")),
        ("style", "precise", Preferences(style="precise")),
        ("style", "creative", Preferences(style="creative")),
        ("length", "short", Preferences(length="short")),
        ("length", "long", Preferences(length="long")),
        ("streaming", "off", Preferences(streaming=False)),
        ("reasoning", "on", Preferences(reasoning=True)),
        ("steering", "on", Preferences(steering=True)),
        ("persona", "Teacher", Preferences(persona="Teacher")),
        ("persona", "Зануда: второй", Preferences(persona="Зануда: второй")),
    ],
)
async def test_choice_is_kept_and_shown(
    talk: Talk, page: str, choice: str, wanted: Preferences
) -> None:
    """The page marks what holds; a press on it goes back to the menu, in the same message."""
    await talk.say("/settings")
    menu = (await talk.store.run(talk.store.undelivered_replies))[0]
    (open_page,) = [b for b in menu.buttons if b.data == f"set:{page}"]
    await talk.store.run(talk.store.record_part, menu.id, 0, 50)

    assert await talk.press(open_page.data) == ""
    shown = await talk.menu()
    assert shown.parts == (50,)
    assert [label.startswith("✓ ") for label in labels(shown)].count(True) == 1
    (button,) = [b for b in shown.buttons if b.data == f"set:{page}:{choice}"]
    assert not button.label.startswith("✓")

    assert await talk.press(button.data) in ("Saved.", "Сохранено.")
    assert await talk.preferences() == wanted
    menu = await talk.menu()
    assert menu.parts == (50,)
    assert button.label in menu.text
    await talk.press(open_page.data)
    assert f"✓ {button.label}" in labels(await talk.menu())


async def test_choice_can_be_taken_back(opened: Talk) -> None:
    """The default is a choice like the others."""
    await opened.press("set:style:precise")

    await opened.press("set:style:")

    assert await opened.preferences() == Preferences()


async def test_language_holds_at_once_and_everywhere(opened: Talk) -> None:
    """Whatever the client reports from then on."""
    await opened.press("set:language:ru")

    assert (await opened.menu()).text.startswith("Настройки\n\nЯзык: Русский")
    assert (await opened.say("/new", language="en"))[-1].text.startswith("Новый разговор")


async def test_quick_presses_end_with_the_last_one(opened: Talk) -> None:
    """A page that was not delivered yet is replaced: one reply alone works on the message."""
    for page in ("style", "", "length", "", "language"):
        await opened.press(f"set:{page}")

    assert (await opened.menu()).text == "Which language shall I use for my own sentences?"
    assert len(list(opened.store._db.execute("SELECT * FROM parts"))) == 1


async def test_done_leaves_no_buttons(opened: Talk) -> None:
    """What was chosen stays to be read."""
    await opened.press("set:close")

    menu = await opened.menu()
    assert menu.text.startswith("Settings")
    assert menu.buttons == ()


async def test_nobody_presses_in_another_users_menu(opened: Talk) -> None:
    """In a group everybody sees the buttons; a stranger to the menu changes nothing with it."""
    notice = await opened.press("set:style:precise", user_id=OTHER)

    assert notice == "I have asked somebody else."
    assert await opened.preferences(USER) == await opened.preferences(OTHER) == Preferences()
    assert await opened.store.run(opened.store.undelivered_replies) == []


@pytest.mark.parametrize(
    "data",
    [
        "set:style:wild", "set:persona:Nobody", "set:no_such:x",
        "set:instruction_:x", "set:streaming:", "set::x",
    ],
)  # fmt: skip
async def test_what_is_not_offered_cannot_be_chosen(opened: Talk, data: str) -> None:
    """Whoever speaks Telegram's own protocol can press what no button says."""
    assert await opened.press(data) == "It is finished already."

    assert await opened.preferences() == Preferences()
    assert await opened.store.run(opened.store.undelivered_replies) == []


@pytest.mark.parametrize("data", ["set", "set:", "set:no_such"])
async def test_odd_press_breaks_nothing(opened: Talk, data: str) -> None:
    """It is turned away, or opens the menu."""
    await opened.press(data)

    assert await opened.preferences() == Preferences()


async def test_menu_takes_nothing_elses_place(talk: Talk) -> None:
    """A made-up press under an answer, growing, latest or old, or under nothing, is no press."""
    gone = "This does not work any more. Please give the command again."
    assert await talk.press("set:style") == gone
    (reply,) = await talk.say("question")
    await talk.store.run(talk.store.record_part, reply.id, 0, 50)
    assert await talk.press("set:style") == gone
    (ask,) = await talk.store.run(talk.store.asks, CHAT)
    await talk.store.run(talk.store.finish_ask, ask, "answer", "answer", NOTHING)
    assert await talk.press("forget") == gone
    await talk.deliver(reply)
    assert await talk.press("set:style:precise") == gone
    await talk.say("/new")
    assert await talk.press("set:style") == gone

    assert await talk.preferences() == Preferences()
    assert [r.text for r in await talk.store.run(talk.store.undelivered_replies)] == [
        "A new conversation: I have forgotten the earlier one."
    ]


async def test_menu_of_another_user_stays_theirs(opened: Talk) -> None:
    """While a page of it is on its way, and after it was shown."""
    await opened.press("set:style")
    assert await opened.press("set:length", user_id=OTHER) == "I have asked somebody else."

    assert (await opened.menu()).text.startswith("How freely")


async def test_menu_that_is_closed_is_none(opened: Talk) -> None:
    """Its message is text from then on."""
    await opened.press("set:close")
    assert (await opened.press("set:style")).startswith("This does not work")
    await opened.deliver(await opened.menu())

    assert (await opened.press("set:style")).startswith("This does not work")


async def test_settings_are_nobody_elses_business(talk: Talk) -> None:
    """In a group everybody would read what is set."""
    group = {"chat_id": -5, "chat_kind": "group"}
    for text in ("/settings", "/system", "/system Call me Ada."):
        assert (await talk.say(text, **group))[-1].text.startswith("Your settings are nobody")

    assert await talk.preferences() == Preferences()


async def test_part_of_a_page_that_was_replaced_is_refused(talk: Talk) -> None:
    """Its relay is told that it is gone, not to wait for another stream."""
    (menu,) = await talk.say("/settings")
    stream = talk.outbox.stream()
    hello = await anext(stream)
    assert isinstance(hello, Hello)
    recording = asyncio.create_task(talk.outbox.record_part(hello.epoch, menu.id, 0, 50, USER))
    await asyncio.sleep(0)  # it is in the store's line
    talk.outbox.forget(menu.id)

    with pytest.raises(UnknownReply):
        await recording
    await stream.aclose()


async def test_own_words_are_kept_shown_and_removed(talk: Talk) -> None:
    """/system takes them, /system and /settings show them, a button takes them away."""
    assert (await talk.say("/system"))[-1].text.startswith("Say after /system")
    assert (await talk.say("/system Call me Ada.\nAlways."))[-1].text.startswith("I will keep")
    assert (await talk.preferences()).instruction == "Call me Ada.\nAlways."
    assert "Call me Ada." in (await talk.say("/system"))[-1].text

    menu = (await talk.say("/settings"))[-1]
    assert "Call me Ada. Always." in menu.text
    assert labels(menu)[-2:] == ["Keep nothing in mind", "Done"]
    await talk.deliver(menu, 50)
    await talk.press(menu.buttons[-2].data)

    assert await talk.preferences() == Preferences()


async def test_own_words_leave_room_for_the_question(talk: Talk) -> None:
    """A quarter of a prompt at most; and a long one does not make the menu two messages."""
    assert "too long" in (await talk.say("/system " + "word " * 200))[-1].text
    assert await talk.preferences() == Preferences()

    for words in ("word " * 120, "言葉" * 100):
        await talk.say("/system " + words)
        menu = (await talk.say("/settings"))[-1]
        assert words[:90] in menu.text
        assert len(menu.text) < 500


async def test_forget_erases_own_words_and_keeps_choices(talk: Talk) -> None:
    """They are text that a user wrote; what was chosen is not."""
    await talk.say("/system Call me Ada.")
    await talk.store.run(put_menu, talk.store)
    await talk.press("set:style:precise")
    await talk.store.run(put_menu, talk.store, 51)

    await talk.press("forget", 51)

    assert await talk.preferences() == Preferences(style="precise")


async def test_each_user_has_their_own(talk: Talk) -> None:
    """In one chat as well."""
    await talk.store.run(put_menu, talk.store)
    await talk.store.run(put_menu, talk.store, 51, OTHER)
    await talk.press("set:style:precise")
    await talk.press("set:style:creative", 51, user_id=OTHER)

    assert (await talk.preferences(USER)).style == "precise"
    assert (await talk.preferences(OTHER)).style == "creative"


async def test_press_data_fits_its_button(talk: Talk) -> None:
    """Telegram allows 64 bytes: the longest name that an operator may give does."""
    talk.inbox._menu._choices["persona"] = ("", "я" * (PERSONA_BYTES // 2))
    await talk.store.run(put_menu, talk.store)

    await talk.press("set:persona")

    page = await talk.menu()
    assert max(len(button.data.encode()) for button in page.buttons) <= 64


def test_manner_is_the_operators_and_the_users() -> None:
    """The operator's words come first, and the user's never instead of them."""
    house = House(400, 0.7, "Be kind.", {"Teacher": "You teach."})

    assert house.manner(Preferences()) == house.manner(Preferences(persona="gone"))
    plain = house.manner(Preferences())
    assert (plain.system_prompt, plain.answer_tokens, plain.temperature) == ("Be kind.", 400, 0.7)
    chosen = Preferences("ru", "Teacher", "Call me Ada.", "precise", "short", streaming=False)
    manner = house.manner(chosen)
    assert manner.system_prompt == (
        "You teach.\n\nCall me Ada.\n\nAnswer briefly, in a few sentences."
    )
    assert (manner.answer_tokens, manner.temperature, manner.streaming) == (400, 0.2, False)


@pytest.mark.parametrize("offered", [[], ["One"]])
async def test_one_model_is_no_choice(talk: Talk, offered: list[str]) -> None:
    """No line, no button, and no press that could choose."""
    talk.inbox._menu = talk.inbox._commands._menu = Menu(talk.store, PERSONAS, offered)
    (menu,) = await talk.say("/settings")
    await talk.deliver(menu, 50)

    assert "Model" not in menu.text + "".join(labels(menu))
    assert await talk.press("set:model:One") == "It is finished already."
    assert await talk.preferences() == Preferences()


async def test_model_is_chosen_by_its_name_for_users(talk: Talk) -> None:
    """In the operator's order; the first is the default, as it is in place of one that is gone."""
    talk.inbox._menu = talk.inbox._commands._menu = Menu(talk.store, (), ["Fast", "Thorough: 2"])
    (menu,) = await talk.say("/settings")
    assert menu.text.endswith("\nModel: Fast")
    await talk.deliver(menu, 50)

    await talk.press("set:model")
    assert labels(await talk.menu()) == ["✓ Fast", "Thorough: 2", "Back"]
    await talk.press("set:model:Thorough: 2")
    assert (await talk.menu()).text.endswith("\nModel: Thorough: 2")
    assert await talk.preferences() == Preferences(model="Thorough: 2")

    talk.inbox._menu._choices["model"] = ("Fast", "Other")
    await talk.press("set:model")
    assert labels(await talk.menu()) == ["✓ Fast", "Other", "Back"]


def test_manner_carries_the_engines_own_name() -> None:
    """Of the chosen model, else of the first; what is not there is replaced by what is."""
    house = House(400, models={"Fast": "small", "Thorough": "large"})

    chosen = house.manner(Preferences(model="Thorough"))
    assert chosen.model == "large"
    assert house.manner(Preferences()).model == "small"
    assert house.manner(Preferences(model="large")).model == "small", "that is no name for users"
    assert house.manner(Preferences(model="Gone")).model == "small"
    assert house.without_model(chosen).model == "small"
    assert house.without_model(house.manner(Preferences())).model == ""
    assert House(400).manner(Preferences(model="Fast")).model == ""


async def test_settings_survive_a_restart(tmp_path: Path) -> None:
    """They are in the store."""
    wanted = Preferences(
        "ru", "Teacher", "words", "creative", "long", streaming=False, reasoning=True,
        steering=True, model="Fast",
    )  # fmt: skip
    async with open_store(tmp_path) as store:
        await store.run(store.save_preferences, USER, wanted)

    async with open_store(tmp_path) as store:
        assert await store.run(store.preferences, USER) == wanted


async def test_ask_remembers_the_language_of_its_time(opened: Talk) -> None:
    """The answer's buttons speak it."""
    await opened.press("set:language:ru")
    (*_, reply) = await opened.say("question", language="en")

    assert labels(reply) == ["Стоп"]
    (ask,) = await opened.store.run(opened.store.asks, CHAT)
    assert ask.language == "ru"
    assert ask.pieces == (Piece(ask.message_id, "question", 1_700_000_000),)


async def test_forgetting_is_asked_about(talk: Talk) -> None:
    """Nothing is erased before the button is pressed; the question becomes its answer."""
    await talk.say("/system Call me Ada.")
    question = (await talk.say("/forget"))[-1]
    assert question.text.startswith("Shall I erase all that we said here?")
    assert labels(question) == ["Erase it", "Keep it"]
    for reply in await talk.store.run(talk.store.undelivered_replies):
        await talk.deliver(reply, 50 if reply.id == question.id else 0)

    assert await talk.press(question.buttons[1].data) == ""
    kept = await talk.menu()
    assert (kept.text, kept.parts, kept.buttons) == ("I have erased nothing.", (50,), ())
    assert (await talk.preferences()).instruction
    assert (await talk.press(question.buttons[0].data)).startswith("This does not work")
    await talk.deliver(kept)
    question = (await talk.say("/forget"))[-1]
    await talk.deliver(question, 51)
    assert await talk.press(question.buttons[0].data, 51) == ""
    assert (await talk.menu()).text.startswith("I have erased all")
    assert not (await talk.preferences()).instruction


async def test_nobody_else_decides_what_is_forgotten(talk: Talk) -> None:
    """In a group everybody sees the button."""
    await talk.say("question")
    await talk.store.run(put_menu, talk.store)

    assert await talk.press("forget", user_id=OTHER) == "I have asked somebody else."

    assert len(await talk.store.run(talk.store.asks, CHAT)) == 1


async def test_menus_do_not_pile_up(talk: Talk) -> None:
    """While the relay is away, whoever asks for more of them gets no more than of other replies."""
    for _ in range(20):
        await talk.say("/settings")
        await talk.say("/forget")

    assert len(await talk.store.run(talk.store.undelivered_replies)) == MOST_UNSEEN_REPLIES
