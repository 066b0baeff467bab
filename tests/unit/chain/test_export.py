"""A file arrives once, whatever ends in the middle of it."""

from typing import Any

import pytest

from tests.unit.chain.conftest import Chain
from tests.unit.fakes import USER

pytestmark = pytest.mark.long


async def converse(chain: Chain) -> None:
    chain.engine.scripts.append(["A bird."])
    await chain.say("What flies?")
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()


async def test_export_arrives_as_a_file(chain: Chain) -> None:
    """The placeholder becomes the file, with its caption; no second message is sent."""
    await converse(chain)

    await chain.say("/export")
    message = await chain.wait_for_only("document")

    document = message["extra"]["document"]
    assert document["file_name"] == "conversation.md"
    assert message["text"] == "Our conversation, as I remember it (file 1 of 1)."
    assert len(await chain.calls("sendMessage")) == 2
    size = document["file_size"]
    assert size == len("## You, 2026-01-01 00:00 UTC\n\nWhat flies?\n\n") + len(
        "## I, 2026-01-01 00:00 UTC\n\nA bird.\n\n"
    )


@pytest.mark.parametrize("victim", ["relay", "gateway"])
async def test_death_in_the_middle_leaves_one_file(chain: Chain, victim: str) -> None:
    """The next one goes on in the same message."""
    await converse(chain)
    await chain.post("/fault", {"kind": "hang", "method": "editMessageMedia", "seconds": 2})
    await chain.say("/export")
    await chain.wait_for_calls("sendMessage", 2)
    await chain.wait_until_hit()

    await chain.kill(victim)
    await (chain.start_relay() if victim == "relay" else chain.start_gateway())

    await chain.wait_for_only("document")
    assert len(await chain.calls("sendMessage")) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 502},
        {"kind": "reset"},
        {"kind": "lose_answer"},
        {"kind": "retry_after", "seconds": 1},
    ],
    ids=lambda fault: str(fault["kind"]),
)
async def test_passing_fault_costs_nothing(chain: Chain, fault: dict[str, Any]) -> None:
    """It is uploaded again, into the same message."""
    await converse(chain)
    await chain.post("/fault", {**fault, "method": "editMessageMedia"})

    await chain.say("/export")

    await chain.wait_for_only("document")
    await chain.wait_until_hit()
    assert len(await chain.calls("sendMessage")) == 2


async def test_file_that_telegram_refuses_goes_as_text(chain: Chain) -> None:
    """An older Bot API server cannot turn text into a file: then it is read in the chat."""
    await converse(chain)
    refusal = {"kind": "status", "status": 400, "count": None, "method": "editMessageMedia"}
    await chain.post(
        "/fault", refusal | {"description": "Bad Request: there is no media in the message"}
    )

    await chain.say("/export")
    texts = await chain.wait_for_answers(2)
    await chain.wait_until_settled()

    assert "What flies?" in texts[1]
    assert "A bird." in texts[1]
    assert len(await chain.calls("editMessageMedia")) == 1


async def test_file_that_was_erased_leaves_its_caption(chain: Chain) -> None:
    """/forget is quicker than the upload: the message ends, and holds nothing."""
    await converse(chain)
    await chain.say("/forget")
    await chain.wait_for_answers(2)
    await chain.wait_until_settled()
    question = (await chain.shown())[1]
    await chain.kill("relay")
    await chain.say("/export")
    await chain.press(question, "forget")
    await chain.start_relay()

    await chain.wait_for_answers(3, USER)
    await chain.wait_until_settled()

    assert (await chain.answers())[1:] == [
        "I have erased all that we said here. Delete the chat in Telegram, too.",
        "Our conversation, as I remember it (file 1 of 1).",
    ]
    assert await chain.carrying("document") == []
    assert await chain.calls("editMessageMedia") == []
