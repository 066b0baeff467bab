"""What Telegram shows of the bot: set by the relay when it starts, and left alone when right."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from aiogram.types import BotCommand

from services.relay.texts import ADMIN_MENU, GROUP_MENU, MENU, Menu
from services.wire import Batch
from tests.unit.chain.conftest import Chain
from tests.unit.chain.test_groups import BOT, GROUP_ID, say_in_group
from tests.unit.fakes import USER, message
from tests.unit.gateway.served import serve


async def shown(chain: Chain) -> dict[str, Any]:
    """Name and texts, as they were last set."""
    methods = ("setMyName", "setMyShortDescription", "setMyDescription")
    return {
        method: [list(call.values()) for call in await chain.calls(method)] for method in methods
    }


@pytest.fixture
def named(chain: Chain) -> Chain:
    chain.relay_settings |= {
        "bot_name": "Neutral", "bot_about": "A helper.", "bot_description": "Write to me.",
    }  # fmt: skip
    return chain


async def test_profile_is_set_once(named: Chain) -> None:
    """A restarted relay finds it right and changes nothing: Telegram allows few changes a day."""
    await named.start_relay()
    await named.wait_for_calls("setMyDescription", 1)

    await named.kill("relay")
    await named.start_relay()
    await named.wait_for_calls("getMyDescription", 2)

    assert await shown(named) == {
        "setMyName": [["Neutral"]],
        "setMyShortDescription": [["A helper."]],
        "setMyDescription": [["Write to me."]],
    }


async def test_what_no_setting_names_is_left_alone(chain: Chain) -> None:
    """Then it is as BotFather set it; the menu of commands is the relay's in any case."""
    await chain.start_relay()
    await chain.wait_for_calls("setMyCommands", 2)
    await chain.say("hello")
    await chain.wait_for_answers(1)

    assert await shown(chain) == {
        "setMyName": [], "setMyShortDescription": [], "setMyDescription": [],
    }  # fmt: skip


async def test_refused_name_does_not_stop_the_rest(named: Chain) -> None:
    """What Telegram does not take is logged; the bot talks all the same."""
    fault = {"kind": "status", "method": "setMyName", "status": 400, "count": None}
    await named.post("/fault", fault)

    await named.start_relay()

    await named.wait_for_calls("setMyDescription", 1)
    await named.say("hello")
    assert len(await named.wait_for_answers(1)) == 1


# Menus of commands

STANDING = {"all_private_chats": MENU, "all_group_chats": GROUP_MENU}


def chat_of(user: int) -> str:
    return f"chat:{user}:"


async def menus(chain: Chain) -> dict[tuple[str, str], list[dict[str, str]]]:
    """What Telegram shows, by scope and language."""
    async with chain.control.get("/state") as response:
        entries = (await response.json())["commands"]
    return {(entry["scope"], entry["language_code"]): entry["commands"] for entry in entries}


def written(wanted: dict[str, Menu]) -> dict[tuple[str, str], list[dict[str, str]]]:
    return {
        (scope, language or ""): [one.model_dump(exclude_none=True) for one in commands]
        for scope, menu in wanted.items()
        for language, commands in menu.items()
    }


async def wait_for_menus(chain: Chain, of_users: dict[int, Menu]) -> None:
    """Wait until the standing ones, and those of these users, are all that is shown."""
    expected = written(STANDING | {chat_of(user): menu for user, menu in of_users.items()})
    async with asyncio.timeout(10):
        while await menus(chain) != expected:
            await asyncio.sleep(0.02)


async def changes(chain: Chain) -> int:
    """How often a menu was set or deleted."""
    return sum([len(await chain.calls(f"{way}MyCommands")) for way in ("set", "delete")])


async def restart(chain: Chain, admins: set[int]) -> None:
    """Let the gateway begin anew with these admins."""
    await chain.kill("gateway")
    chain.admins = frozenset(admins)
    await chain.start_gateway()


async def meet(chain: Chain, *users: int) -> None:
    """Each of these speaks to the bot and is answered."""
    for user in users:
        await chain.say("hello", user)
        await chain.wait_for_answers(1, user)


async def test_strangers_see_no_admins_commands(chain: Chain) -> None:
    """The menu of private chats is an ordinary bot's; that of groups has what works there."""
    await wait_for_menus(chain, {})

    private = {one["command"] for one in (await menus(chain))["all_private_chats", ""]}
    assert private == {
        "new", "stop", "retry", "settings", "export", "usage", "privacy", "forget", "help",
    }  # fmt: skip
    assert ("default", "") not in await menus(chain)


async def test_every_command_of_the_menu_works_in_groups(tmp_path: Path) -> None:
    """None of them is refused for being said there, as what is left out is."""
    refusals = ("Your settings are nobody else's", "Admins' commands work", "I do not know this")
    refused = set()
    async with serve(tmp_path) as gateway:
        for number, one in enumerate(ADMIN_MENU[None]):
            group = {"chat_id": GROUP_ID - number, "chat_kind": "supergroup"}
            update = message(number + 1, f"/{one.command}", **group)
            await gateway.inbox.accept(Batch(bot_id=1, updates=[update]))
            replies = await gateway.store.run(gateway.store.undelivered_replies)
            assert len(replies) == number + 1
            if replies[-1].text.startswith(refusals):
                refused.add(one.command)

    known = {one.command for one in GROUP_MENU[None]}
    assert refused == {one.command for one in ADMIN_MENU[None]} - known


async def test_admin_who_begins_to_write_gets_a_menu(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, Telegram knows no chat with them; others get none of their own, nor do groups."""
    caplog.set_level(logging.INFO)
    await chain.wait_for_calls("getMyCommands", 7)
    await wait_for_menus(chain, {})
    await say_in_group(chain, f"{BOT} hello")
    await meet(chain, 8)
    await wait_for_menus(chain, {})

    await meet(chain, USER)

    await wait_for_menus(chain, {USER: ADMIN_MENU})
    logged = [record for record in caplog.records if record.message == "menu waits for its user"]
    assert len(logged) == 1
    assert not {str(USER), "8"} & {str(value) for value in vars(logged[0]).values()}


async def test_former_admin_loses_the_menu(chain: Chain) -> None:
    """At once when the gateway has other ADMINS; who is made one again gets it back."""
    await meet(chain, USER, 8)
    await wait_for_menus(chain, {USER: ADMIN_MENU})

    await restart(chain, {8})
    await wait_for_menus(chain, {8: ADMIN_MENU})
    await restart(chain, {USER, 8})
    await wait_for_menus(chain, {USER: ADMIN_MENU, 8: ADMIN_MENU})


async def test_refused_menu_is_tried_again_with_the_next_stream(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever Telegram had against it: its user need not write first."""
    caplog.set_level(logging.INFO)
    await meet(chain, USER, 8)
    await wait_for_menus(chain, {USER: ADMIN_MENU})
    caplog.clear()
    fault = {"kind": "status", "method": "getMyCommands", "status": 400, "count": 1}
    await chain.post("/fault", fault)

    await restart(chain, {USER, 8})
    async with asyncio.timeout(10):
        while "menu waits for its user" not in caplog.messages:
            await asyncio.sleep(0.02)
    await wait_for_menus(chain, {USER: ADMIN_MENU})
    await restart(chain, {USER, 8})

    await wait_for_menus(chain, {USER: ADMIN_MENU, 8: ADMIN_MENU})


async def test_menu_is_taken_back_by_a_later_relay(chain: Chain) -> None:
    """The gateway remembers who has been an admin, whatever ends meanwhile."""
    await meet(chain, USER)
    await wait_for_menus(chain, {USER: ADMIN_MENU})

    await chain.kill("relay")
    await restart(chain, set())
    await restart(chain, set())
    await chain.start_relay()

    await wait_for_menus(chain, {})


async def test_menus_that_are_right_are_left_alone(chain: Chain) -> None:
    """A new stream asks nothing; a new relay looks at each menu once, and changes none."""
    await meet(chain, USER)
    await wait_for_menus(chain, {USER: ADMIN_MENU})
    made, looks = await changes(chain), len(await chain.calls("getMyCommands"))
    await restart(chain, {USER})
    await chain.say("again")
    await chain.wait_for_answers(2)
    assert len(await chain.calls("getMyCommands")) == looks

    await chain.kill("relay")
    await chain.start_relay()
    await chain.wait_for_calls("getMyCommands", looks + 8)
    await chain.say("once more")
    await chain.wait_for_answers(3)

    assert len(await chain.calls("getMyCommands")) == looks + 8
    assert await changes(chain) == made


async def test_menu_for_everywhere_of_an_earlier_version_is_deleted(chain: Chain) -> None:
    """It would be shown where no other menu is."""
    await chain.kill("relay")
    old = [BotCommand(command="old", description="Old").model_dump(exclude_none=True)]
    for language in ("", "ru"):
        body = {"commands": old, "language_code": language}
        await chain.ask_telegram("setMyCommands", body)

    await chain.start_relay()

    await wait_for_menus(chain, {})


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 502},
        {"kind": "lose_answer"},
        {"kind": "retry_after", "seconds": 1},
    ],
    ids=lambda fault: str(fault["kind"]),
)
@pytest.mark.parametrize("method", ["getMyCommands", "setMyCommands"])
async def test_passing_fault_costs_no_menu(
    chain: Chain, method: str, fault: dict[str, Any]
) -> None:
    """It is tried again until all are right."""
    await wait_for_menus(chain, {})
    await chain.post("/fault", fault | {"method": method})

    await meet(chain, USER)

    await wait_for_menus(chain, {USER: ADMIN_MENU})
    await chain.wait_until_hit()
