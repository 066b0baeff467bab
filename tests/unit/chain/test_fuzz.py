"""Generated updates of every type, whole and spoilt, through the relay and the gateway's inbox."""

import copy
import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox as GatewayInbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Usage
from services.log import _Events
from services.relay.addressing import Identity
from services.relay.inbox import Inbox
from services.relay.menus import Menus
from services.relay.presence import Presence
from services.relay.translation import ATTACHMENTS, Doorman
from services.wire import Batch, Receipts
from tests.unit.fakes import open_store
from tests.unit.relay.scripted import ScriptedTelegram

UPDATES = int(os.environ.get("FUZZ_UPDATES", "5000"))
CANARY = "canary"
"""In everything that a user wrote, or could have."""

MESSAGES = 50
"""So few that presses, edits and replies often mean a message that is known."""

USERS, STRANGERS = (7, 8), (9, 10)
OTHER_KINDS = (
    "channel_post", "edited_channel_post", "business_message", "message_reaction", "inline_query",
    "chosen_inline_result", "shipping_query", "pre_checkout_query", "poll", "poll_answer",
    "my_chat_member", "chat_member", "chat_join_request", "chat_boost", "something_new",
)  # fmt: skip
COMMANDS = ("/help", "/new", "/stop", "/system", "/settings", "/heartbeat", "/forget", "/allow")
NOTES = ("pinned_message", "new_chat_members", "left_chat_member", "migrate_to_chat_id")
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, -(2**63), 1e300, "", f"{CANARY} \0\ud800", "\u202e",
    [], [[]], {}, {"id": CANARY}, [None], CANARY * 3000,
)  # fmt: skip


class Generator:
    """Makes updates, the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)  # no secret: a test that can be repeated
        self._number = 0

    def update(self) -> dict[str, Any]:
        self._number += 1
        kind = self._dice.choice(("message",) * 6 + ("edited_message", "callback_query", "other"))
        match kind:
            case "message" | "edited_message":
                content = self._message()
            case "callback_query":
                content = self._press()
            case _:
                kind, content = self._dice.choice(OTHER_KINDS), self._message()
        if self._dice.random() < 0.5:
            for _ in range(self._dice.randint(1, 4)):
                self._spoil(content)
        return {"update_id": self._number, kind: content}

    def _words(self) -> str:
        command = self._dice.choice(COMMANDS) if self._dice.random() < 0.6 else ""
        return f"{command} {CANARY} {self._number} 😀".lstrip()

    def _sender(self) -> dict[str, Any]:
        user_id = self._dice.choice(USERS * 4 + STRANGERS)
        return {
            "id": user_id, "is_bot": self._dice.random() < 0.02, "first_name": CANARY,
            "username": CANARY, "language_code": self._dice.choice(("en", "ru-RU", "", "xx")),
        }  # fmt: skip

    def _message(self, depth: int = 0) -> dict[str, Any]:
        sender = self._sender()
        is_private = self._dice.random() < 0.7
        chat = {"id": sender["id"] if is_private else -5, "title": CANARY}
        chat["type"] = "private" if is_private else self._dice.choice(("group", "supergroup"))
        message: dict[str, Any] = {
            "message_id": self._dice.randint(1, MESSAGES), "date": 1_700_000_000 + self._number,
            "chat": chat, "from": sender,
        }  # fmt: skip
        what = self._dice.choice(("text",) * 8 + ATTACHMENTS + NOTES)
        if what == "text":
            message["text"] = self._words() if is_private else f"@Some_Bot {self._words()}"
        else:
            message[what] = {"file_id": "x", "file_name": CANARY, "question": CANARY}
            message["caption"] = self._words()
        entity: dict[str, Any] = {"type": "mention", "offset": 0, "length": len("@Some_Bot")}
        if self._dice.random() < 0.2:
            entity["type"] = self._dice.choice(("bold", "bot_command", "text_mention"))
            entity["length"] = self._dice.randint(0, 12)
        message["entities"] = [entity]
        if depth == 0 and self._dice.random() < 0.2:
            message["reply_to_message"] = self._message(1)
            message["quote"] = {"text": CANARY, "position": 0}
        return message

    def _press(self) -> dict[str, Any]:
        verb = self._dice.choice(("stop", "again", "more", "retry", "set", "forget", "heartbeat"))
        return {
            "id": str(self._number), "from": self._sender(), "message": self._message(),
            "chat_instance": CANARY, "data": f"{verb}:{self._dice.randint(0, 5)}:{CANARY}",
        }  # fmt: skip

    def _spoil(self, content: dict[str, Any]) -> None:
        """Change one value, wherever it stands, or take it away."""
        places = list(_places(content))
        if not places:
            return
        holder, key = self._dice.choice(places)
        if self._dice.random() < 0.3:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(self._dice.choice(ODD_VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield value, key
                yield from _places(inner)
        case list():
            for number, inner in enumerate(value):
                yield value, number
                yield from _places(inner)


class Wire:
    """Carries batches to the gateway's inbox as HTTP does: as JSON, both ways."""

    def __init__(self, inbox: GatewayInbox) -> None:
        self._inbox = inbox
        self.sent: list[str] = []
        self.outcomes: list[str] = []

    async def send(self, batch: Batch) -> Receipts:
        text = batch.model_dump_json()
        self.sent.append(text)
        receipts = await self._inbox.accept(Batch.model_validate_json(text))
        self.outcomes += [receipt.outcome for receipt in receipts.receipts]
        return Receipts.model_validate_json(receipts.model_dump_json())


class NoNotices:
    """The gateway is there, so nobody is told that it is not."""

    def has_answered(self, _update: object) -> bool:
        return False

    def clear(self, _updates: object) -> None:
        pass


async def test_no_update_ends_anything_and_none_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever arrives, the next one is carried on; logs hold nothing that a user wrote."""
    caplog.set_level(logging.DEBUG)
    generator = Generator(604_213)
    presence = Presence()
    presence.come(())
    async with open_store(tmp_path) as store:
        outbox = Outbox(store, [])
        access = Access(store, frozenset(USERS), frozenset({USERS[0]}))
        wire = Wire(GatewayInbox(store, Queue(), outbox, access, Limits(9, 99, 9000)))
        doorman = Doorman(frozenset(USERS), presence, Identity(99, "Some_Bot"))
        relay = Inbox(
            ScriptedTelegram().bot,
            wire,  # type: ignore[arg-type]  # of the same shape
            doorman,
            presence,
            NoNotices(),  # type: ignore[arg-type]  # of the same shape
            Menus(ScriptedTelegram().bot),
        )
        asked = menus = 0
        for number in range(UPDATES // 100):
            assert await relay._take([generator.update() for _ in range(100)])
            # What is shown and answered meanwhile: otherwise chats are full soon.
            for ask in await store.run(store.asks):
                asked += 1
                await store.run(store.finish_ask, ask, "an answer", "an answer", Usage(1, 1, 1))
            for reply in await store.run(store.undelivered_replies):
                menus += bool(reply.parts)
                await store.run(store.record_part, reply.id, 0, number % MESSAGES + 1)
                await store.run(store.drop_reply, reply.id, 1)
                outbox.forget(reply.id)

    sent = [update for text in wire.sent for update in json.loads(text)["updates"]]
    assert len(sent) > UPDATES // 4, "control: enough of them were whole enough to be carried"
    in_groups = [update for update in sent if update["chat_kind"] != "private"]
    assert min(asked, len(in_groups)) > UPDATES // 100, "control: so many were more than refused"
    assert menus > UPDATES // 1000, "control: presses met menus"
    strangers = {update["user_id"] for update in sent if update["kind"] != "move"} - set(USERS)
    assert not strangers
    assert {"accepted", "refused"} <= set(wire.outcomes)
    assert sum(doorman.turned_away.values()) == UPDATES - len(sent)
    assert {"unreadable", "stranger", "kind"} <= set(doorman.turned_away)
    assert any(CANARY in text for text in wire.sent), "control: the words were carried"
    formatter = _Events()
    lines = [formatter.format(record) for record in caplog.records]
    assert lines
    assert not [line for line in lines if CANARY in line]
