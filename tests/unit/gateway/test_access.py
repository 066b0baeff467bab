"""Admins let users in and out; nobody else can, and the relay learns of it at once."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Piece, Store, Usage
from services.wire import Batch, Guests, Hello, digest_of
from tests.unit.fakes import USER, message, open_store

ADMIN = 1
GUEST = 555
CONFIGURED = frozenset({ADMIN, USER})


@dataclass
class Gateway:
    store: Store
    outbox: Outbox
    inbox: Inbox
    updates: int = 0

    async def say(self, text: str, user: int = ADMIN) -> tuple[str, str]:
        """The outcome of a message, and the newest reply."""
        self.updates += 1
        update = message(self.updates, text, user_id=user, chat_id=user)
        receipts = await self.inbox.accept(Batch(bot_id=1, updates=[update]))
        replies = await self.store.run(self.store.undelivered_replies)
        return receipts.receipts[0].outcome, replies[-1].text if replies else ""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with open_store(tmp_path) as store:
        outbox = Outbox(store, [])
        access = Access(store, CONFIGURED, frozenset({ADMIN}))
        yield Gateway(store, outbox, Inbox(store, Queue(), outbox, access, Limits(9, 9, 9000)))


async def test_guest_is_served_from_the_next_update_on(gateway: Gateway) -> None:
    """/allow takes effect at once, and is taken back by /deny."""
    assert (await gateway.say("hello", GUEST))[0] == "refused"

    assert await gateway.say(f"/allow {GUEST}") == ("accepted", "User 555 may talk to me now.")
    assert (await gateway.say("hello", GUEST))[0] == "accepted"
    await gateway.say(f"/deny {GUEST}")
    assert (await gateway.say("hello again", GUEST))[0] == "refused"


@pytest.mark.parametrize("text", [f"/allow {GUEST}", f"/deny {USER}"])
async def test_nobody_else_lets_users_in(gateway: Gateway, text: str) -> None:
    """To who is no admin the commands do not exist."""
    _, reply = await gateway.say(text, USER)

    assert reply.startswith("I do not know this command")
    assert await gateway.store.run(gateway.store.guests) == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("/allow", "Say whom"),
        ("/allow me", "Say whom"),
        ("/allow 0", "Say whom"),
        ("/allow 1 2", "Say whom"),
        (f"/allow {USER}", "This user stands in the configuration"),
        (f"/deny {USER}", "This user stands in the configuration"),
        ("/deny 9", "This user was not let in"),
    ],
)
async def test_odd_requests_change_nothing(gateway: Gateway, text: str, sentence: str) -> None:
    """Each gets a sentence that says what is the matter."""
    _, reply = await gateway.say(text)

    assert reply.startswith(sentence)
    assert await gateway.store.run(gateway.store.guests) == ()


async def test_relay_learns_the_guests(gateway: Gateway) -> None:
    """With its greeting, and with each change while it listens."""
    await gateway.say(f"/allow {GUEST}")
    stream = gateway.outbox.stream()
    hello = await anext(stream)
    await anext(stream)  # the reply to /allow

    await gateway.say("/allow 556")
    news = await anext(stream)

    assert isinstance(hello, Hello)
    assert (hello.guests, news) == ((GUEST,), Guests(users=(GUEST, 556)))


async def test_usage_is_told_to_its_user_alone(gateway: Gateway) -> None:
    """/usage sums up what this user has used, and never shows another's."""
    store = gateway.store
    for user, cost in ((USER, Usage(100, 20, 3000)), (USER, Usage(1, 2, 0)), (8, Usage(7, 7, 7))):
        reply = await store.run(store.add_reply, (user, 0), 1)
        ask = await store.run(store.add_ask, reply.id, user, (user, 0), "en", [Piece(1, "x", 0)])
        await store.run(store.finish_ask, ask, "y", "y", cost)

    _, reply_text = await gateway.say("/usage", USER)

    assert reply_text == (
        "In the last 30 days: questions 2, tokens read 101, tokens written 22, time 3 s."
    )


async def test_help_tells_admins_what_only_they_can_do(gateway: Gateway) -> None:
    """Nobody else is told that there is more."""
    assert "/allow" in (await gateway.say("/help"))[1]
    assert "/allow" not in (await gateway.say("/help", USER))[1]


@pytest.mark.parametrize(
    "text", ["/users", "/status", "/heartbeat", "/broadcast hi", "/pause", "/resume"]
)
async def test_admins_commands_are_theirs_and_private(gateway: Gateway, text: str) -> None:
    """Others do not know them, and in a group they would show who else is a user."""
    _, reply = await gateway.say(text, USER)
    assert reply.startswith("I do not know this command")

    update = message(99, text, user_id=ADMIN, chat_id=-5, chat_kind="group")
    await gateway.inbox.accept(Batch(bot_id=1, updates=[update]))

    *_, in_group = await gateway.store.run(gateway.store.undelivered_replies)
    assert (in_group.chat_id, in_group.text) == (
        -5, "Admins' commands work in a private chat with me only.",
    )  # fmt: skip
    assert not await gateway.store.run(gateway.store.is_paused)


async def test_users_are_listed_with_what_they_have_used(gateway: Gateway) -> None:
    """Everybody who may talk, by role; numbers alone."""
    await gateway.say(f"/allow {GUEST}")
    store = gateway.store
    for cost in (Usage(100, 20, 3000), Usage(1, 2, 0)):
        reply = await store.run(store.add_reply, (USER, 0), 1)
        ask = await store.run(store.add_ask, reply.id, USER, (USER, 0), "en", [Piece(1, "x", 0)])
        await store.run(store.finish_ask, ask, "y", "y", cost)

    _, reply_text = await gateway.say("/users")

    assert reply_text == (
        "Users, last 30 days:\n\n"
        "1 (admin): questions 0, tokens 0\n"
        "7 (in the configuration): questions 2, tokens 123\n"
        "555 (let in by an admin): questions 0, tokens 0"
    )


async def test_broadcast_reaches_everybody_else(gateway: Gateway) -> None:
    """Once each, in their private chats; the admin is told how many they are."""
    await gateway.say(f"/allow {GUEST}")
    for reply in await gateway.store.run(gateway.store.undelivered_replies):
        await gateway.store.run(gateway.store.drop_reply, reply.id)

    _, said = await gateway.say("/broadcast Maintenance at ten.\nBack at noon.")

    replies = await gateway.store.run(gateway.store.undelivered_replies)
    news = [(r.chat_id, r.text) for r in replies if r.chat_id != ADMIN]
    assert news == [(user, "Maintenance at ten.\nBack at noon.") for user in (USER, GUEST)]
    assert said == "It goes out to 2 users."
    assert (await gateway.say("/broadcast"))[1].startswith("Write after /broadcast")
    assert (await gateway.say("/broadcast " + "x" * 2100))[1].startswith("This message is too long")


async def test_pause_lasts_until_resume(gateway: Gateway) -> None:
    """Questions are taken and wait; also over a restart, since it is in the store."""
    assert (await gateway.say("/pause"))[1] == "Questions wait until /resume."
    assert await gateway.store.run(gateway.store.is_paused)
    assert (await gateway.say("question", USER))[0] == "accepted"
    queue = gateway.inbox._queue
    taken = asyncio.create_task(queue.next())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(taken), 0.1)

    assert (await gateway.say("/resume"))[1] == "Questions are answered again."

    assert (await asyncio.wait_for(taken, 1)).ask.text == "question"
    assert not await gateway.store.run(gateway.store.is_paused)


async def test_invitation_dies_with_its_admins_rights(gateway: Gateway) -> None:
    """Who may let nobody in any more has invited nobody."""
    store = gateway.store
    code = await store.run(Access(store, CONFIGURED, frozenset({ADMIN})).invite, ADMIN)

    assert await store.run(Access(store, CONFIGURED).admit, GUEST, digest_of(code)) is None

    assert await store.run(store.guests) == ()
