"""Users choose a model by the name that the operator gives it, and see no other name of it."""

import asyncio
import logging

import pytest

from services.gateway.engine import EngineFailed
from tests.unit.chain.conftest import Chain
from tests.unit.chain.test_settings import choose, wait_for_menu
from tests.unit.fakes import until

pytestmark = pytest.mark.long

MODELS = {"Fast": "secret-8b", "Thorough": "secret-70b"}


async def offer(chain: Chain, models: dict[str, str]) -> None:
    """Restart the gateway as after a change of its settings."""
    await chain.kill("gateway")
    chain.models = models
    await chain.start_gateway()


async def choose_thorough(chain: Chain) -> None:
    await offer(chain, MODELS)
    await chain.say("/settings")
    await choose(chain, "model", "Thorough")
    await chain.wait_until_settled()


async def test_chosen_model_answers(chain: Chain) -> None:
    """The first one until another is chosen; the chat never shows the engine's names."""
    await offer(chain, MODELS)
    await chain.say("first")
    await chain.wait_for_answers(1)
    await chain.say("/settings")
    menu = await wait_for_menu(chain, "Settings")
    assert menu["text"].endswith("Model: Fast")
    await choose(chain, "model", "Thorough")

    await chain.say("second")
    await chain.wait_for_answers(3)

    assert chain.engine.models == ["secret-8b", "secret-70b"]
    async with chain.control.get("/record", params={"kind": "call"}) as response:
        assert "secret" not in await response.text()


async def test_nothing_to_choose_is_the_first_served(chain: Chain) -> None:
    """Without the setting the engine is asked for what it serves first."""
    await chain.say("first")
    await chain.wait_for_answers(1)

    assert chain.engine.models == [""]


async def test_model_that_is_offered_no_longer(chain: Chain) -> None:
    """Who has chosen it is answered by the first; its return brings the choice back."""
    await choose_thorough(chain)

    await offer(chain, {"Fast": "secret-8b", "New": "secret-1b"})
    await chain.say("first")
    await chain.wait_for_answers(2)
    await offer(chain, MODELS)
    await chain.say("second")
    await chain.wait_for_answers(3)

    assert chain.engine.models == ["secret-8b", "secret-70b"]


@pytest.mark.parametrize(
    ("absent", "asked"),
    [({"secret-70b"}, "secret-8b"), ({"secret-70b", "secret-8b"}, "")],
)
async def test_engine_without_the_model_answers_with_another(
    chain: Chain, caplog: pytest.LogCaptureFixture, absent: set[str], asked: str
) -> None:
    """With the first offered, else with what it serves; the operator is warned, without names."""
    await choose_thorough(chain)
    chain.engine.absent = absent

    with caplog.at_level(logging.WARNING):
        await chain.say("question")
        answers = await chain.wait_for_answers(2)

    assert answers[-1] == "fine"
    assert chain.engine.models == [asked]
    warnings = [record for record in caplog.records if record.message == "no such model"]
    assert len(warnings) == len(absent)
    assert all("MODELS" in record.__dict__["remedy"] for record in warnings)
    assert "secret" not in str([record.__dict__ for record in caplog.records])
    assert "secret" not in str(await chain.shown())


async def test_another_answer_is_the_newly_chosen_models(chain: Chain) -> None:
    """The button asks whoever is chosen when it is pressed, with the same question."""
    await offer(chain, MODELS)
    await chain.say("question")
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()
    (answer,) = await chain.shown()
    await chain.say("/settings")
    await choose(chain, "model", "Thorough")
    await chain.wait_until_settled()
    chain.engine.scripts.append(["better"])

    await chain.press(answer, "again:")
    await until(lambda: len(chain.engine.models) == 2, "the engine is asked anew")
    await chain.wait_until_settled()

    assert chain.engine.models == ["secret-8b", "secret-70b"]
    assert (await chain.answers())[0] == "better"


async def test_cut_answer_goes_on_with_the_model_that_is_there(chain: Chain) -> None:
    """A model that goes away in mid answer leaves its text to the next, which says the rest."""
    await choose_thorough(chain)
    held = asyncio.Event()
    chain.engine.scripts.extend([["one", held, EngineFailed()], [" two"]])
    await chain.say("count")
    await until(lambda: chain.engine.models, "the engine is asked")
    chain.engine.absent = {"secret-70b"}
    held.set()

    assert (await chain.wait_for_answers(2))[-1] == "one two"
    assert chain.engine.models == ["secret-70b", "secret-8b"]
