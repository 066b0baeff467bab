"""The queue: in order within a chat, fair between users, never idle while somebody waits."""

import asyncio

from services.gateway.queue import Queue
from services.gateway.store import Ask
from tests.unit.fakes import until


def ask(number: int, user: int, chat: int | None = None) -> Ask:
    return Ask(number, number, user, chat or user, 0, number, 0, "en", "waiting", 0.0)


async def test_asks_of_one_chat_come_in_order_and_one_at_a_time() -> None:
    """The second ask of a chat is served only when the first is answered."""
    queue = Queue()
    queue.put(ask(1, user=7))
    queue.put(ask(2, user=7))

    first = await queue.next()
    second = asyncio.create_task(queue.next())
    await asyncio.sleep(0)

    assert first.ask.id == 1
    assert not second.done()
    queue.release(first)
    assert (await second).ask.id == 2


async def test_light_user_overtakes_a_heavy_one() -> None:
    """Whoever has been given fewer tokens is served first, however many asks the other has."""
    queue = Queue()
    for number in range(1, 6):
        queue.put(ask(number, user=1, chat=number))
    heavy = await queue.next()
    queue.charge(1, prompt_tokens=10, answer_tokens=500)
    queue.put(ask(10, user=2, chat=100))
    queue.release(heavy)

    served = await queue.next()

    assert served.ask.user_id == 2


async def test_idle_user_saves_up_no_credit() -> None:
    """Who comes back is lifted to the others: their turns alternate from then on."""
    queue = Queue()
    queue.put(ask(1, user=1, chat=11))
    running = await queue.next()
    queue.charge(1, answer_tokens=10_000)
    for number in range(2, 6):
        queue.put(ask(number, user=1, chat=10 + number))
    for number in range(12, 16):
        queue.put(ask(number, user=2, chat=100 + number))
    queue.release(running)

    order = []
    for _ in range(6):
        taken = await queue.next()
        order.append(taken.ask.user_id)
        queue.charge(taken.ask.user_id, answer_tokens=50)
        queue.release(taken)

    assert sorted(order[:2]) == [1, 2]
    assert order.count(1) == order.count(2) == 3


async def test_withdrawn_ask_is_never_served() -> None:
    """An ask that was stopped before its turn is gone; the next one is served."""
    queue = Queue()
    queue.put(ask(1, user=1))
    queue.put(ask(2, user=2))

    queue.withdraw(1)

    assert (await queue.next()).ask.id == 2
    assert queue.waiting() == []


async def test_abandoned_reply_stops_its_ask() -> None:
    """When a reply can never be shown, its ask is stopped, waiting or running."""
    queue = Queue()
    queue.put(ask(1, user=1))
    running = await queue.next()
    queue.put(ask(2, user=2))

    queue.abandon(1)
    queue.abandon(2)

    assert running.stopped.is_set()
    assert queue.waiting() == []


async def test_running_ask_learns_that_it_is_stopped() -> None:
    """Stopping an ask that is being answered sets its event."""
    queue = Queue()
    queue.put(ask(1, user=1))
    running = await queue.next()

    queue.stop(1)

    await until(running.stopped.is_set, "the ask is stopped")
