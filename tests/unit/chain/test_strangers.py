"""Strangers get silence, and the other end hears how many there were."""

import pytest

from services.relay import inbox
from tests.unit.chain.conftest import Chain
from tests.unit.fakes import until

STRANGER = 4242


async def test_strangers_are_counted_at_the_other_end(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, gathered for a minute; nothing else of them arrives, and they see nothing."""
    await chain.say("hello", STRANGER)
    await until(lambda: sum(chain.strangers) == 1, "the first is reported")
    for _ in range(3):
        await chain.say("is anybody there?", STRANGER)
    await chain.say("hello")
    await chain.wait_for_answers(1)
    assert sum(chain.strangers) == 1, "it is gathered"

    monkeypatch.setattr(inbox, "REPORT_SECONDS", 0.0)
    await chain.say("and now?", STRANGER)

    await until(lambda: sum(chain.strangers) == 5, "the others are reported")
    assert await chain.shown(STRANGER) == []
    assert len(chain.engine.requests) == 1


async def test_strangers_are_counted_over_a_sleep(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be said while the other end was away is said afterwards."""
    monkeypatch.setattr(inbox, "REPORT_SECONDS", 0.0)
    await chain.say("hello")
    await chain.wait_for_answers(1)
    await chain.kill("gateway")
    await chain.say("hello?", STRANGER)
    await chain.say("are you there?", STRANGER)
    await chain.start_gateway()

    await chain.say("hello again")
    await chain.wait_for_answers(2)  # the stream is back
    await chain.say("one more look at Telegram")

    await until(lambda: sum(chain.strangers) == 2, "both are reported")
