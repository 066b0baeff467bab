"""The queue: in order within a chat, fair between users, never idle while somebody waits."""

import asyncio
from dataclasses import replace

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


async def test_user_who_comes_back_to_an_empty_queue_saves_up_no_credit() -> None:
    """Whoever was served last sets the level for those who come after."""
    queue = Queue()
    queue.put(ask(1, user=1, chat=11))
    running = await queue.next()
    queue.charge(1, answer_tokens=1000)
    queue.release(running)

    queue.put(ask(2, user=2, chat=20))
    first = await queue.next()
    queue.charge(2, answer_tokens=10)
    queue.put(ask(3, user=1, chat=12))
    queue.put(ask(4, user=2, chat=21))
    queue.release(first)

    assert (await queue.next()).ask.user_id == 1


async def test_weight_is_a_share_of_the_engine() -> None:
    """A user of weight 3 is given three tokens for each of the other's."""
    queue = Queue({1: 3.0})
    for number in range(40):
        queue.put(ask(100 + number, user=1, chat=1000 + number))
        queue.put(ask(200 + number, user=2, chat=2000 + number))

    served = {1: 0, 2: 0}
    for _ in range(40):
        running = await queue.next()
        served[running.ask.user_id] += 1
        queue.charge(running.ask.user_id, answer_tokens=100)
        queue.release(running)

    assert served == {1: 30, 2: 10}


async def test_ask_with_a_delay_is_served_when_it_is_over() -> None:
    """Nor before, nor is its chat's next one; other chats do not wait for it."""
    queue = Queue()
    queue.put(ask(1, user=1), delay_seconds=0.1)
    queue.put(ask(2, user=1))
    queue.put(ask(3, user=2))

    order = []
    for _ in range(3):
        running = await queue.next()
        order.append(running.ask.id)
        queue.release(running)

    assert order == [3, 1, 2]


async def test_order_of_waiting_asks_is_the_order_in_which_they_are_served() -> None:
    """What users are told about their places comes true, if asks cost about the same."""
    queue = Queue({3: 2.0})
    for number in range(1, 13):
        queue.put(ask(number, user=1 + number % 3, chat=100 + number % 5))
    running = await queue.next()
    promised = [ask.id for ask in queue.waiting()]
    queue.charge(running.ask.user_id, answer_tokens=300)
    queue.release(running)

    served = []
    while queue.waiting():
        running = await queue.next()
        served.append(running.ask.id)
        queue.charge(running.ask.user_id, answer_tokens=300)
        queue.release(running)

    assert sorted(served) == sorted(promised)
    assert served[:3] == promised[:3]


async def test_priority_is_the_lead_over_the_least_served() -> None:
    """The engine, too, learns who has had most; lower goes first."""
    queue = Queue()
    queue.put(ask(1, user=1))
    queue.put(ask(2, user=2))
    queue.charge(1, answer_tokens=50)

    assert queue.priority(1) == 100
    assert queue.priority(2) == 0


async def test_ask_that_lacks_its_document_is_not_in_line() -> None:
    """It keeps its chat's order and nobody else's; with its document it has its turn."""
    queue = Queue()
    lacking = replace(ask(1, user=7), lacks_document=True)
    queue.put(lacking)
    queue.put(ask(2, user=7))
    queue.put(ask(3, user=7, chat=70))
    queue.put(ask(4, user=8))

    assert [waiting.id for waiting in queue.waiting()] == [3, 4]
    assert queue.waiting_ids == [3, 4]
    taken = [(await queue.next()).ask.id for _ in range(2)]
    assert sorted(taken) == [3, 4]

    queue.put(replace(lacking, lacks_document=False))
    assert [waiting.id for waiting in queue.waiting()] == [1, 2]
    assert (await queue.next()).ask.id == 1


async def test_ask_that_lacks_something_again_keeps_its_place() -> None:
    """It was taken when one more of its album came: what came after it still waits for it."""
    queue = Queue()
    queue.put(ask(1, user=7))
    queue.put(ask(2, user=7))
    first = await queue.next()

    queue.release(first, replace(first.ask, lacks_document=True))

    taking = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    assert not taking.done()
    queue.put(replace(first.ask, lacks_document=False))
    assert (await taking).ask.id == 1
