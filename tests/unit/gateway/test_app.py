"""The gateway's HTTP interface refuses what it must, in JSON, and changes nothing when it does."""

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.gateway import app
from services.gateway.app import MOST_BYTES, MOST_FRAMES_BYTES, _frames, build_app
from services.gateway.store import StoreError
from services.wire import (
    VERSION,
    VERSION_HEADER,
    Batch,
    Event,
    Hello,
    Opened,
    Receipts,
    Reply,
    Superseded,
    encode_event,
)
from tests.unit.fakes import USER, message
from tests.unit.gateway.served import LINK, Gateway, serve

CANARY = "canary that nobody repeats"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with serve(tmp_path) as gateway:
        yield gateway


async def test_batch_is_answered_update_by_update(gateway: Gateway) -> None:
    """A batch comes back with a receipt for each update, in order."""
    updates = [message(1, "hello"), {"update_id": 2}, message(1, "hello")]

    response = await gateway.client.post("/chat", json={"bot_id": 1, "updates": updates})

    assert response.status_code == 200
    receipts = Receipts.model_validate(response.json()).receipts
    assert [(r.update_id, r.outcome) for r in receipts] == [
        (1, "accepted"), (2, "refused"), (1, "duplicate"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json " + CANARY.encode(),
        b"[]",
        b'{"bot_id": 1}',
        b'{"bot_id": "' + CANARY.encode() + b'", "updates": []}',
        b'{"bot_id": 1, "updates": "' + CANARY.encode() + b'"}',
        b'{"bot_id": 1, "updates": ["' + CANARY.encode() + b'"]}',
        b'{"bot_id": -1, "updates": []}',
        b'{"bot_id": 1, "updates": [' + b",".join([b"{}"] * 101) + b"]}",
        b"\xff\xfe",
        b"{" * 20_000,
    ],
)
async def test_malformed_batch_is_refused(gateway: Gateway, body: bytes) -> None:
    """Whatever is sent instead of a batch: 4xx, a JSON error that repeats nothing, no change."""
    response = await gateway.client.post(
        "/chat", content=body, headers={"Content-Type": "application/json"}
    )

    assert 400 <= response.status_code < 500
    assert isinstance(response.json()["error"], str)
    assert CANARY not in response.text
    assert await gateway.store.run(gateway.store.asks) == []


async def test_oversized_request_is_refused(gateway: Gateway) -> None:
    """More than the limit is refused, with and without a length in its head."""

    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(MOST_BYTES // 65536 + 2):
            yield b" " * 65536

    whole = await gateway.client.post("/chat", content=b" " * (MOST_BYTES + 1))
    chunked = await gateway.client.post("/chat", content=endless())

    assert (whole.status_code, chunked.status_code) == (413, 413)
    assert "error" in whole.json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer " + "M" * 43}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer ünïcode".encode("latin-1")}, 401),
        ({VERSION_HEADER: "99"}, 426),
        ({VERSION_HEADER: ""}, 426),
    ],
)
async def test_wrong_token_or_version_is_refused(
    gateway: Gateway, headers: dict[str, Any], status: int
) -> None:
    """Who does not know the link token, or speaks another version, changes nothing."""
    body = {"bot_id": 1, "updates": [message(1, "hello")]}

    response = await gateway.client.post("/chat", json=body, headers=headers)

    assert response.status_code == status
    assert isinstance(response.json()["error"], str)
    assert await gateway.store.run(gateway.store.asks) == []


async def test_relay_of_the_version_before_is_served(gateway: Gateway) -> None:
    """The nodes are upgraded one after the other: one version apart they work together."""
    body = {"bot_id": 1, "updates": [message(1, "hello")]}
    headers = {VERSION_HEADER: str(VERSION - 1)}

    response = await gateway.client.post("/chat", json=body, headers=headers)

    assert response.json()["receipts"][0]["outcome"] == "accepted"


async def test_events_that_come_together_are_written_together(gateway: Gateway) -> None:
    """Nothing waits for what is not there yet; and nothing that is big is put into one piece."""
    replies = [
        Reply(id=number, chat_id=USER, text=text * number)
        for number, text in ((1, "a"), (2, "b"), (3, "c" * (MOST_FRAMES_BYTES // 3)), (4, "d"))
    ]
    for reply in replies:
        gateway.outbox.open(reply)
    older = gateway.outbox.stream()
    frames = _frames(gateway.outbox, await anext(older), older)
    first, second, third, fourth = [encode_event(Opened(reply=reply)) for reply in replies]

    assert await anext(frames) == encode_event(Hello(epoch=1, undelivered=(1, 2, 3, 4)))
    assert await anext(frames) == first + second + third
    async with asyncio.timeout(5):
        assert await anext(frames) == fourth
    newer = gateway.outbox.stream()
    await anext(newer)
    assert await anext(newer)
    assert gateway.outbox.has_more

    assert [frame async for frame in frames] == [encode_event(Superseded())]
    assert not gateway.outbox.has_more
    await newer.aclose()


async def test_version_that_the_relay_speaks_is_noted(gateway: Gateway, tmp_path: Path) -> None:
    """Whoever upgrades this node reads there what the other one still speaks."""

    async def stream(**_: object) -> AsyncGenerator[Event]:
        yield Hello(epoch=1, undelivered=())

    gateway.outbox.stream = stream  # type: ignore[method-assign]  # one that ends
    noting = build_app(gateway.inbox, gateway.outbox, LINK, tmp_path / "wire")
    headers = {"Authorization": f"Bearer {LINK}", VERSION_HEADER: str(VERSION - 1)}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(noting), base_url="http://gateway", headers=headers
    ) as client:
        assert (await client.get("/events")).status_code == 200

    assert (tmp_path / "wire").read_text() == str(VERSION - 1)


async def test_other_version_is_said_on_both_sides(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal says what this end speaks; the log says it once, not with every request."""
    for _ in range(3):
        response = await gateway.client.get("/events", headers={VERSION_HEADER: "99"})

    assert response.headers[VERSION_HEADER] == str(VERSION)
    assert f"versions {VERSION - 1} to {VERSION}" in response.json()["error"]
    (warning,) = [record for record in caplog.records if record.msg == "other version"]
    assert "upgrade the older node" in vars(warning)["remedy"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/chat", 405),
        ("POST", "/replies/x/claim", 422),
        ("POST", "/replies/1/claim", 422),
    ],
)
async def test_nothing_else_answers(gateway: Gateway, method: str, path: str, status: int) -> None:
    """There is no documentation page and no other endpoint; errors are JSON."""
    response = await gateway.client.request(method, path)

    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


async def test_writes_of_an_old_relay_are_rejected(gateway: Gateway) -> None:
    """Only the current stream's epoch may record, claim or settle; unknown replies are 404."""
    await gateway.inbox.accept(Batch(bot_id=1, updates=[message(1, "/help")]))
    (reply,) = await gateway.store.run(gateway.store.undelivered_replies)
    stream = gateway.outbox.stream()
    await anext(stream)

    async def status(path: str, body: dict[str, Any]) -> int:
        return (await gateway.client.post(f"/replies/{path}", json=body)).status_code

    part = {"position": 0, "message_id": 5}
    assert await status(f"{reply.id}/parts", part | {"epoch": 0}) == 409
    assert await status(f"{reply.id}/claim", {"epoch": 2}) == 409
    assert await status("999/claim", {"epoch": 1}) == 404
    assert await status(f"{reply.id}/parts", part | {"epoch": 1}) == 204
    assert await status(f"{reply.id}/outcome", {"epoch": 1, "outcome": "delivered"}) == 204
    assert await status(f"{reply.id}/outcome", {"epoch": 1, "outcome": "delivered"}) == 404


async def test_disk_that_does_not_take_it_is_503(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing can be committed the relay is told to keep the updates."""

    async def fail(*_: object) -> None:
        raise StoreError("the disk is full: make room")

    monkeypatch.setattr(gateway.store, "run_in_order", fail)

    response = await gateway.client.post("/chat", json={"bot_id": 1, "updates": [message(1, "x")]})

    assert response.status_code == 503
    assert "keep the updates" in response.json()["error"]


async def test_calls_that_are_made_most_go_past_the_framework(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each ask calls is answered without FastAPI, which takes most of such a call's time."""
    stream = gateway.outbox.stream()
    await anext(stream)

    async def fail(*_: object) -> None:
        raise AssertionError("it has come to FastAPI")

    monkeypatch.setattr(FastAPI, "__call__", fail)

    batch = {"bot_id": 1, "updates": [message(1, "hello")]}
    response = await gateway.client.post("/chat", json=batch)
    (reply,) = await gateway.store.run(gateway.store.undelivered_replies)
    answers = [
        await gateway.client.post(f"/replies/{reply.id}/{what}", json={"epoch": 1, **body})
        for what, body in (
            ("parts", {"position": 0, "message_id": 5}),
            ("claim", {}),
            ("outcome", {"outcome": "delivered", "parts": 1}),
        )
    ]

    assert response.json() == {"receipts": [{"update_id": 1, "outcome": "accepted", "notice": ""}]}
    assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 3
    assert await gateway.store.run(gateway.store.undelivered_replies) == []


CLAIM = b'{"epoch": 1}'
BATCH = b'{"bot_id": 1, "updates": [{"text": "%s"}]}'


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/chat", BATCH % b"x", "application/json"),
        ("/chat", BATCH % b"x", "application/json; charset=utf-8"),
        ("/chat", BATCH % b"x", "text/plain"),
        ("/chat", BATCH % b"x", ""),
        ("/chat", BATCH % b"\\ud800", "application/json"),
        ("/chat", BATCH % b"\xff", "application/json"),
        ("/chat", BATCH.decode().replace("%s", "x").encode("utf-16"), "application/json"),
        ("/chat", b'{"bot_id": true, "updates": []}', "application/json"),
        ("/chat", b'{"bot_id": "1", "updates": []}', "application/json"),
        ("/chat", b'{"bot_id": 1.0, "updates": []}', "application/json"),
        ("/chat", b'{"bot_id": 1.5, "updates": []}', "application/json"),
        ("/chat", b'{"bot_id": 1, "updates": [], "refused": [1, 2]}', "application/json"),
        ("/chat", b'{"bot_id": 1, "updates": [], "strangers": NaN}', "application/json"),
        ("/chat", b'{"bot_id": 1, "bot_id": 0, "updates": []}', "application/json"),
        ("/chat?x=1", BATCH % b"x", "application/json"),
        ("/chat/", BATCH % b"x", "application/json"),
        ("/parts", CLAIM, "application/json"),
        ("/replies/1/chat", BATCH % b"x", "application/json"),
        ("/replies/1/claim", CLAIM, "application/json"),
        ("/replies/1/claim", CLAIM, "text/plain"),
        ("/replies/1/claim", b"", "application/json"),
        ("/replies/1/claim", b"[]", "application/json"),
        ("/replies/1/claim", b"x" * (MOST_BYTES + 1), "application/json"),
        ("/replies/01/claim", CLAIM, "application/json"),
        ("/replies/-1/claim", CLAIM, "application/json"),
        ("/replies/1.0/claim", CLAIM, "application/json"),
        ("/replies/%D9%A1/claim", CLAIM, "application/json"),
        ("/replies/" + "9" * 30 + "/claim", CLAIM, "application/json"),
        ("/replies/1/outcome", b'{"epoch": 1, "outcome": "lost"}', "application/json"),
        ("/replies/1/parts", b'{"epoch": 0, "position": 0, "message_id": 1}', "application/json"),
        ("/replies/1/parts", b'{"epoch": 0, "position": -1, "message_id": 1}', "application/json"),
    ],
)
async def test_calls_past_the_framework_are_answered_as_by_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: bytes,
    content_type: str,
) -> None:
    """What is refused, and in which words, and what is taken is the same on both ways."""
    seen = []
    for name in ("past", "through"):
        (tmp_path / name).mkdir()
        async with serve(tmp_path / name) as gateway:
            stream = gateway.outbox.stream()
            await anext(stream)
            headers = {"Content-Type": content_type} if content_type else {}
            response = await gateway.client.post(path, content=body, headers=headers)
            seen.append((response.status_code, response.headers.get("Content-Type"), response.text))
            await stream.aclose()
        monkeypatch.setattr(app, "OFTEN", re.compile("none"))

    assert seen[0] == seen[1]


@pytest.mark.parametrize("outcome", ["delivered", "undeliverable"])
async def test_only_what_was_shown_can_be_pressed(gateway: Gateway, outcome: str) -> None:
    """A menu for somebody who has blocked the bot stands nowhere, nor is a heartbeat renewed."""
    store, outbox = gateway.store, gateway.outbox
    reply = await store.run(store.add_menu, (USER, 0), USER, "Alive", "en")
    outbox.open(reply)
    outbox._epoch = 1
    await store.run(store.record_part, reply.id, 0, 50)

    body = {"epoch": 1, "outcome": outcome}
    response = await gateway.client.post(f"/replies/{reply.id}/outcome", json=body)

    assert response.status_code == 204
    stands = outcome == "delivered"
    assert bool(await store.run(store.menu, USER, 50)) == stands
    assert bool(await store.run(store.heartbeats)) == stands
