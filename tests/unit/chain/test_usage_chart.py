"""An admin's /usage comes with a chart: one photo, once, whatever happens on its way."""

import io
from typing import Any

import pytest
from PIL import Image

from services.gateway import commands, outbox
from services.gateway.chart import COLOURS, HEIGHT, WIDTH, Chart
from services.gateway.commands import MOST_CAPTION_UNITS
from services.gateway.store import Store, utf16_units
from tests.unit.chain.conftest import Chain
from tests.unit.chain.test_groups import BOT, GROUP_ID, say_in_group
from tests.unit.fakes import USER

pytestmark = pytest.mark.long

OWN = "In the last 30 days: questions {}, tokens read {}, tokens written {}, time 0 s."


async def use(chain: Chain, user: int, tokens: int, asks: int = 1) -> None:
    """As the gateway notes what a user has used today."""
    store: Store = chain.outbox._store
    sql = "INSERT INTO usage VALUES(?, date('now'), ?, ?, 0, 0)"
    await store.run(lambda: store._db.execute(sql, (user, asks, tokens)))


async def wait_for_photo(chain: Chain) -> dict[str, Any]:
    """Wait for the only one; nothing is sent besides."""
    message = await chain.wait_for_only("photo")
    assert len(await chain.calls("sendMessage")) == 1
    return message


async def picture_of(chain: Chain, message: dict[str, Any]) -> Image.Image:
    content = await chain.download(message["extra"]["photo"][-1]["file_id"])
    return Image.open(io.BytesIO(content))


async def test_admin_sees_what_everybody_has_used(chain: Chain) -> None:
    """Their own usage in words, everybody's in numbers and as a picture."""
    await use(chain, USER, 300)
    await use(chain, 8, 900, asks=4)

    await chain.say("/usage")
    message = await wait_for_photo(chain)

    assert message["text"] == (
        f"{OWN.format(1, 300, 0)}\n\nAll users, tokens by day, last 30 days:\n"
        "8: questions 4, tokens 900\n7: questions 1, tokens 300"
    )
    picture = await picture_of(chain, message)
    assert picture.size == (WIDTH, HEIGHT)
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    used = [tuple(bytes.fromhex(colour[1:])) in colours for colour in COLOURS]
    assert used == [True, True, *[False] * 5]


@pytest.mark.parametrize("who", ["another user", "an admin in a group", "nobody asked"])
async def test_others_get_a_sentence(chain: Chain, who: str) -> None:
    """Nobody but an admin alone learns of others; and an empty chart shows nothing."""
    if who != "nobody asked":
        await use(chain, USER, 300)
    chat_id = {"another user": 8, "an admin in a group": GROUP_ID}.get(who, USER)

    if chat_id == GROUP_ID:
        await say_in_group(chain, f"/usage{BOT}")
    else:
        await chain.say("/usage", chat_id)

    (answer,) = await chain.wait_for_answers(1, chat_id)
    asks, tokens = (1, 300) if chat_id == GROUP_ID else (0, 0)
    expected = OWN.format(asks, tokens, 0)
    if who == "nobody asked":
        expected += "\n\nNobody has asked me anything in the last 30 days."
    assert answer == expected
    assert await chain.calls("editMessageMedia") == []


@pytest.mark.parametrize("tokens", [1, 2**62], ids=["small", "huge"])
@pytest.mark.parametrize("language", ["en", "ru"])
async def test_many_users_fit_below_a_photo(chain: Chain, language: str, tokens: int) -> None:
    """Seven are named, and how many others there are; Telegram refuses a longer caption."""
    for user in range(1, 200):
        await use(chain, 10**15 + user, tokens if user < 8 else 1)
    admin = {"id": USER, "first_name": "U", "language_code": language}

    await chain.post("/say", {"user": admin, "text": "/usage"})
    message = await wait_for_photo(chain)

    others = {"en": "192 others: questions 192, ", "ru": "ещё 192: вопросов 192, "}[language]
    assert others in message["text"]
    assert utf16_units(message["text"]) <= MOST_CAPTION_UNITS
    assert len(message["text"].splitlines()) == 11


@pytest.mark.parametrize("victims", [["relay"], ["gateway"], ["relay", "gateway"]])
async def test_death_in_the_middle_leaves_one_photo(chain: Chain, victims: list[str]) -> None:
    """The next one goes on in the same message, with the numbers of the first."""
    await use(chain, 8, 900)
    await chain.post("/fault", {"kind": "hang", "method": "editMessageMedia", "seconds": 2})
    await chain.say("/usage")
    await chain.wait_until_hit()
    await use(chain, 9, 1000)

    for victim in victims:
        await chain.kill(victim)
    for victim in victims:
        await (chain.start_relay() if victim == "relay" else chain.start_gateway())

    message = await wait_for_photo(chain)
    assert "8: questions 1, tokens 900" in message["text"]
    assert "9: " not in message["text"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 502},
        {"kind": "reset"},
        {"kind": "lose_answer"},
        {"kind": "retry_after", "seconds": 1},
    ],
    ids=lambda fault: str(fault["kind"]),
)
async def test_passing_fault_costs_nothing(chain: Chain, fault: dict[str, Any]) -> None:
    """It is uploaded again, into the same message."""
    await use(chain, 8, 900)
    await chain.post("/fault", {**fault, "method": "editMessageMedia"})

    await chain.say("/usage")

    await wait_for_photo(chain)
    await chain.wait_until_hit()


async def test_photo_that_telegram_refuses_leaves_its_caption(chain: Chain) -> None:
    """All that it shows is said there, too."""
    await use(chain, 8, 900)
    refusal = {"kind": "status", "status": 400, "count": None, "method": "editMessageMedia"}
    await chain.post("/fault", refusal | {"description": "Bad Request: IMAGE_PROCESS_FAILED"})

    await chain.say("/usage")
    (text,) = await chain.wait_for_answers(1)
    await chain.wait_until_settled()

    assert text.endswith("8: questions 1, tokens 900")
    assert len(await chain.calls("editMessageMedia")) == 1


async def test_chart_that_cannot_be_drawn_leaves_its_caption(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried for ever."""

    def draw(_: Chart) -> bytes:
        raise ValueError

    monkeypatch.setattr(outbox, "draw", draw)
    await use(chain, 8, 900)

    await chain.say("/usage")
    (text,) = await chain.wait_for_answers(1)

    assert text.endswith("8: questions 1, tokens 900")
    assert await chain.carrying("photo") == []


async def test_long_list_is_left_out(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the photo, which Telegram refuses with a longer caption."""
    monkeypatch.setattr(commands, "MOST_CAPTION_UNITS", 125)
    await use(chain, 8, 900)

    await chain.say("/usage")
    message = await wait_for_photo(chain)

    assert message["text"].endswith("\n\nAll users, tokens by day, last 30 days:")
