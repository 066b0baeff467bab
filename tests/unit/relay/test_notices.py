"""A waiting chat hears what it must know, and no more; nothing is kept longer than it waits."""

import asyncio

import pytest

from services.relay import decorations
from services.relay.notices import Notices
from services.relay.pacing import Pacing
from services.relay.texts import say
from services.wire import Update
from tests.unit.fakes import message, until
from tests.unit.relay.scripted import ScriptedTelegram, refusal

MINUTE, HOUR, DAY = 60, 3600, 24 * 3600
BEGIN = 1_700_000_000
ASLEEP, STILL_ASLEEP = say("asleep", "en"), say("still asleep", "en")


class Night:
    """One sleep: a queue at Telegram that forgets after a day, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decorations, "PAUSE_SECONDS", 0.0)
        self.now = float(BEGIN)
        self.waiting: list[Update] = []
        self.telegram = ScriptedTelegram()
        self.notices = self.new_relay()

    def new_relay(self) -> Notices:
        return Notices(self.telegram.bot, Pacing(), clock=lambda: self.now)

    def write(self, **fields: object) -> Update:
        number = 1 + len(self.waiting)
        update = message(number, "x", **{"sent_at": int(self.now), **fields})
        self.waiting.append(Update.model_validate(update))
        return self.waiting[-1]

    async def look(self) -> None:
        """Let the relay look at the queue once, and do all that it then has to do."""
        self.notices.tell([u for u in self.waiting if u.sent_at > self.now - DAY])
        await self.quiet()

    async def quiet(self) -> None:
        queue = self.notices._decorations
        await until(
            lambda: not self.notices._tasks and (not queue._task or queue._task.done()),
            "the notices are quiet",
        )

    def said(self) -> list[str]:
        return [call["text"] for name, call in self.telegram.calls if name == "sendMessage"]


@pytest.fixture
async def night(monkeypatch: pytest.MonkeyPatch) -> Night:
    return Night(monkeypatch)


async def test_many_messages_of_one_evening_are_warned_of_once(night: Night) -> None:
    """When the oldest is lost, the next ones do not each bring the same words again."""
    for _ in range(30):
        night.write()
        night.now += MINUTE
        await night.look()
    assert night.said() == [ASLEEP]

    while night.now < BEGIN + 26 * HOUR:
        night.now += MINUTE * 5
        await night.look()

    assert night.said() == [ASLEEP, STILL_ASLEEP]


async def test_message_written_after_a_warning_gets_its_own(night: Night) -> None:
    """A later message is warned of when it is 20 hours old itself, by any relay."""
    night.write()
    night.now += 20 * HOUR + 1
    await night.look()
    night.write()

    for _ in range(48):
        night.now += HOUR / 2
        night.notices = night.new_relay()
        await night.look()

    assert night.said() == [STILL_ASLEEP, ASLEEP, STILL_ASLEEP]


async def test_edit_waits_since_it_was_made(night: Night) -> None:
    """An edit of a message of last week is no day old."""
    night.write(kind="edit", sent_at=int(night.now), edited_at=int(night.now) + 60)
    night.now += 20 * HOUR
    await night.look()

    assert night.said() == [ASLEEP]


async def test_nothing_is_kept_of_what_does_not_wait(night: Night) -> None:
    """When all has been accepted, nothing is left of it, and its decorations have been undone."""
    updates = [night.write(chat_id=chat, user_id=chat) for chat in (7, 8, 7)]
    updates.append(night.write(kind="press", press_id="p"))
    await night.look()
    assert night.said() == [ASLEEP, ASLEEP]
    assert night.notices.has_answered(updates[3])

    night.notices.clear(updates)
    await night.quiet()

    kept = {name: value for name, value in vars(night.notices).items() if name in KEPT and value}
    assert kept == {}
    assert [name for name, _ in night.telegram.calls].count("deleteMessage") == 2
    reactions = [c["reaction"] for n, c in night.telegram.calls if n == "setMessageReaction"]
    assert [len(reaction) for reaction in reactions] == [1, 1, 1, 0, 0, 0]


KEPT = {"_waiting", "_answered", "_reacted", "_markers", "_unwritten", "_sent", "_tasks"}


async def test_shorter_look_forgets_nothing(night: Night) -> None:
    """Telegram may show one update only: what stands behind it waits still."""
    first, second = night.write(), night.write(kind="press", press_id="p")
    await night.look()

    night.notices.tell([first])
    await night.quiet()

    assert night.notices.has_answered(second)
    assert night.said() == [ASLEEP]


async def test_notice_that_comes_too_late_is_taken_back(night: Night) -> None:
    """If the message is accepted while its notice is being sent, the notice goes at once."""
    update = night.write()
    night.telegram.held["sendMessage"] = held = asyncio.Event()
    night.notices.tell([update])
    await until(lambda: night.telegram.count("sendMessage"), "the notice is being sent")

    night.notices.clear([update])
    held.set()
    await night.quiet()

    assert night.telegram.count("deleteMessage") == 1


async def test_chat_that_must_wait_holds_up_no_other(night: Night) -> None:
    """What Telegram says about one chat's pace delays that chat alone, in full."""
    night.write()
    night.telegram.answers["sendMessage"] = refusal(
        429, "Too Many Requests: retry after 30", retry_after=30
    )
    await night.look()
    del night.telegram.answers["sendMessage"]
    night.write(chat_id=8, user_id=8)
    before = night.telegram.count("sendMessage")

    night.notices.tell(night.waiting)
    await until(lambda: night.telegram.count("sendMessage") == before + 1, "the other is told")

    assert [c["chat_id"] for n, c in night.telegram.calls if n == "sendMessage"] == [7, 8]
    night.notices.stop()
