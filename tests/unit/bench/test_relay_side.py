"""The benchmark's end of the wire, against its stub gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.bench.asgi import serving
from tests.bench.far_end import FarEnd, frame
from tests.bench.gateway import Failed, RelaySide
from tests.bench.http import Address
from tests.bench.program import Program
from tests.unit.fakes import until

USER = 7


@asynccontextmanager
async def following(directory: Path) -> AsyncIterator[tuple[FarEnd, RelaySide]]:
    far_end = FarEnd()
    relay = RelaySide(Address(directory / "far.sock"), "token")
    async with serving(far_end, directory / "far.sock"):
        await relay.follow()
        yield far_end, relay
        await relay.close()


def opened(reply_id: int, **fields: object) -> bytes:
    reply = {"id": reply_id, "chat_id": USER, "reply_to": 1, "text": "", "closed": False}
    return frame({"type": "opened", "reply": {**reply, **fields}})


async def test_an_answer_is_put_together_from_its_events(tmp_path: Path) -> None:
    """Every token counts once, and the reply is recorded, claimed and settled as by a relay."""
    async with following(tmp_path) as (far_end, relay):
        asking = asyncio.create_task(relay.ask(Program(4), USER))
        await until(lambda: far_end.taken == 1, "the ask is handed over")
        far_end.say(opened(5))
        far_end.say(frame({"type": "grown", "reply_id": 5, "at": 0, "text": " a b"}))
        far_end.say(frame({"type": "grown", "reply_id": 5, "at": 4, "text": " c"}))
        far_end.say(frame({"type": "closed", "reply_id": 5, "text": "a b c d", "buttons": []}))

        answer = await asyncio.wait_for(asking, 5)

        assert answer.text == " a b c d"
        assert sum(count for _, count in answer.marks) == 4
        assert answer.sent <= answer.first <= answer.ended
        # Its message; leave for an edit, and for the final one; the end.
        await until(lambda: far_end.calls == 4, "the reply is settled")
        assert relay.refused == 0


async def test_an_answer_may_be_complete_at_once(tmp_path: Path) -> None:
    """The first that is heard of a reply can be its end."""
    async with following(tmp_path) as (far_end, relay):
        asking = asyncio.create_task(relay.ask(Program(2), USER))
        await until(lambda: far_end.taken == 1, "the ask is handed over")
        far_end.say(opened(5, text="a b", closed=True))

        answer = await asyncio.wait_for(asking, 5)

        assert answer.text.split() == ["a", "b"]
        assert answer.first > 0


async def test_a_refused_ask_is_a_failure(tmp_path: Path) -> None:
    """It is not waited for."""
    async with following(tmp_path) as (far_end, relay):
        far_end.outcome = "refused"

        with pytest.raises(Failed, match="refused"):
            await asyncio.wait_for(relay.ask(Program(2), USER), 5)
