"""The relay keeps to Telegram's budgets and to what Telegram says about waiting."""

import asyncio

from services.relay.pacing import CHAT_BURST, CHAT_PER_SECOND, Pacing


async def seconds(work: object) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await work  # type: ignore[misc]  # any awaitable
    return loop.time() - before


async def test_burst_then_steady_pace() -> None:
    """A short burst is free; after it a chat gets its rate and no more."""
    pacing = Pacing()

    async def calls(count: int) -> None:
        for _ in range(count):
            await pacing.turn(7, urgent=True)

    assert await seconds(calls(int(CHAT_BURST))) < 0.1
    assert await seconds(calls(1)) > 0.8 / CHAT_PER_SECOND


async def test_streaming_leaves_room_for_what_is_urgent() -> None:
    """However much streams, a final text finds room at once."""
    pacing = Pacing()
    await pacing.turn(7, urgent=True)  # the placeholder
    await pacing.turn(7, urgent=False)
    streaming = asyncio.create_task(pacing.turn(7, urgent=False))
    await asyncio.sleep(0)

    assert await seconds(pacing.turn(7, urgent=True)) < 0.1

    assert not streaming.done()
    streaming.cancel()


async def test_chats_do_not_slow_each_other() -> None:
    """One chat that has used up its budget leaves another's alone."""
    pacing = Pacing()
    for _ in range(int(CHAT_BURST)):
        await pacing.turn(7, urgent=True)

    assert await seconds(pacing.turn(8, urgent=True)) < 0.1


async def test_one_typing_is_shown_in_a_chat() -> None:
    """However many replies of a chat wait; other chats have their own."""
    pacing = Pacing()

    shown = [pacing.may_type(chat_id) for chat_id in (7, 7, 8, 7)]

    assert shown == [True, False, True, False]


async def test_retry_after_is_obeyed_in_full() -> None:
    """When Telegram says wait, nothing goes to that chat before, urgent or not."""
    pacing = Pacing()
    pacing.obey(7, 0.5)

    assert await seconds(pacing.turn(7, urgent=True)) >= 0.5


async def test_many_growing_chats_starve_nobody() -> None:
    """With more chats than the total allows, all take turns, and a final text waits little."""
    pacing = Pacing()
    served: set[int] = set()

    async def grow(chat_id: int) -> None:
        while True:
            await pacing.turn(chat_id, urgent=False)
            served.add(chat_id)

    chats = [asyncio.create_task(grow(number)) for number in range(60)]
    for _ in range(3):
        await asyncio.sleep(0.3)
        assert await seconds(pacing.turn(1000 + len(served), urgent=True)) < 1.0
    while len(served) < 60:
        await asyncio.sleep(0.05)
    for chat in chats:
        chat.cancel()


def test_group_stays_below_twenty_in_any_minute() -> None:
    """However much is to be said in a group, no minute sees more than Telegram allows."""
    group = Pacing()._chat(-5, 0.0)
    times: list[float] = []
    while not times or times[-1] < 300:
        now = times[-1] if times else 0.0
        times.append(now + group.every.book(now))

    for first in times:
        assert len([at for at in times if first <= at < first + 60]) < 20


async def test_group_leaves_room_for_what_is_urgent() -> None:
    """A growing answer in a group is shown now and then; placeholders and finals find room."""
    pacing = Pacing()
    await pacing.turn(-5, urgent=True)  # the placeholder
    await pacing.turn(-5, urgent=False)
    streaming = asyncio.create_task(pacing.turn(-5, urgent=False))
    await asyncio.sleep(0)

    assert await seconds(pacing.turn(-5, urgent=True)) < 0.1
    assert await seconds(pacing.turn(-5, urgent=True)) < 0.1

    assert not streaming.done()
    streaming.cancel()


def test_growing_texts_never_use_a_group_up() -> None:
    """What streams takes less than the group's pace, so that a final text waits little, always."""
    group = Pacing()._chat(-5, 0.0)
    now = 0.0
    while now < 600:
        now += group.growing.book(now)
        assert group.every.book(now) == 0

    assert group.every.book(now) == 0
