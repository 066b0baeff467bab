"""A reply ends once, whatever Telegram refuses, and shows its buttons where they belong."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import AsyncMock

import pytest

from services.relay import cutting, delivery, rendering
from services.relay.delivery import Delivery
from services.relay.link import Settled
from services.relay.markdown import State
from services.relay.pacing import Pacing
from services.relay.rendering import Rendered
from services.wire import Button, Outcome, Reply
from tests.unit.fakes import until
from tests.unit.relay.scripted import Answer, ScriptedTelegram, refusal

CHAT = -5
BUTTON = Button(label="Retry", data="retry:4")


@dataclass
class FakeLink:
    """A gateway that grants everything and notes how replies ended."""

    outcomes: list[Outcome] = field(default_factory=list)

    async def claim(self, *_: Any) -> None:
        """Leave is given."""

    async def record_part(self, *_: Any) -> None:
        """It is recorded."""

    async def settle(self, outcome: Outcome, _: int) -> None:
        self.outcomes.append(outcome)


async def deliver(
    telegram: ScriptedTelegram, reply: Reply, *changes: Any, link: FakeLink | None = None
) -> list[Outcome]:
    """Deliver a reply to its end; `changes` are closings to make once it has begun."""
    link = link or FakeLink()

    async def epoch(_beyond: int) -> int:
        return 1

    held = asyncio.Lock()

    def lock(_chat_id: int, _message_id: int) -> asyncio.Lock:
        return held

    delivery = Delivery(reply, telegram.bot, link, Pacing(), epoch, asyncio.Semaphore(), lock)  # type: ignore[arg-type]  # a fake link
    running = asyncio.create_task(delivery.run())
    for text, buttons in changes:
        await asyncio.wait_for(delivery.begun.wait(), 5)
        delivery.close(text, buttons)
    await asyncio.wait_for(running, 10)
    return link.outcomes


MOVED = refusal(
    400,
    "Bad Request: group chat was upgraded to a supergroup chat",
    migrate_to_chat_id=-1005,
)
GONE = [
    refusal(403, "Forbidden: bot was blocked by the user"),
    refusal(403, "Forbidden: user is deactivated"),
    refusal(403, "Forbidden: bot was kicked from the supergroup chat"),
    refusal(403, "Forbidden: the group chat was deleted"),
    refusal(400, "Bad Request: chat not found"),
    refusal(400, "Bad Request: TOPIC_CLOSED"),
    refusal(400, "Bad Request: message thread not found"),
    refusal(400, "Bad Request: not enough rights to send text messages to the chat"),
    refusal(400, "Bad Request: have no rights to send a message"),
    refusal(400, "Bad Request: CHAT_WRITE_FORBIDDEN"),
]


@pytest.mark.parametrize("answer", [*GONE, MOVED], ids=lambda answer: answer[1]["description"])
@pytest.mark.parametrize("moment", ["placeholder", "growing", "final"])
async def test_chat_that_takes_nothing_ends_the_reply_at_once(moment: str, answer: Answer) -> None:
    """Blocked, kicked, deleted, closed, moved: reported once, and not tried again."""
    telegram = ScriptedTelegram()
    method = "sendMessage" if moment == "placeholder" else "editMessageText"
    telegram.answers[method] = answer

    outcomes = await deliver(
        telegram, Reply(id=4, chat_id=CHAT, text="hello", closed=moment != "growing")
    )

    if answer is MOVED:
        assert outcomes == [Outcome(epoch=1, outcome="moved", moved_to=-1005)]
    else:
        assert outcomes == [Outcome(epoch=1, outcome="undeliverable")]
    assert telegram.count(method) == 1
    assert telegram.count("sendMessage") == 1


@pytest.mark.parametrize(
    "description", ["Bad Request: message to edit not found", "Bad Request: MESSAGE_ID_INVALID"]
)
async def test_deleted_message_counts_as_shown(description: str) -> None:
    """What the user has deleted stays deleted; the reply is delivered, and nothing sent again."""
    telegram = ScriptedTelegram()
    telegram.answers["editMessageText"] = refusal(400, description)

    outcomes = await deliver(
        telegram, Reply(id=4, chat_id=7, text="hel"), ("hello", ()), ("hello", ())
    )

    assert outcomes == [Outcome(epoch=1, outcome="delivered", parts=1)]
    assert telegram.count("sendMessage") == 1


async def test_leftover_in_a_chat_that_has_moved() -> None:
    """A part that is to be deleted and went with its chat ends the reply there as well."""
    telegram = ScriptedTelegram()
    telegram.answers["deleteMessage"] = MOVED

    outcomes = await deliver(
        telegram, Reply(id=4, chat_id=CHAT, text="short", closed=True, parts=(61, 62))
    )

    assert outcomes == [Outcome(epoch=1, outcome="moved", moved_to=-1005)]


@pytest.mark.parametrize("text", ["failed", "word " * 1500])
async def test_closed_reply_shows_its_buttons_under_the_last_part(text: str) -> None:
    """The last buttons stand under the last part, and under no other."""
    telegram = ScriptedTelegram()

    outcomes = await deliver(
        telegram,
        Reply(id=4, chat_id=7, text="wor", buttons=(Button(label="Stop", data="stop:4"),)),
        (text, (BUTTON,)),
    )

    assert outcomes == [Outcome(epoch=1, outcome="delivered", parts=telegram.count("sendMessage"))]
    shown: dict[int, Any] = {
        call["message_id"]: call.get("reply_markup")
        for name, call in telegram.calls
        if name == "editMessageText"
    }
    keyboards = [shown[message_id] for message_id in sorted(shown)]
    assert len(keyboards) == (1 if text == "failed" else 2)
    assert keyboards[:-1] == [None] * (len(keyboards) - 1)
    [[button]] = keyboards[-1]["inline_keyboard"]
    assert (button["text"], button["callback_data"]) == ("Retry", "retry:4")


@dataclass
class FickleLink(FakeLink):
    """A gateway that gives leave once; then the reply is gone."""

    claims: int = 0

    async def claim(self, *_: Any) -> None:
        self.claims += 1
        if self.claims > 1:
            raise Settled


@pytest.mark.parametrize("moment", ["turn", "claim"])
async def test_growing_answer_never_looks_complete(moment: str) -> None:
    """It outgrows its message while its edit waits: the next message is there before the edit."""
    telegram = ScriptedTelegram()
    grown = asyncio.Event()
    waiting = asyncio.Event()

    async def hold() -> None:
        waiting.set()
        await grown.wait()

    class HeldPacing(Pacing):
        async def turn(self, chat_id: int, *, urgent: bool) -> None:
            if moment == "turn" and not urgent:
                await hold()

    class HeldLink(FakeLink):
        async def claim(self, *_: Any) -> None:
            if moment == "claim":
                await hold()

    stop = Button(label="Stop", data="stop:4")
    text = "word " * 1500
    delivery = Delivery(
        Reply(id=4, chat_id=7, text="wor", buttons=(stop,)),
        telegram.bot,
        HeldLink(),  # type: ignore[arg-type]  # a fake link
        HeldPacing(),
        AsyncMock(return_value=1),
        asyncio.Semaphore(),
        lambda *_: asyncio.Lock(),
    )
    running = asyncio.create_task(delivery.run())
    await asyncio.wait_for(waiting.wait(), 5)
    delivery.grow(0, text)
    grown.set()
    await until(lambda: telegram.count("editMessageText") >= 2, "both messages have been edited")

    names = [name for name, _ in telegram.calls if name != "sendChatAction"]
    assert names[:3] == ["sendMessage", "sendMessage", "editMessageText"]
    delivery.close(text, ())
    await asyncio.wait_for(running, 10)


async def test_each_try_of_a_final_edit_asks_for_leave() -> None:
    """Meanwhile the user may have pressed the button: another answer stands in the message."""
    telegram = ScriptedTelegram()
    telegram.answers["editMessageText"] = refusal(502, "Bad Gateway")
    reply = Reply(id=1, chat_id=CHAT, text="It failed.", closed=True, buttons=(BUTTON,))

    with pytest.raises(Settled):
        await deliver(telegram, reply, link=FickleLink())

    assert telegram.count("editMessageText") == 1


async def test_leftover_of_an_earlier_try_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway is told how many messages are left: another try must use no other."""
    monkeypatch.setattr(delivery, "SETTLE_SECONDS", 0.0)
    telegram = ScriptedTelegram()
    reply = Reply(
        id=4, chat_id=7, text="It failed.", closed=True, buttons=(BUTTON,), parts=(61, 62)
    )

    outcomes = await deliver(telegram, reply)

    assert outcomes == [Outcome(epoch=1, outcome="delivered", parts=1)]
    assert [c["message_id"] for name, c in telegram.calls if name == "deleteMessage"] == [62]
    edits = {c["message_id"]: c["text"] for name, c in telegram.calls if name == "editMessageText"}
    assert edits == {61: "It failed."}


async def test_nobody_types_for_a_reply_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits sees a place. Hundreds of them would cost more calls than Telegram takes."""
    monkeypatch.setattr(delivery, "TYPING_SECONDS", 0.01)
    telegram = ScriptedTelegram()
    reply = Reply(id=4, chat_id=7, status="Waiting: 5 ahead of you.")

    running = asyncio.create_task(deliver(telegram, reply))
    await asyncio.sleep(0.2)
    running.cancel()
    await asyncio.wait({running})

    assert telegram.count("sendChatAction") == 0


MARKDOWN = "**bold** and [link](https://example.org)\n\n```py\nx = 1\n```"
UNPARSED = refusal(400, "Bad Request: can't parse entities: something new")


def edits(telegram: ScriptedTelegram) -> list[dict[str, Any]]:
    return [call for name, call in telegram.calls if name == "editMessageText"]


async def test_markdown_is_sent_as_entities() -> None:
    """The text without its marks, and what they meant beside it."""
    telegram = ScriptedTelegram()
    reply = Reply(id=4, chat_id=7, text=MARKDOWN, closed=True, markup="markdown")

    outcomes = await deliver(telegram, reply)

    assert outcomes == [Outcome(epoch=1, outcome="delivered", parts=1)]
    (edit,) = edits(telegram)
    assert edit["text"] == "bold and link\n\nx = 1"
    assert json.loads(edit["entities"]) == [
        {"type": "bold", "offset": 0, "length": 4},
        {"type": "text_link", "offset": 9, "length": 4, "url": "https://example.org"},
        {"type": "pre", "offset": 15, "length": 5, "language": "py"},
    ]


async def test_plain_text_is_sent_as_it_is() -> None:
    """What the bot itself says may hold any characters."""
    telegram = ScriptedTelegram()

    await deliver(telegram, Reply(id=4, chat_id=7, text=MARKDOWN, closed=True))

    (edit,) = edits(telegram)
    assert edit["text"] == MARKDOWN
    assert "entities" not in edit


async def test_refused_formatting_goes_out_plain() -> None:
    """Once, as it was written: what Telegram does not understand costs no answer."""
    telegram = ScriptedTelegram()
    telegram.formatting = UNPARSED
    reply = Reply(id=4, chat_id=7, text=MARKDOWN, closed=True, markup="markdown")

    outcomes = await deliver(telegram, reply)

    assert outcomes == [Outcome(epoch=1, outcome="delivered", parts=1)]
    first, second = edits(telegram)
    assert "entities" in first
    assert (second["text"], "entities" in second) == (MARKDOWN, False)


async def test_growing_answer_whose_formatting_is_refused_stays_plain() -> None:
    """Its part is not formatted again; another part of it is."""
    telegram = ScriptedTelegram()
    telegram.formatting = UNPARSED
    reply = Reply(id=4, chat_id=7, text="**bold** ", markup="markdown")
    full = ("**bold** " + "words " * 660).strip()
    long = f"{full}\n\n**end** {'of it ' * 60}"

    running = asyncio.create_task(deliver(telegram, reply, (long, ())))
    await until(lambda: len(edits(telegram)) >= 2, "the refused edit and its plain repetition")
    telegram.formatting = None
    outcomes = await running

    assert outcomes == [Outcome(epoch=1, outcome="delivered", parts=2)]
    last = {edit["message_id"]: edit for edit in edits(telegram)}
    texts = [last[message_id]["text"] for message_id in sorted(last)]
    assert texts == [full, f"end {'of it ' * 60}".strip()]
    assert ["entities" in last[message_id] for message_id in sorted(last)] == [False, True]


async def test_plain_edit_that_is_refused_ends_the_reply() -> None:
    """Not every refusal is the formatting's fault: then nothing is repeated for ever."""
    telegram = ScriptedTelegram()
    telegram.answers["editMessageText"] = refusal(400, "Bad Request: not today")
    reply = Reply(id=4, chat_id=7, text=MARKDOWN, closed=True, markup="markdown")

    outcomes = await deliver(telegram, reply)

    assert outcomes == [Outcome(epoch=1, outcome="undeliverable")]
    assert len(edits(telegram)) == 2


async def test_another_relay_edits_the_same_messages_to_the_same_contents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given the text and the messages, it finds the same parts: nothing is sent a second time."""
    monkeypatch.setattr(delivery, "SETTLE_SECONDS", 0.0)
    text = "\n\n".join(f"**{n}** " + "word " * 60 for n in range(30))
    first, second = ScriptedTelegram(), ScriptedTelegram()
    await deliver(first, Reply(id=4, chat_id=7, text=text, closed=True, markup="markdown"))
    shown = {edit["message_id"]: (edit["text"], edit["entities"]) for edit in edits(first)}
    parts = tuple(sorted(shown))

    await deliver(
        second,
        Reply(
            id=4, chat_id=7, text=f"{text}\n\n*more*", closed=True, markup="markdown", parts=parts
        ),
    )

    again = {edit["message_id"]: (edit["text"], edit["entities"]) for edit in edits(second)}
    assert len(parts) > 2
    assert second.count("sendMessage") == 0
    assert [again[part] for part in parts[:-1]] == [shown[part] for part in parts[:-1]]
    assert again[parts[-1]][0] == f"{shown[parts[-1]][0]}\n\nmore"


async def test_full_parts_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an answer grows, what stands already costs nothing more."""
    rendered: list[int] = []
    original = rendering.render

    def counted(source: str, state: State) -> Rendered:
        rendered.append(len(source))
        return original(source, state)

    monkeypatch.setattr(cutting, "render", counted)
    reply = Reply(id=4, chat_id=7, markup="markdown")
    growing = Delivery(reply, None, None, None, None, None, None)  # type: ignore[arg-type]  # nothing is sent
    for length in range(300, 30_000, 300):
        growing.grow(0, ("word " * 6000)[:length])
        growing._wanted(growing.reply)

    assert sum(rendered) < 100 * 2500 + 30_000
