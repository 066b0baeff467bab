"""What one user may have in a day and in a minute, and when there is more."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.gateway import limits as limits_module
from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store, StoreError, Usage
from services.wire import Batch
from tests.unit.fakes import USER, message, open_store

OTHER = 8
NOON = 1_700_049_600 // 86_400 * 86_400 + 43_200
ROOMY: dict[str, Any] = {"user_asks": 9, "total_asks": 99, "ask_tokens": 500}


@dataclass
class Gateway:
    store: Store
    queue: Queue = field(default_factory=Queue)
    sent: int = 0

    def limit(self, **limits: int) -> Inbox:
        access = Access(self.store, frozenset({USER, OTHER}))
        return Inbox(
            self.store, self.queue, Outbox(self.store, []), access, Limits(**ROOMY | limits)
        )

    async def say(self, inbox: Inbox, text: str, **changes: Any) -> str:
        """Let a user write; how it was taken."""
        self.sent += 1
        batch = Batch(bot_id=1, updates=[message(self.sent, text, **changes)])
        return (await inbox.accept(batch)).receipts[0].outcome

    async def last_reply(self) -> str:
        return (await self.store.run(self.store.undelivered_replies))[-1].text

    async def answer_all(self, tokens: int = 10) -> None:
        for ask in await self.store.run(self.store.asks):
            spent = Usage(prompt_tokens=tokens // 2, answer_tokens=tokens - tokens // 2)
            await self.store.run(self.store.finish_ask, ask, "yes", "yes", spent)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with open_store(tmp_path) as store:
        yield Gateway(store)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def time() -> float:
            return float(NOON + 61)

    monkeypatch.setattr(limits_module, "time", Clock)


async def test_day_has_so_many_answers(gateway: Gateway, noon: None) -> None:
    """What waits counts as well as what was answered; who is over is told when there is more."""
    inbox = gateway.limit(daily_asks=3)
    await gateway.say(inbox, "one")
    await gateway.say(inbox, "two")
    await gateway.answer_all()
    assert await gateway.say(inbox, "three") == "accepted"

    assert await gateway.say(inbox, "four") == "refused"

    assert await gateway.last_reply() == (
        "You have had the 3 answers of today. The next day begins in 11 h 59 min, at midnight UTC."
    )
    assert await gateway.say(inbox, "mine", user_id=OTHER, chat_id=OTHER) == "accepted"


async def test_day_has_so_many_tokens(gateway: Gateway) -> None:
    """The ask that passes the limit is still answered: its length is not known before."""
    inbox = gateway.limit(daily_tokens=100)
    await gateway.say(inbox, "one")
    await gateway.answer_all(99)
    assert await gateway.say(inbox, "two") == "accepted"
    await gateway.answer_all(99)

    assert await gateway.say(inbox, "three") == "refused"

    assert (await gateway.last_reply()).startswith("You have used the 100 tokens of today.")


async def test_next_day_is_another(gateway: Gateway) -> None:
    """Usage of yesterday is yesterday's."""
    inbox = gateway.limit(daily_asks=1)
    await gateway.say(inbox, "one")
    await gateway.answer_all()
    assert await gateway.say(inbox, "two") == "refused"

    def a_day_passes() -> None:
        gateway.store._db.execute("UPDATE usage SET day = date('now', '-1 day')")

    await gateway.store.run(a_day_passes)

    assert await gateway.say(inbox, "three") == "accepted"


async def test_commands_have_no_daily_limit(gateway: Gateway) -> None:
    """Who has used up the day can still ask how much, and stop or forget."""
    inbox = gateway.limit(daily_asks=1)
    await gateway.say(inbox, "one")
    await gateway.answer_all()

    assert await gateway.say(inbox, "/usage") == "accepted"

    assert (await gateway.last_reply()).startswith("In the last 30 days: questions 1")


async def test_minute_has_so_many_messages(gateway: Gateway) -> None:
    """By the time at which they were written; a minute later there is room again."""
    inbox = gateway.limit(minute_asks=2)
    now = int(time.time())
    assert await gateway.say(inbox, "one", sent_at=now) == "accepted"
    assert await gateway.say(inbox, "two", sent_at=now + 30) == "accepted"

    assert await gateway.say(inbox, "three", sent_at=now + 59) == "refused"
    assert await gateway.last_reply() == (
        "That is more than 2 messages in a minute. Please wait a moment."
    )
    assert await gateway.say(inbox, "mine", user_id=OTHER, chat_id=OTHER, sent_at=now) == "accepted"

    assert await gateway.say(inbox, "four", sent_at=now + 61) == "accepted"
    assert await gateway.say(inbox, "five", sent_at=now + 62) == "refused"


async def test_what_piled_up_was_not_written_in_haste(gateway: Gateway) -> None:
    """Messages of a long absence come in one batch, and are all answered."""
    inbox = gateway.limit(minute_asks=2)
    now = int(time.time())
    batch = [message(n, f"message {n}", sent_at=now + 120 * n) for n in range(8)]

    receipts = (await inbox.accept(Batch(bot_id=1, updates=batch))).receipts

    assert [receipt.outcome for receipt in receipts] == ["accepted"] * 8


async def test_message_that_the_disk_did_not_take_counts_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes again, and is no second one."""
    inbox = gateway.limit(minute_asks=1)
    batch = Batch(bot_id=1, updates=[message(1, "one", sent_at=100)])

    def is_full(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store, "add_ask", is_full)
        with pytest.raises(StoreError):
            await inbox.accept(batch)

    assert [r.outcome for r in (await inbox.accept(batch)).receipts] == ["accepted"]


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, ""),
        ({"daily_asks": 3}, "Left today: questions 2."),
        ({"daily_tokens": 25}, "Left today: tokens 15."),
        ({"daily_asks": 1, "daily_tokens": 5}, "Left today: questions 0, tokens 0."),
    ],
)
async def test_usage_says_what_is_left(
    gateway: Gateway, noon: None, limits: dict[str, int], left: str
) -> None:
    """Of what is limited, and when there is more."""
    inbox = gateway.limit(**limits)
    await gateway.say(inbox, "one")
    await gateway.answer_all()

    await gateway.say(inbox, "/usage")

    used, _, rest = (await gateway.last_reply()).partition("\n")
    assert "questions 1, tokens read 5, tokens written 5" in used
    assert rest == (f"{left} The next day begins in 11 h 59 min." if left else "")
