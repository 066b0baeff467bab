"""/heartbeat: what an admin can watch grow old, since a relay that is cut off cannot speak."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.engine import Engine
from services.gateway.heartbeat import RENEWAL_SECONDS
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import Preferences
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.gateway.watch import Watch
from services.wire import Batch, Reply
from tests.unit.fakes import USER, FakeEngine, message, open_store

ADMIN, OTHER_ADMIN = 1, 2
START = 1_700_000_000.0  # 22:13:20 UTC


@dataclass
class World:
    """A gateway whose clock is the test's, with a relay that shows what it is told to."""

    store: Store
    outbox: Outbox
    inbox: Inbox
    watch: Watch
    now: float = START
    updates: int = 0

    async def say(self, text: str, user: int = ADMIN, **changes: object) -> list[Reply]:
        self.updates += 1
        fields: dict[str, object] = {"user_id": user, "chat_id": user} | changes
        await self.inbox.accept(Batch(bot_id=1, updates=[message(self.updates, text, **fields)]))
        return await self.waiting()

    async def press(self, message_id: int, user: int = ADMIN) -> str:
        self.updates += 1
        update = message(
            self.updates,
            None,
            kind="press",
            press_id="1",
            press_data="heartbeat",
            user_id=user,
            chat_id=ADMIN,
            message_id=message_id,
        )
        return (await self.inbox.accept(Batch(bot_id=1, updates=[update]))).receipts[0].notice

    async def waiting(self) -> list[Reply]:
        replies = await self.store.run(self.store.undelivered_replies)
        assert {reply.id for reply in replies} == set(self.outbox._entries)
        return replies

    async def after(self, seconds: float) -> list[Reply]:
        self.now += seconds
        await self.watch.look()
        return await self.waiting()

    async def show(self, reply: Reply, message_id: int) -> None:
        """The reply stands in its chat."""
        await self.store.run(self.store.record_part, reply.id, 0, message_id)
        await self.store.run(self.store.drop_reply, reply.id, 1)
        self.outbox.forget(reply.id)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    async with open_store(tmp_path) as store:
        fake = FakeEngine()
        engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
        outbox, queue = Outbox(store, []), Queue()
        admins = (ADMIN, OTHER_ADMIN)
        watch = Watch(store, queue, outbox, engine, tmp_path, admins)
        access = Access(store, frozenset({*admins, USER}), frozenset(admins))
        inbox = Inbox(store, queue, outbox, access, Limits(9, 9, 9000), describe=watch.describe)
        world = World(store, outbox, inbox, watch)
        watch.clock = watch.wall = lambda: world.now
        monkeypatch.setattr("services.gateway.commands.time.time", lambda: world.now)
        outbox.is_connected = True
        yield world


@pytest.fixture
async def beating(world: World) -> World:
    """An admin's heartbeat stands in message 50, as of 22:13."""
    await world.watch.look()
    (reply,) = await world.say("/heartbeat")
    await world.show(reply, 50)
    return world


async def test_heartbeat_says_when_it_was_and_how_things_stand(world: World) -> None:
    """With a button that ends it."""
    (reply,) = await world.say("/heartbeat")

    assert reply.text.startswith("Alive at 2023-11-14 22:13 UTC. I renew this every 5 minutes")
    assert "Telegram: connected\nEngine: ready" in reply.text
    assert [(button.label, button.data) for button in reply.buttons] == [
        ("Renew no more", "heartbeat")
    ]


async def test_heartbeat_is_renewed_in_its_place(beating: World) -> None:
    """Again and again, in the language it was asked for in, and not before its time."""
    assert await beating.after(RENEWAL_SECONDS - 1) == []

    for time in ("22:18", "22:23", "22:28"):
        (reply,) = await beating.after(RENEWAL_SECONDS if time != "22:18" else 1)
        assert reply.text.startswith(f"Alive at 2023-11-14 {time} UTC")
        assert (reply.chat_id, reply.parts) == (ADMIN, (50,))
        assert [button.data for button in reply.buttons] == ["heartbeat"]
        await beating.show(reply, 50)


async def test_heartbeat_keeps_its_language(world: World) -> None:
    """That of the client, if its user has chosen none."""
    await world.watch.look()
    (reply,) = await world.say("/heartbeat", language="ru")
    assert reply.text.startswith("На связи в 2023-11-14 22:13 UTC")
    await world.show(reply, 50)

    (renewed,) = await world.after(RENEWAL_SECONDS)
    assert renewed.text.startswith("На связи в 2023-11-14 22:18 UTC")


async def test_nothing_piles_up_while_the_relay_is_away(beating: World) -> None:
    """It grows old, which is its purpose; when the relay is back, it is renewed at once."""
    beating.outbox.is_connected = False
    for _ in range(3):
        assert await beating.after(RENEWAL_SECONDS) == []

    beating.outbox.is_connected = True
    (reply,) = await beating.after(15)
    assert reply.text.startswith("Alive at 2023-11-14 22:28 UTC")

    (fresh,) = await beating.after(RENEWAL_SECONDS)
    assert fresh.text.startswith("Alive at 2023-11-14 22:33 UTC"), "what Telegram has not taken"
    assert fresh.parts == (50,)


async def test_heartbeat_ends_with_a_press(beating: World) -> None:
    """Of its admin alone."""
    assert await beating.press(50, OTHER_ADMIN) != ""
    assert await beating.waiting() == []

    await beating.press(50)

    (reply,) = await beating.waiting()
    assert (reply.text, reply.parts, reply.buttons) == (
        "Not renewed any more.", (50,), (),
    )  # fmt: skip
    await beating.show(reply, 50)
    assert await beating.after(RENEWAL_SECONDS) == []


async def test_heartbeat_ends_while_it_is_renewed(beating: World) -> None:
    """A press in that moment is not undone by what was on its way."""
    await beating.after(RENEWAL_SECONDS)

    await beating.press(50)

    (reply,) = await beating.waiting()
    assert reply.text.startswith("Not renewed any more")


async def test_another_heartbeat_replaces_the_first(beating: World) -> None:
    """One is enough to look at; that of another admin is theirs."""
    first, second = await beating.say("/heartbeat")
    assert (first.text[:11], first.parts) == ("Not renewed", (50,))
    assert second.text.startswith("Alive at")
    await beating.show(first, 50)
    await beating.show(second, 60)
    (other,) = await beating.say("/heartbeat", OTHER_ADMIN)
    await beating.show(other, 50)

    renewed = await beating.after(RENEWAL_SECONDS)
    assert [(reply.chat_id, reply.parts) for reply in renewed] == [
        (ADMIN, (60,)), (OTHER_ADMIN, (50,)),
    ]  # fmt: skip


async def test_heartbeat_of_who_is_no_admin_any_more_ends(beating: World) -> None:
    """It says so, instead of looking like a dead node."""
    beating.watch.admins = (OTHER_ADMIN,)

    (reply,) = await beating.after(RENEWAL_SECONDS)

    assert (reply.text[:11], reply.buttons) == ("Not renewed", ())
    await beating.show(reply, 50)
    assert await beating.after(RENEWAL_SECONDS) == []


async def test_heartbeat_is_for_admins(world: World) -> None:
    """To others the command does not exist, and in a group it does nothing."""
    (reply,) = await world.say("/heartbeat", USER)
    assert reply.buttons == ()
    *_, reply = await world.say("/heartbeat", chat_id=-5, chat_kind="group")
    assert "private chat" in reply.text


async def test_heartbeat_outlives_a_restart(beating: World, tmp_path: Path) -> None:
    """A gateway that has just started renews what stands there at its first look."""
    old = beating.watch
    beating.watch = Watch(
        old.store, old.queue, old.outbox, old.engine, tmp_path, old.admins, old.clock, old.wall
    )

    (reply,) = await beating.after(60)

    assert reply.text.startswith("Alive at 2023-11-14 22:14 UTC")


async def test_heartbeat_outlives_a_long_absence(beating: World) -> None:
    """Menus of days ago are forgotten; a heartbeat is renewed as soon as the relay is back."""
    beating.outbox.is_connected = False
    await beating.store.run(beating.store.forget_old, -1, 0, None)
    assert await beating.store.run(beating.store.menu, ADMIN, 50) is not None

    beating.outbox.is_connected = True
    (reply,) = await beating.after(2 * 86_400)

    assert reply.parts == (50,)


async def test_several_at_once_are_one(world: World) -> None:
    """An admin who asks again and again during an outage is shown one in the end."""
    for _ in range(3):
        replies = await world.say("/heartbeat")

    (reply,) = replies
    await world.show(reply, 50)
    assert len(await world.store.run(world.store.heartbeats)) == 1


async def test_one_that_is_asked_for_during_a_renewal_replaces_it(beating: World) -> None:
    """The renewal is on its way to the old message, which ends."""
    await beating.after(RENEWAL_SECONDS)

    ended, begun = await beating.say("/heartbeat")

    assert (ended.text, ended.parts) == ("Not renewed any more.", (50,))
    assert (begun.text[:8], begun.parts) == ("Alive at", ())
    assert len(await beating.store.run(beating.store.heartbeats)) == 1


async def test_heartbeat_that_can_never_be_shown_ends(beating: World) -> None:
    """An admin who has blocked the bot is not tried for ever."""
    (reply,) = await beating.after(RENEWAL_SECONDS)

    beating.outbox._epoch = 1
    await beating.outbox.drop(1, reply.id, is_shown=False)

    assert await beating.after(RENEWAL_SECONDS) == []


async def test_heartbeat_follows_a_choice_of_language(beating: World) -> None:
    """What its admin chooses in /settings holds from the next renewal on."""
    await beating.store.run(beating.store.save_preferences, ADMIN, Preferences(language="ru"))

    (reply,) = await beating.after(RENEWAL_SECONDS)

    assert reply.text.startswith("На связи в")
