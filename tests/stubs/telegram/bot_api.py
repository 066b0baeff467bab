"""Owns the HTTP side that the bot sees: paths, bodies, faults, answers, and their record."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.stubs.telegram.errors import BotApiError, too_many_requests
from tests.stubs.telegram.faults import Fault
from tests.stubs.telegram.methods import Answer
from tests.stubs.telegram.params import read_params
from tests.stubs.telegram.updates import Pending

if TYPE_CHECKING:
    from tests.stubs.telegram.stub import Stub

_MAX_BODY = 55 << 20
_HEADERS = {
    "Server": "nginx/1.18.0",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Expose-Headers": "Content-Length,Content-Type,Date,Server,Connection",
}
_HTML_REASONS = {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}
_DESCRIPTIONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    420: "Flood",
    500: "Internal Server Error",
}


class _CutConnection(Exception):
    """The connection was ended on purpose; there is nobody left to answer."""


def bot_api_app(stub: Stub) -> web.Application:
    """Build the application for /bot<token>/<method> and /file/bot<token>/<path>."""
    server = _Server(stub)
    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_route("*", "/{path:.*}", server.handle)
    return app


class _Server:
    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    async def handle(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        try:
            if path.startswith("file/bot"):
                token, _, file_path = path.removeprefix("file/bot").partition("/")
                self._stub.authorize(token)
                return await self._download(request, file_path)
            if not path.startswith("bot") or "/" not in path:
                raise BotApiError(404, "Not Found")
            token, _, method = path.removeprefix("bot").partition("/")
            self._stub.authorize(token)
            return await self._call(request, method)
        except BotApiError as error:
            self._stub.record.add(
                "refused",
                # Without the token, which a record that may be kept has no business with.
                path=path.removeprefix("file/").partition("/")[2],
                outcome={"ok": False, "error_code": error.code, "description": error.description},
            )
            return _error_response(error)

    async def _download(self, request: web.Request, path: str) -> web.Response:
        started = time.time()
        fault = self._stub.faults.match("file", "")
        outcome: dict[str, Any] = {"ok": False}
        try:
            if fault is not None and fault.when == "before":
                await self._strike(request, fault)
            stored = self._stub.files.at(path)
            outcome = {"ok": True, "size": len(stored.content)}
            if fault is not None and (fault.when == "after" or fault.kind == "lose_answer"):
                await self._strike(request, fault)
            return web.Response(
                body=stored.content, content_type="application/octet-stream", headers=_HEADERS
            )
        except BotApiError as error:
            outcome = _outcome_of(error)
            return _error_response(error)
        except _FaultResponse as struck:
            outcome = {**outcome, "answered": {"ok": False, "error_code": struck.response.status}}
            return struck.response
        except _CutConnection:
            return web.Response()
        finally:
            self._stub.record.add(
                "download",
                path=path,
                outcome=outcome,
                fault=None if fault is None else fault.kind,
                duration=time.time() - started,
            )

    async def _call(self, request: web.Request, written: str) -> web.Response:
        started = time.time()
        try:
            params = await read_params(request)
        except web.HTTPRequestEntityTooLarge:
            return _error_response(BotApiError(413, "Request Entity Too Large"))
        method = (written or params.text("method")).lower()
        stub, record = self._stub, self._stub.record
        fault = stub.faults.match(method, params.text("chat_id"))
        outcome: dict[str, Any] = {"ok": False, "carried_out": False}
        response = web.Response()
        try:
            if fault is not None and fault.when == "before" and fault.kind != "lose_answer":
                await self._strike(request, fault)
            try:
                answer = await stub.methods.call(method, params)
                outcome = {"ok": True, "result": _result_for_record(answer)}
                response = _ok_response(answer)
            except BotApiError as error:
                outcome = _outcome_of(error)
                response = _error_response(error)
            if fault is not None and (fault.when == "after" or fault.kind == "lose_answer"):
                await self._strike(request, fault)
        except BotApiError as error:
            outcome = {**outcome, "answered": _outcome_of(error)}
            response = _error_response(error)
        except _FaultResponse as struck:
            outcome = {**outcome, "answered": {"ok": False, "error_code": struck.response.status}}
            response = struck.response
        except _CutConnection:
            outcome = {**outcome, "answered": None}
        finally:
            record.add(
                "call",
                method=method,
                chat_id=params.text("chat_id"),
                params=params.for_record(),
                outcome=outcome,
                fault=None if fault is None else fault.kind,
                started=started,
                duration=time.time() - started,
            )
        return response

    async def _strike(self, request: web.Request, fault: Fault) -> None:
        """Do what the fault says; return only if the call is to go on."""
        match fault.kind:
            case "hang" | "delay":
                await fault.hold()
            case "reset" | "lose_answer":
                _cut(request, with_reset=fault.kind == "reset")
                raise _CutConnection
            case "retry_after":
                raise too_many_requests(int(fault.seconds or 5))
            case "status":
                raise _FaultResponse(_status_response(fault))
            case _:
                raise AssertionError(fault.kind)


class _FaultResponse(Exception):
    """An ordered answer in place of the real one."""

    def __init__(self, response: web.Response) -> None:
        super().__init__()
        self.response = response


def _cut(request: web.Request, *, with_reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if with_reset and connection is not None:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def _status_response(fault: Fault) -> web.Response:
    reason = _HTML_REASONS.get(fault.status)
    if reason is not None and not fault.description:
        title = f"{fault.status} {reason}"
        page = (
            f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
            f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx/1.18.0</center>\r\n"
            "</body>\r\n</html>\r\n"
        )
        return web.Response(
            status=fault.status, text=page, content_type="text/html", headers=_HEADERS
        )
    description = fault.description or _DESCRIPTIONS.get(fault.status, "Error")
    return _error_response(BotApiError(fault.status, description))


def _ok_response(answer: Answer) -> web.Response:
    result = answer.result
    if isinstance(result, list) and result and isinstance(result[0], Pending):
        # Updates are encoded once, when queued.
        body = f'{{"ok":true,"result":[{",".join(update.encoded for update in result)}]}}'
    else:
        content: dict[str, Any] = {"ok": True, "result": result}
        if answer.description:
            content["description"] = answer.description
        body = json.dumps(content, separators=(",", ":"))
    return web.Response(text=body, content_type="application/json", headers=_HEADERS)


def _error_response(error: BotApiError) -> web.Response:
    content: dict[str, Any] = {
        "ok": False,
        "error_code": error.code,
        "description": error.description,
    }
    headers = _HEADERS
    if error.retry_after is not None:
        content["parameters"] = {"retry_after": error.retry_after}
        headers = {**_HEADERS, "Retry-After": str(error.retry_after)}
    if error.migrate_to is not None:
        content["parameters"] = {"migrate_to_chat_id": error.migrate_to}
    return web.Response(
        status=error.code,
        text=json.dumps(content, separators=(",", ":")),
        content_type="application/json",
        headers=headers,
    )


def _outcome_of(error: BotApiError) -> dict[str, Any]:
    outcome: dict[str, Any] = {
        "ok": False,
        "error_code": error.code,
        "description": error.description,
    }
    if error.retry_after is not None:
        outcome["retry_after"] = error.retry_after
    return outcome


def _result_for_record(answer: Answer) -> Any:
    result = answer.result
    if isinstance(result, list) and result and isinstance(result[0], Pending):
        return [update.number for update in result]
    return result
