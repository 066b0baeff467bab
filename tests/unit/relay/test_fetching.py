"""One task for each document; whoever ends it may begin it anew at once."""

import asyncio
from typing import Any

from aiogram import Bot

from services.relay.fetching import MOST_FETCHES, Fetching
from services.relay.link import Link, LinkDown
from services.wire import Reply
from tests.unit.fakes import until

REPLY = Reply(id=4, chat_id=7, document="BQAC1")


class SlowTelegram:
    """Never answers, and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.waiting = 0

    async def __call__(self, _: Any) -> Any:
        self.asked += 1
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1


def fetching_from(telegram: SlowTelegram) -> Fetching:
    async def epoch(_: int) -> int:
        return 1

    bot: Bot = telegram  # type: ignore[assignment]  # all that is called of it
    link: Link = None  # type: ignore[assignment]  # nothing comes so far
    return Fetching(bot, link, epoch)


async def test_document_is_fetched_once() -> None:
    """However often its reply is seen."""
    telegram = SlowTelegram()
    fetching = fetching_from(telegram)

    for _ in range(3):
        fetching.begin(REPLY)
        await asyncio.sleep(0.01)

    assert telegram.asked == 1
    fetching.stop()
    await until(lambda: not telegram.waiting, "the task has ended")


async def test_end_makes_room_for_a_new_beginning() -> None:
    """In the same moment: a group that moves has its reply forgotten and opened anew."""
    telegram = SlowTelegram()
    fetching = fetching_from(telegram)
    fetching.begin(REPLY)
    await until(lambda: telegram.asked == 1, "it is begun")

    fetching.end(REPLY.id)
    fetching.begin(REPLY)

    await until(lambda: telegram.asked == 2, "it is begun anew")
    await until(lambda: telegram.waiting == 1, "the first has ended")
    fetching.begin(REPLY)
    await asyncio.sleep(0.01)
    assert telegram.asked == 2, "the second is still known"
    fetching.stop()
    await until(lambda: not telegram.waiting, "the tasks have ended")


async def test_next_of_an_album_may_be_named_early() -> None:
    """Before the one before it is known to be there; the end of its reply ends both."""
    telegram = SlowTelegram()
    fetching = fetching_from(telegram)

    fetching.begin(REPLY)
    fetching.begin(REPLY.model_copy(update={"document": "BQAC2"}))

    await until(lambda: telegram.waiting == 2, "both are fetched")
    fetching.end(REPLY.id)
    await until(lambda: not telegram.waiting, "both have ended")


async def test_what_cannot_be_taken_yet_keeps_no_place() -> None:
    """Recordings that wait for their server do not keep pictures from being brought."""
    brought: list[int] = []
    refused = asyncio.Event()

    class FullLink:
        async def bring(self, _epoch: int, reply_id: int, *_: Any) -> None:
            if reply_id <= MOST_FETCHES:
                if reply_id == MOST_FETCHES:
                    refused.set()
                raise LinkDown
            brought.append(reply_id)

    async def found(_: Any) -> dict[str, str]:
        return {"file_path": "x"}

    async def epoch(_: int) -> int:
        return 1

    bot: Any = found
    link: Any = FullLink()
    fetching = Fetching(bot, link, epoch)
    for number in range(1, MOST_FETCHES + 1):
        fetching.begin(REPLY.model_copy(update={"id": number}))
    await refused.wait()

    fetching.begin(REPLY.model_copy(update={"id": 9}))
    for _ in range(10):
        await asyncio.sleep(0)

    assert brought == [9], "it waits for no other"
    fetching.stop()
