"""The gateway's HTTP interface: what the relay, and nobody else, may ask of it.

Errors are JSON, `{"error": sentence}`, and never repeat what was sent.
"""

import contextlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.inbox import Inbox
from services.gateway.outbox import Outbox, StaleEpoch, UnknownReply
from services.gateway.store import StoreError
from services.gateway.transcriber import TranscriberUnavailable
from services.wire import (
    SPOKEN,
    VERSION,
    VERSION_HEADER,
    Batch,
    Claim,
    Event,
    Outcome,
    PartRecord,
    Receipts,
    encode_event,
)

log = logging.getLogger(__name__)

MOST_AWAY_SECONDS = 30 * 86_400
"""A relay that claims more is not believed."""

MOST_BYTES = 4 * 1024 * 1024
"""A batch of 100 longest messages in four-byte characters takes less than 2 MiB."""

MOST_DOCUMENT_BYTES = 21 * 1024 * 1024
"""Telegram gives bots no file of more than 20 MB."""

MOST_FRAMES_BYTES = 64 * 1024
"""So much of the event stream is written at once."""

WARN_SECONDS = 60.0

OFTEN = re.compile(r"/(?:replies/([0-9]{1,18})/)?(chat|parts|claim|outcome)")
"""The calls that each ask makes, or several times."""

Endpoint = Callable[..., Awaitable[BaseModel | None]]


def build_app(inbox: Inbox, outbox: Outbox, link_token: str, heard: Path | None = None) -> ASGIApp:
    """Build the application; its collaborators are started and stopped by the caller.

    `heard`: a file for the version of the wire that the relay speaks, for whoever upgrades a node.
    """

    app = FastAPI(
        openapi_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            StarletteHTTPException: _refuse,
            RequestValidationError: _refuse_malformed,
            StaleEpoch: _refuse_stale,
            UnknownReply: _refuse_unknown,
            StoreError: _refuse_store,
            TranscriberUnavailable: _refuse_recording,
        },
    )

    @app.post("/chat")
    async def chat(batch: Batch) -> Receipts:
        return await inbox.accept(batch)

    @app.get("/events")
    async def events(
        request: Request, away_seconds: Annotated[int, Query(ge=0)] = 0
    ) -> StreamingResponse:
        if heard:
            with contextlib.suppress(OSError):  # a full tmpfs must not stop the messages
                heard.write_text(request.headers[VERSION_HEADER], encoding="ascii")
        is_current = int(request.headers[VERSION_HEADER]) > 1
        stream = outbox.stream(
            takes_files=is_current, away_seconds=min(away_seconds, MOST_AWAY_SECONDS)
        )
        hello = await anext(stream)  # here, a store that does not take it is still refused clearly
        frames = _frames(outbox, hello, stream)
        return StreamingResponse(frames, media_type="text/event-stream")

    @app.post("/replies/{reply_id}/parts", status_code=204)
    async def record_part(reply_id: int, part: PartRecord) -> None:
        await outbox.record_part(part.epoch, reply_id, part.position, part.message_id, part.chat_id)

    @app.get("/replies/{reply_id}/file")
    async def file(reply_id: int, epoch: int) -> Response:
        content = await outbox.file(epoch, reply_id)
        if not content:
            raise HTTPException(410, "the file was erased")
        return Response(content, media_type="application/octet-stream")

    @app.post("/replies/{reply_id}/document", status_code=204)
    async def document(reply_id: int, epoch: int, request: Request, document: str = "") -> None:
        outbox.claim(epoch, reply_id)
        await inbox.bring(reply_id, await request.body(), document)

    @app.delete("/replies/{reply_id}/document", status_code=204)
    async def missing_document(reply_id: int, epoch: int, document: str = "") -> None:
        outbox.claim(epoch, reply_id)
        await inbox.bring(reply_id, None, document)

    @app.post("/replies/{reply_id}/claim", status_code=204)
    async def claim(reply_id: int, claim: Claim) -> None:
        outbox.claim(claim.epoch, reply_id)

    @app.post("/replies/{reply_id}/outcome", status_code=204)
    async def outcome(reply_id: int, outcome: Outcome) -> None:
        if outcome.outcome == "moved":
            await inbox.move(outbox.chat_of(outcome.epoch, reply_id), outcome.moved_to)
            return
        is_shown = outcome.outcome == "delivered"
        await outbox.drop(outcome.epoch, reply_id, outcome.parts, is_shown=is_shown)
        if not is_shown:
            inbox.abandon(reply_id)
        log.info(outcome.outcome, extra={"reply": reply_id})

    often: dict[str, tuple[type[BaseModel], Endpoint]] = {
        "chat": (Batch, chat),
        "parts": (PartRecord, record_part),
        "claim": (Claim, claim),
        "outcome": (Outcome, outcome),
    }
    return _Gate(_Shortcut(app, often), link_token)


async def _frames(
    outbox: Outbox, first: Event | None, others: AsyncIterator[Event | None]
) -> AsyncIterator[bytes]:
    """Write events as they come; those that come together are written together."""
    yield _frame(first)
    frames: list[bytes] = []
    size = 0
    async for event in others:
        frame = _frame(event)
        frames.append(frame)
        size += len(frame)
        if not outbox.has_more or size >= MOST_FRAMES_BYTES:
            yield b"".join(frames)
            frames, size = [], 0
    if frames:
        yield b"".join(frames)


def _frame(event: Event | None) -> bytes:
    return encode_event(event) if event else b": alive\n\n"


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return _error(error.status_code, str(error.detail))


async def _refuse_malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"])
    return _error(422, f"malformed at {where}: {first['type']}")


async def _refuse_stale(_: Request, __: Exception) -> Response:
    return _error(409, "a newer stream has taken over")


async def _refuse_unknown(_: Request, __: Exception) -> Response:
    return _error(404, "no such reply is waiting for delivery")


async def _refuse_store(_: Request, error: Exception) -> Response:
    log.critical("store failed", extra={"remedy": str(error)})
    return _error(503, "the store does not take it; keep the updates and try again")


async def _refuse_recording(_: Request, error: Exception) -> Response:
    assert isinstance(error, TranscriberUnavailable)
    log.warning("transcriber unavailable", extra={"remedy": TranscriberUnavailable.__doc__})
    return _error(503, "the recording cannot be heard now: bring it again")


class _Gate:
    """Refuses who does not know the link token, who speaks another version, and oversized bodies.

    All of it before a body is parsed; FastAPI's own limit would answer in plain text.
    """

    def __init__(self, app: ASGIApp, link_token: str) -> None:
        self._app = app
        self._authorization = f"Bearer {link_token}".encode()
        self._warned_at = -WARN_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, self._authorization):
            sentence = "the link token does not fit: check it on both nodes"
            await _error(401, sentence)(scope, receive, send)
        elif headers.get(VERSION_HEADER, "") not in map(str, SPOKEN):
            sentence = (
                f"this end speaks versions {min(SPOKEN)} to {VERSION} of the wire: "
                "upgrade the older node"
            )
            self._warn(sentence)
            response = _error(426, sentence)
            response.headers[VERSION_HEADER] = str(VERSION)
            await response(scope, receive, send)
        else:
            most = MOST_DOCUMENT_BYTES if scope["path"].endswith("/document") else MOST_BYTES
            await self._app(scope, _limited(receive, most), send)

    def _warn(self, sentence: str) -> None:
        """Tell the operator, but not with every request of a relay that keeps trying."""
        now = time.monotonic()
        if now - self._warned_at >= WARN_SECONDS:
            self._warned_at = now
            log.error("other version", extra={"remedy": sentence})


class _Shortcut:
    """Lets the calls that are made most go past FastAPI, which takes most of their time.

    Whatever is not as the relay writes it goes through FastAPI, which says what is wrong with it.
    """

    def __init__(self, app: ASGIApp, often: dict[str, tuple[type[BaseModel], Endpoint]]) -> None:
        self._app = app
        self._often = often

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = OFTEN.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if (
            not found
            or scope["method"] != "POST"
            or (found[1] is None) is not (found[2] == "chat")
            or (b"content-type", b"application/json") not in scope["headers"]
        ):
            await self._app(scope, receive, send)
            return
        kind, endpoint = self._often[found[2]]
        body = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        except HTTPException as error:
            await (await _refuse(Request(scope), error))(scope, receive, send)
            return
        try:
            told = kind.model_validate_json(body)
        except ValidationError:
            await self._app(scope, _again(bytes(body), receive), send)
            return
        numbers = [int(found[1])] if found[1] else []
        try:
            answer = await endpoint(*numbers, told)
        except StaleEpoch as error:
            refusal = await _refuse_stale(Request(scope), error)
        except UnknownReply as error:
            refusal = await _refuse_unknown(Request(scope), error)
        except StoreError as error:
            refusal = await _refuse_store(Request(scope), error)
        else:
            await _send(send, answer.model_dump_json().encode() if answer else b"")
            return
        await refusal(scope, receive, send)


def _again(body: bytes, receive: Receive) -> Receive:
    """Let a body be read that has been read before."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return messages.pop() if messages else await receive()

    return read


async def _send(send: Send, content: bytes) -> None:
    """Answer with JSON; with nothing: that there is none."""
    headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
    await send(
        {
            "type": "http.response.start",
            "status": 200 if content else 204,
            "headers": headers if content else [],
        }
    )
    await send({"type": "http.response.body", "body": content})


def _limited(receive: Receive, most: int) -> Receive:
    seen = 0

    async def count() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, f"more than {most} bytes")
        return message

    return count
