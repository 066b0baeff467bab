"""A document is brought from Telegram once, whatever ends on the way, and answered in its turn."""

import asyncio
import base64
import io
import json
from typing import Any

import pytest

from services.gateway import inbox
from services.gateway.reading import Unreadable
from services.gateway.transcriber import Transcriber, TranscriberUnavailable
from tests.unit.chain.conftest import Chain
from tests.unit.chain.test_groups import BOT, GROUP, GROUP_ID, SUPERGROUP_ID
from tests.unit.documents import docx, pdf
from tests.unit.fakes import USER, until

pytestmark = pytest.mark.long

NOTES = b"The bird is blue."


async def store(chain: Chain, content: bytes, name: str) -> dict[str, Any]:
    """Let Telegram have a file."""
    packed = base64.b64encode(content).decode()
    body = json.dumps({"content_base64": packed, "file_name": name}).encode()
    async with chain.control.post("/file", data=io.BytesIO(body)) as response:
        return dict((await response.json())["document"])


async def send(
    chain: Chain,
    content: bytes,
    caption: str = "",
    name: str = "notes.txt",
    kind: str = "document",
) -> int:
    """A user sends a file; returns the message's id."""
    document = await store(chain, content, name)
    extra: dict[str, Any] = {kind: document}
    if caption:
        extra["caption"] = caption
    user = {"id": USER, "first_name": "U", "language_code": "en"}
    return int((await chain.post("/say", {"user": user, "extra": extra}))["message_id"])


def told(chain: Chain, number: int = -1) -> str:
    """What the engine was told by the user in one of its requests."""
    return str(chain.engine.requests[number][-1]["content"])


@pytest.mark.parametrize(
    ("content", "name"),
    [(NOTES, "notes.txt"), (pdf(NOTES.decode()), "a.pdf"), (docx([NOTES.decode()]), "b.docx")],
)
async def test_document_is_read_with_its_caption(chain: Chain, content: bytes, name: str) -> None:
    """The engine is told both, and the conversation remembers them."""
    chain.engine.scripts += [["Blue."], ["As I said."]]
    await send(chain, content, "Which colour?", name)
    await chain.wait_for_answers(1)
    await chain.say("Sure?")

    assert await chain.wait_for_answers(2) == ["Blue.", "As I said."]
    told_first = f"[The file {name}:]\nThe bird is blue.\n[The end of {name}]\n\nWhich colour?"
    assert told(chain, 0) == told_first
    assert chain.engine.requests[1][1]["content"] == told_first


async def test_document_alone_is_an_ask(chain: Chain) -> None:
    """Without a caption, too; its user sees what it waits for meanwhile."""
    await chain.post("/fault", {"kind": "delay", "method": "file", "seconds": 1.5})
    await send(chain, NOTES)

    await chain.wait_for_calls("editMessageText", 1)
    statuses = [call["text"] for call in await chain.calls("editMessageText")]
    assert statuses[0] == "Reading the file…"
    assert await chain.wait_for_answers(1) == ["fine"]
    assert "blue" in told(chain)


async def test_what_comes_after_waits_for_its_turn(chain: Chain) -> None:
    """A slow download is not overtaken within its chat."""
    chain.engine.scripts += [["Read."], ["After."]]
    await chain.post("/fault", {"kind": "delay", "method": "file", "seconds": 1})
    await send(chain, NOTES, "first")
    await chain.say("second")

    assert await chain.wait_for_answers(2) == ["Read.", "After."]
    assert told(chain, 0).endswith("first")
    assert told(chain, 1) == "second"


@pytest.mark.parametrize("victim", ["relay", "gateway"])
async def test_death_on_the_way_loses_nothing(chain: Chain, victim: str) -> None:
    """The next one has the document brought again, and it is answered once."""
    await chain.post("/fault", {"kind": "hang", "method": "file", "seconds": 1})
    await send(chain, NOTES, "Which colour?")
    await chain.wait_until_hit()

    await chain.replace(victim)

    assert await chain.wait_for_answers(1) == ["fine"]
    await chain.wait_until_settled()
    assert len(chain.engine.requests) == 1
    assert "blue" in told(chain)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "method": "getFile", "status": 502},
        {"kind": "retry_after", "method": "getFile", "seconds": 1},
        {"kind": "reset", "method": "file"},
        {"kind": "status", "method": "file", "status": 500},
    ],
)
async def test_trouble_at_telegram_is_overcome(chain: Chain, fault: dict[str, Any]) -> None:
    """What may pass is tried again."""
    await chain.post("/fault", fault | {"count": 2})
    await send(chain, NOTES, "Which colour?")

    assert await chain.wait_for_answers(1) == ["fine"]
    await chain.wait_until_hit()
    assert "blue" in told(chain)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "method": "getFile", "status": 400, "description": "file is too big"},
        {"kind": "status", "method": "file", "status": 404},
    ],
)
async def test_document_that_telegram_keeps_is_told_of(chain: Chain, fault: dict[str, Any]) -> None:
    """One sentence, and the chat goes on."""
    await chain.post("/fault", fault)
    await send(chain, NOTES, "Which colour?")
    await chain.say("hello")

    refusal, answer = await chain.wait_for_answers(2)
    assert refusal == "Telegram did not give me this file. Please send it again."
    assert answer == "fine"
    assert told(chain) == "hello"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"x" * 6_000_001, "This file is too big for me: I can read files of up to 6 MB."),
        (b"x" * 6_000_000, "This file holds more text than I can take in at once."),
        (b"\0\1\2", "I cannot read files of this kind. I can read text and code, PDF and DOCX."),
        (b"word " * 8_000, "This file holds more text than I can take in at once."),
        (pdf(""), "I find no text in this file. Pictures of text, such as scanned pages,"),
    ],
)
async def test_what_cannot_be_read_is_told_of(chain: Chain, content: bytes, sentence: str) -> None:
    """With the reason, and nothing reaches the engine."""
    await send(chain, content, "What is this?")

    (answer,) = await chain.wait_for_answers(1)
    assert answer.startswith(sentence)
    await chain.wait_until_settled()
    assert chain.engine.requests == []


async def test_stop_while_it_is_brought(chain: Chain) -> None:
    """The download ends, and what comes next is answered."""
    await chain.post("/fault", {"kind": "hang", "method": "file"})
    await send(chain, NOTES, "Which colour?")
    await chain.wait_until_hit()

    await chain.say("/stop")
    await chain.say("hello")

    answers = await chain.wait_for_answers(2)
    assert answers[0] == "(stopped)"
    assert "fine" in answers
    assert told(chain) == "hello"


async def test_group_moves_while_it_is_brought(chain: Chain) -> None:
    """It is fetched anew for the supergroup, at once."""
    await chain.post("/fault", {"kind": "hang", "method": "file"})
    mention = {"type": "mention", "offset": 0, "length": len(BOT)}
    caption = {"caption": f"{BOT} what?", "caption_entities": [mention]}
    document = await store(chain, NOTES, "notes.txt")
    user = {"id": USER, "first_name": "U", "language_code": "en"}
    body = {"user": user, "chat": GROUP, "extra": {"document": document} | caption}
    await chain.post("/say", body)
    await chain.wait_until_hit()

    await chain.post("/migrate", {"chat_id": GROUP_ID, "new_chat_id": SUPERGROUP_ID})

    assert await chain.wait_for_answers(1, SUPERGROUP_ID) == ["fine"]
    assert "blue" in told(chain)


async def test_long_caption_is_no_paste(chain: Chain) -> None:
    """What is said right after it is no piece of it, and does not let it go without the file."""
    await chain.post("/fault", {"kind": "delay", "method": "file", "seconds": 1})
    await send(chain, NOTES, "word " * 500)
    await chain.say("next")

    assert await chain.wait_for_answers(2) == ["fine", "fine"]
    assert "blue" in told(chain, 0)
    assert told(chain, 1) == "next"


async def test_caption_is_edited(chain: Chain) -> None:
    """The answer is written anew in its place, and the document is there again."""
    chain.engine.scripts += [["One."], ["Two."]]
    number = await send(chain, NOTES, "Which colour?")
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()

    user = {"id": USER, "first_name": "U", "language_code": "en"}
    edit = {"user": user, "message_id": number, "text": "Which animal?"}
    await chain.post("/edit", edit)

    await until(lambda: len(chain.engine.requests) == 2, "it is asked anew")
    await chain.wait_until_settled()
    assert await chain.answers() == ["Two."]
    assert "blue" in told(chain)
    assert told(chain).endswith("Which animal?")
    assert len(chain.engine.requests[1]) == len(chain.engine.requests[0])


@pytest.mark.parametrize("victim", ["relay", "gateway"])
async def test_document_that_is_here_is_not_fetched_again(chain: Chain, victim: str) -> None:
    """A death while it is answered needs nothing more from Telegram."""
    go_on = asyncio.Event()
    chain.engine.scripts += [["Bl", go_on], ["ue."], ["ue."]]
    await send(chain, NOTES, "Which colour?")
    await until(lambda: chain.engine.requests, "the engine is asked")

    await chain.replace(victim)
    await until(lambda: chain.outbox.is_connected, "the next stream has begun")
    go_on.set()

    assert len(await chain.wait_for_answers(1)) == 1
    await chain.wait_until_settled()
    assert len(await chain.calls("getFile")) == 1


async def test_file_that_is_too_big_is_left_at_telegram(chain: Chain) -> None:
    """Telegram says its size."""
    await send(chain, b"x" * 6_000_001, "What is this?")

    assert len(await chain.wait_for_answers(1)) == 1
    assert await chain.calls("getFile") == []


async def test_two_documents_are_two_asks(chain: Chain) -> None:
    """Of an album, for example: each is read and answered, in order."""
    chain.engine.scripts += [["One."], ["Two."]]
    await send(chain, b"first", "a", "1.txt")
    await send(chain, b"second", "b", "2.txt")

    assert await chain.wait_for_answers(2) == ["One.", "Two."]
    assert "first" in told(chain, 0)
    assert "second" in told(chain, 1)


class FakeTranscriber(Transcriber):
    """Hears what it is told to hear."""

    def __init__(self, *heard: str | Exception) -> None:
        self.heard = list(heard)
        self.given: list[tuple[bytes, str]] = []

    async def write_down(self, content: bytes, name: str) -> str:
        self.given.append((content, name))
        heard = self.heard.pop(0)
        if isinstance(heard, Exception):
            raise heard
        return heard


async def listens(chain: Chain, *heard: str | Exception) -> FakeTranscriber:
    """The operator runs a transcriber."""
    await chain.kill("gateway")
    transcriber = FakeTranscriber(*heard)
    chain.transcriber = transcriber
    await chain.start_gateway()
    return transcriber


@pytest.mark.parametrize(
    ("kind", "name", "asked"),
    [
        ("voice", "voice.ogg", "What flies?"),
        ("video_note", "video.mp4", "What flies?"),
        ("audio", "talk.mp3", "[The file talk.mp3:]\nWhat flies?\n[The end of talk.mp3]"),
    ],
)
async def test_recording_is_heard(chain: Chain, kind: str, name: str, asked: str) -> None:
    """What a user speaks is their question; another recording is a file. A busy server is waited
    for."""
    transcriber = await listens(chain, TranscriberUnavailable(), "What flies?")

    await send(chain, b"sound", "", "talk.mp3", kind)

    assert await chain.wait_for_answers(1) == ["fine"]
    assert transcriber.given == [(b"sound", name)] * 2
    assert told(chain).strip() == asked


async def test_transcriber_that_does_not_come_up(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user knows what the recording waits for, and does not wait for ever."""
    transcriber = await listens(chain, TranscriberUnavailable(), TranscriberUnavailable())

    async def write_down(content: bytes, name: str) -> str:
        if transcriber.given:
            async with asyncio.timeout(10):
                while not any("waking up" in it["text"] for it in await chain.shown()):
                    await asyncio.sleep(0.02)
            monkeypatch.setattr(inbox, "UNHEARD_SECONDS", 0.0)
        return await FakeTranscriber.write_down(transcriber, content, name)

    monkeypatch.setattr(transcriber, "write_down", write_down)

    await send(chain, b"sound", "", "x", "voice")

    answers = await chain.wait_for_answers(1)
    assert answers == ["I could not listen to this recording. Please write it to me."]


async def test_recording_that_cannot_be_heard_is_told_of(chain: Chain) -> None:
    """With the reason."""
    await listens(chain, Unreadable("recording without words"))

    await send(chain, b"sound", "", "x", "voice")

    assert await chain.wait_for_answers(1) == ["I heard no words in this recording."]


async def test_without_a_transcriber_nothing_is_fetched(chain: Chain) -> None:
    """One sentence, at once."""
    await send(chain, b"sound", "", "x", "voice")

    assert await chain.wait_for_answers(1) == ["I cannot hear recordings. Please write it to me."]
    assert await chain.calls("getFile") == []
