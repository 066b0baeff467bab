"""The link speaks the newest version that the gateway speaks, and gives up nothing meanwhile."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.relay.link import Link, LinkDown, open_link
from services.wire import VERSION_HEADER, Batch, Event, Hello, Outcome, PartRecord
from tests.unit.fakes import message

TOKEN = "L" * 43
MOVE = message(2, None, kind="move", chat_id=-5, chat_kind="group", user_id=0, moved_to=-1005)


@dataclass
class FakeGateway:
    """Takes requests of the versions that it speaks, and keeps what it was told."""

    speaks: set[int]
    requests: list[tuple[str, int, Any]] = field(default_factory=list)
    refused: list[tuple[str, int]] = field(default_factory=list)
    refusal: int = 426

    async def handle(self, request: web.Request) -> web.StreamResponse:
        version = int(request.headers[VERSION_HEADER])
        if version not in self.speaks:
            self.refused.append((request.path, version))
            return web.json_response({"error": "no"}, status=self.refusal)
        if request.path == "/events":
            hello: dict[str, Any] = {"type": "hello", "epoch": 1, "undelivered": []}
            if version >= 2:
                hello["guests"] = [8]
            self.requests.append((request.path, version, None))
            return web.Response(text=f"data: {json.dumps(hello)}\n\n")
        body = await request.json()
        self.requests.append((request.path, version, body))
        if request.path != "/chat":
            return web.Response(status=204)
        receipts = [{"update_id": u["update_id"], "outcome": "accepted"} for u in body["updates"]]
        return web.json_response({"receipts": receipts})


@asynccontextmanager
async def linked(
    *speaks: int, heard: Path | None = None
) -> AsyncGenerator[tuple[FakeGateway, Link]]:
    gateway = FakeGateway(set(speaks))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", gateway.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    link = open_link("127.0.0.1", runner.addresses[0][1], TOKEN, heard)
    try:
        yield gateway, link
    finally:
        await link.close()
        await runner.cleanup()


async def events_of(link: Link) -> list[Event]:
    return [event async for event in link.events()]


def batch() -> Batch:
    return Batch(bot_id=9, updates=[MOVE, message(3, "hi")])


async def test_gateway_of_the_same_version_is_told_everything() -> None:
    """Groups that move and replies that move with them are reported as such."""
    async with linked(1, 2) as (gateway, link):
        receipts = await link.send(batch())
        await link.settle(Outcome(epoch=1, outcome="moved", moved_to=-1005), 4)

        [(_, version, told), outcome] = gateway.requests
        assert (version, [update["kind"] for update in told["updates"]]) == (2, ["move", "message"])
        assert [receipt.update_id for receipt in receipts.receipts] == [2, 3]
        assert outcome == (
            "/replies/4/outcome", 2,
            {"epoch": 1, "outcome": "moved", "moved_to": -1005, "parts": None},
        )  # fmt: skip
        assert await events_of(link) == [Hello(epoch=1, undelivered=(), guests=(8,))]
        assert gateway.refused == []


@pytest.mark.parametrize(("speaks", "heard"), [((1, 2), "2"), ((1,), "1"), ((9,), None)])
async def test_version_that_the_gateway_takes_is_noted(
    tmp_path: Path, speaks: tuple[int, ...], heard: str | None
) -> None:
    """Whoever upgrades this node reads there what the other one still speaks."""
    async with linked(*speaks, heard=tmp_path / "wire") as (_, link):
        with suppress(LinkDown):
            await events_of(link)

    assert ((tmp_path / "wire").read_text() if heard else None) == heard
    assert (tmp_path / "wire").exists() is bool(heard)


async def test_older_gateway_is_spoken_to_in_its_version() -> None:
    """After one refusal all goes on in version 1, without what that does not know."""
    async with linked(1) as (gateway, link):
        receipts = await link.send(batch())
        await link.settle(Outcome(epoch=1, outcome="moved", moved_to=-1005), 4)
        await link.claim(1, 4)
        await link.record_part(PartRecord(epoch=1, chat_id=7, position=0, message_id=6), 4)

        assert gateway.refused == [("/chat", 2)]
        (_, _, told), (_, _, outcome), *_ = gateway.requests
        assert [update["update_id"] for update in told["updates"]] == [3]
        assert "moved_to" not in told["updates"][0]
        assert outcome == {"epoch": 1, "outcome": "undeliverable"}
        assert gateway.requests[3][2] == {"epoch": 1, "position": 0, "message_id": 6}
        assert {version for _, version, _ in gateway.requests} == {1}
        assert [(r.update_id, r.outcome) for r in receipts.receipts] == [
            (None, "refused"), (3, "accepted"),
        ]  # fmt: skip
        assert await events_of(link) == [Hello(epoch=1, undelivered=())]


async def test_upgraded_gateway_is_used_fully_after_the_next_stream() -> None:
    """Each new stream tries the newest version again, and the calls follow it."""
    async with linked(1) as (gateway, link):
        await events_of(link)
        await link.send(batch())
        gateway.speaks = {1, 2}

        await events_of(link)
        await link.send(batch())

        assert [version for _, version, _ in gateway.requests] == [1, 1, 2, 2]


async def test_downgraded_gateway_is_followed() -> None:
    """A gateway that is set back to the version before is spoken to at once, without a stream."""
    async with linked(1, 2) as (gateway, link):
        await link.send(batch())
        gateway.speaks = {1}

        await link.send(batch())

        assert [version for _, version, _ in gateway.requests] == [2, 1]


async def test_gateway_too_far_apart_is_asleep_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is given up, and the operator reads once what to do, until it works again."""
    async with linked(3) as (gateway, link):
        for _ in range(3):
            with pytest.raises(LinkDown):
                await link.send(batch())
            with pytest.raises(LinkDown):
                await events_of(link)

        [record] = [it for it in caplog.records if it.levelno == logging.ERROR]
        assert record.getMessage() == "versions too far apart"
        assert "upgrade the older node" in record.remedy  # type: ignore[attr-defined]  # extra

        gateway.speaks = {2, 3}
        await link.send(batch())
        assert gateway.requests[0][1] == 2


@pytest.mark.parametrize("status", [401, 500, 503])
async def test_refusal_that_passes_is_sleep(status: int) -> None:
    """A wrong link token, or a gateway in trouble, costs no update."""
    async with linked() as (gateway, link):
        gateway.refusal = status

        with pytest.raises(LinkDown):
            await link.send(batch())
        with pytest.raises(LinkDown):
            await events_of(link)

        assert [version for _, version in gateway.refused] == [2, 2]
