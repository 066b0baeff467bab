"""What Telegram shows of the bot: set by the relay when it starts, and left alone when right."""

from typing import Any

import pytest

from tests.unit.chain.conftest import Chain


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
