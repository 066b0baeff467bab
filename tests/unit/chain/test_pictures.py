"""A picture goes the way of a document to an engine that sees; an album is one ask."""

import asyncio
import base64
from typing import Any

import pytest

from tests.unit.chain.conftest import Chain, buttons_of
from tests.unit.chain.test_documents import store
from tests.unit.fakes import USER, until
from tests.unit.pictures import BLUE, RED, is_of, picture, seen

pytestmark = pytest.mark.long

GREEN = (20, 200, 20)
WHO = {"id": USER, "first_name": "U", "language_code": "en"}
CANNOT = "I cannot see pictures. Tell me in words what it shows, and I will gladly help."
UNSEEN = "[picture attached that you cannot see any more]\n\n"


async def sees(chain: Chain, pictures: int = 3) -> None:
    """The operator serves a model that does."""
    await chain.kill("gateway")
    chain.pictures = pictures
    await chain.start_gateway()


async def photo(chain: Chain, colour: tuple[int, int, int], caption: str = "") -> dict[str, Any]:
    """What a message with a photo carries."""
    stored = await stored_file(chain, picture(colour), "photo.jpg")
    return {"photo": stored["photo"]} | ({"caption": caption} if caption else {})


async def stored_file(chain: Chain, content: bytes, name: str) -> dict[str, Any]:
    packed = base64.b64encode(content).decode()
    body = {"content_base64": packed, "file_name": name, "mime_type": "image/jpeg"}
    return dict(await chain.post("/file", body))


async def send(chain: Chain, extra: dict[str, Any]) -> int:
    return int((await chain.post("/say", {"user": WHO, "extra": extra}))["message_id"])


async def send_album(chain: Chain, *extras: dict[str, Any]) -> list[int]:
    """All at once, as clients do."""
    acts = [
        {"kind": "say", "user": WHO, "extra": extra | {"media_group_id": "13579"}}
        for extra in extras
    ]
    return [answer["message_id"] for answer in await chain.post("/batch", acts)]


def told(message: dict[str, Any]) -> tuple[list[tuple[int, int, int]], str]:
    """What the engine was shown in one message, by colour, and told."""
    content = message["content"]
    if isinstance(content, str):
        return [], content
    text = "".join(part["text"] for part in content if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    prefix = "data:image/jpeg;base64,"
    assert all(url.startswith(prefix) for url in urls)
    images = [seen(base64.b64decode(url.removeprefix(prefix))) for url in urls]
    assert all(max(image.size) <= 1024 for image in images)
    return [next(c for c in (RED, GREEN, BLUE) if is_of(i, c)) for i in images], text


async def test_photo_is_seen_with_its_caption(chain: Chain) -> None:
    """And later questions still see it; a text alone stays a plain one."""
    await sees(chain)
    chain.engine.scripts += [["Red."], ["As I said."]]
    await send(chain, await photo(chain, RED, "Which colour?"))
    await chain.wait_for_answers(1)
    await chain.say("Sure?")

    assert await chain.wait_for_answers(2) == ["Red.", "As I said."]
    assert told(chain.engine.requests[0][-1]) == ([RED], "Which colour?")
    assert told(chain.engine.requests[1][1]) == ([RED], "Which colour?")
    assert chain.engine.requests[1][-1]["content"] == "Sure?"


async def test_photo_alone_is_an_ask(chain: Chain) -> None:
    """Its user sees what it waits for meanwhile; the size that is enough is fetched."""
    await sees(chain)
    await chain.post("/fault", {"kind": "delay", "method": "file", "seconds": 1.5})
    await send(chain, await photo(chain, BLUE))

    await chain.wait_for_calls("editMessageText", 1)
    statuses = [call["text"] for call in await chain.calls("editMessageText")]
    assert statuses[0] == "Looking at the picture…"
    assert await chain.wait_for_answers(1) == ["fine"]
    assert told(chain.engine.requests[0][-1]) == ([BLUE], "")
    assert len(await chain.calls("getFile")) == 1


async def test_document_that_is_a_picture_is_seen(chain: Chain) -> None:
    """Whatever it is called; one that is none is read."""
    await sees(chain)
    document = await store(chain, picture(RED, kind="PNG"), "notes.txt")
    await send(chain, {"document": document, "caption": "Look"})
    await chain.wait_for_answers(1)
    await send(chain, {"document": await store(chain, b"words", "cat.png"), "caption": "Read"})

    await chain.wait_for_answers(2)
    assert told(chain.engine.requests[0][-1]) == ([RED], "Look")
    assert "words" in told(chain.engine.requests[1][-1])[1]


async def test_album_is_one_ask(chain: Chain) -> None:
    """One answer, to all of its pictures in their order."""
    await sees(chain)
    await send_album(
        chain,
        await photo(chain, RED, "Which colours?"),
        await photo(chain, GREEN),
        await photo(chain, BLUE),
    )

    assert await chain.wait_for_answers(1) == ["fine"]
    await chain.wait_until_settled()
    assert len(chain.engine.requests) == 1
    assert told(chain.engine.requests[0][-1]) == ([RED, GREEN, BLUE], "Which colours?")
    assert len(await chain.calls("sendMessage")) == 1
    assert len(await chain.calls("getFile")) == 3


async def test_album_that_comes_one_by_one_is_one_ask(chain: Chain) -> None:
    """Also where the first picture is here before the next is known of."""
    await sees(chain)
    await chain.say("before")
    await chain.wait_for_answers(1)
    first = await photo(chain, RED, "Which colours?")
    second, third = await photo(chain, GREEN), await photo(chain, BLUE)
    for count, extra in enumerate((first, second, third), start=1):
        await send_album(chain, extra)
        await chain.wait_for_calls("getFile", count)
        await until(lambda: not lacking(chain), "it is here")

    assert len(await chain.wait_for_answers(2)) == 2
    await chain.wait_until_settled()
    assert told(chain.engine.requests[-1][-1]) == ([RED, GREEN, BLUE], "Which colours?")
    assert len(chain.engine.requests) == 2


def lacking(chain: Chain) -> list[str]:
    """The files that replies wait for."""
    replies = [entry.reply for entry in chain.outbox._entries.values()]
    return [reply.document for reply in replies if reply.document]


async def test_album_of_documents_is_one_ask(chain: Chain) -> None:
    """Each is read; the caption, which stands on the last, comes behind them."""
    documents = [await store(chain, text, "a.txt") for text in (b"first words", b"second words")]
    await send_album(
        chain,
        {"document": documents[0]},
        {"document": documents[1], "caption": "Compare"},
    )

    assert await chain.wait_for_answers(1) == ["fine"]
    _, text = told(chain.engine.requests[0][-1])
    assert text.index("first words") < text.index("second words") < text.index("Compare")
    await chain.wait_until_settled()
    assert len(chain.engine.requests) == 1


async def test_late_picture_of_an_album_is_an_ask(chain: Chain) -> None:
    """What has begun to be answered cannot take it in any more."""
    await sees(chain)
    go_on = asyncio.Event()
    chain.engine.scripts += [[go_on, "One."], ["Two."]]
    await send_album(chain, await photo(chain, RED, "first"))
    await until(lambda: chain.engine.requests, "it is asked")
    await send_album(chain, await photo(chain, BLUE))
    await chain.wait_for_calls("getFile", 2)
    go_on.set()

    assert await chain.wait_for_answers(2) == ["One.", "Two."]
    assert told(chain.engine.requests[1][-1]) == ([BLUE], "")


async def test_album_of_more_than_the_engine_is_given(chain: Chain) -> None:
    """It is shown the last ones, and both it and the user know."""
    await sees(chain, 2)
    await send_album(
        chain,
        await photo(chain, RED, "Which colours?"),
        await photo(chain, GREEN),
        await photo(chain, BLUE),
    )

    assert await chain.wait_for_answers(1) == [
        "fine\n\n(Of these pictures I could look at the last 2 only.)"
    ]
    assert told(chain.engine.requests[0][-1]) == ([GREEN, BLUE], f"{UNSEEN}Which colours?")


async def test_older_pictures_are_not_shown_again(chain: Chain) -> None:
    """Beyond the set number; the engine knows that they were there."""
    await sees(chain, 2)
    for count, colour in enumerate((RED, GREEN, BLUE), start=1):
        await send(chain, await photo(chain, colour, "this"))
        await chain.wait_for_answers(count)

    shown = [told(message) for message in chain.engine.requests[-1] if message["role"] == "user"]
    assert shown == [([], f"{UNSEEN}this"), ([GREEN], "this"), ([BLUE], "this")]


@pytest.mark.parametrize("victim", ["relay", "gateway"])
async def test_death_on_the_way_loses_no_picture(chain: Chain, victim: str) -> None:
    """Of an album the second is just being brought: all are seen, once, in one answer."""
    await sees(chain)
    await chain.post("/fault", {"kind": "hang", "method": "file", "seconds": 1, "skip": 1})
    await send_album(
        chain,
        await photo(chain, RED, "Which colours?"),
        await photo(chain, GREEN),
        await photo(chain, BLUE),
    )
    await chain.wait_until_hit()

    await chain.replace(victim)

    assert await chain.wait_for_answers(1) == ["fine"]
    await chain.wait_until_settled()
    assert len(chain.engine.requests) == 1
    assert told(chain.engine.requests[0][-1]) == ([RED, GREEN, BLUE], "Which colours?")


async def test_picture_is_there_when_the_gateway_comes_back(chain: Chain) -> None:
    """It needs nothing more from Telegram."""
    await sees(chain)
    go_on = asyncio.Event()
    chain.engine.scripts += [[go_on], ["Red."]]
    await send(chain, await photo(chain, RED, "Which colour?"))
    await until(lambda: chain.engine.requests, "the engine is asked")

    await chain.kill("gateway")
    await chain.start_gateway()

    assert await chain.wait_for_answers(1) == ["Red."]
    assert told(chain.engine.requests[1][-1]) == ([RED], "Which colour?")
    assert len(await chain.calls("getFile")) == 1


async def test_operator_has_no_engine_that_sees(chain: Chain) -> None:
    """Nothing is fetched; a caption is answered, an album without one is refused once."""
    await send_album(chain, *[await photo(chain, colour) for colour in (RED, GREEN, BLUE)])
    assert await chain.wait_for_answers(1) == [CANNOT]
    await send(chain, await photo(chain, RED, "What is this?"))

    assert await chain.wait_for_answers(2) == [CANNOT, "fine"]
    note = "[photo attached that you cannot see or open]\n\n"
    assert chain.engine.requests[0][-1]["content"] == f"{note}What is this?"
    assert await chain.calls("getFile") == []


async def test_engine_that_refuses_pictures_is_not_asked_for_ever(chain: Chain) -> None:
    """Its user is told in one sentence; what was said before is answered without them."""
    await sees(chain)
    await send(chain, await photo(chain, RED, "Which colour?"))
    await chain.wait_for_answers(1)

    chain.engine.sees = False
    await chain.say("Sure?")
    assert (await chain.wait_for_answers(2))[1] == "fine"
    await send(chain, await photo(chain, BLUE, "And this?"))

    assert (await chain.wait_for_answers(3))[2] == CANNOT
    assert told(chain.engine.requests[1][1]) == ([], f"{UNSEEN}Which colour?")


@pytest.mark.parametrize("size", [1, 3])
async def test_caption_is_edited(chain: Chain, size: int) -> None:
    """The answer is written anew in its place, with all the pictures."""
    await sees(chain)
    chain.engine.scripts += [["One."], ["Two."]]
    colours = (RED, GREEN, BLUE)[:size]
    photos = [await photo(chain, colour) for colour in colours]
    photos[0]["caption"] = "Which colour?"
    number, *_ = await send_album(chain, *photos) if size > 1 else [await send(chain, photos[0])]
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()

    await chain.post("/edit", {"user": WHO, "message_id": number, "text": "Which shape?"})

    await until(lambda: len(chain.engine.requests) == 2, "it is asked anew")
    await chain.wait_until_settled()
    assert await chain.answers() == ["Two."]
    assert told(chain.engine.requests[1][-1]) == (list(colours), "Which shape?")
    assert len(chain.engine.requests[1]) == len(chain.engine.requests[0])


@pytest.mark.parametrize("way", ["again", "/retry"])
async def test_another_answer_sees_the_pictures(chain: Chain, way: str) -> None:
    """Another one of the latest question."""
    await sees(chain)
    chain.engine.scripts += [["One."], ["Two."]]
    await send_album(chain, await photo(chain, RED, "Which?"), await photo(chain, BLUE))
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()

    if way == "again":
        shown = next(m for m in await chain.shown() if buttons_of(m, "again:"))
        await chain.press(shown, "again:")
    else:
        await chain.say(way)

    await until(lambda: len(chain.engine.requests) == 2, "it is asked anew")
    assert told(chain.engine.requests[1][-1]) == ([RED, BLUE], "Which?")


async def test_failed_ask_is_tried_again_with_its_picture(chain: Chain) -> None:
    """By the button under the failure."""
    await sees(chain)
    chain.engine.scripts += [[RuntimeError()], ["Red."]]
    await send(chain, await photo(chain, RED, "Which?"))
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()

    (shown,) = [m for m in await chain.shown() if buttons_of(m, "retry:")]
    await chain.press(shown, "retry:")

    await until(lambda: len(chain.engine.requests) == 2, "it is asked anew")
    assert told(chain.engine.requests[1][-1]) == ([RED], "Which?")


async def test_damaged_picture_is_told_of(chain: Chain) -> None:
    """With the reason, and nothing reaches the engine."""
    await sees(chain)
    stored = await stored_file(chain, picture()[:900], "photo.jpg")
    await send(chain, {"photo": stored["photo"], "caption": "What is this?"})

    (answer,) = await chain.wait_for_answers(1)
    assert answer == "This file seems to be damaged: I could not read it."
    assert chain.engine.requests == []


async def test_forgotten_picture_is_not_seen_again(chain: Chain) -> None:
    """/forget erases it with the conversation."""
    await sees(chain)
    await send(chain, await photo(chain, RED, "Which colour?"))
    await chain.wait_for_answers(1)
    await chain.wait_until_settled()
    await chain.say("/forget")
    _, question = await wait_for_shown(chain, 2)
    await chain.press(question, "forget")
    await wait_for_text(chain, "I have erased all that we said here.")
    await chain.say("Sure?")

    await until(lambda: len(chain.engine.requests) == 2, "it is asked")
    told_of = [m["content"] for m in chain.engine.requests[1] if m["role"] == "user"]
    assert told_of == ["Sure?"]


async def wait_for_shown(chain: Chain, count: int) -> list[dict[str, Any]]:
    """Wait until the relay is done with so many messages."""
    await chain.wait_for_answers(count)
    await chain.wait_until_settled()
    return await chain.shown()


async def wait_for_text(chain: Chain, beginning: str) -> None:
    async with asyncio.timeout(10):
        while not any(text.startswith(beginning) for text in await chain.answers()):
            await asyncio.sleep(0.02)
