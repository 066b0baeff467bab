"""The stub engine's HTTP side: vLLM's answers, byte for byte in shape, and the control endpoints."""

import asyncio
import json
import random
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from aiohttp import web

from tests.stubs.engine.record import Entry, Outcome, Record
from tests.stubs.engine.script import BadScript, Fault, Script, parse_script, split_tokens


def build_app(name: str = "stub", context_tokens: int = 8192) -> web.Application:
    """Build the application; run it with handler_cancellation, or a client's leaving is seen late."""
    engine = Engine(name, context_tokens)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/health", engine.health)
    app.router.add_get("/v1/models", engine.list_models)
    app.router.add_post("/v1/chat/completions", engine.complete)
    app.router.add_post("/tokenize", engine.tokenize)
    app.router.add_post("/control/script", engine.set_script)
    app.router.add_get("/control/record", engine.show_record)
    app.router.add_get("/control/running", engine.show_running)
    return app


class Engine:
    """One model that says what the script tells it to."""

    def __init__(self, name: str, context_tokens: int) -> None:
        self._name = name
        self._context_tokens = context_tokens
        self._script = Script()
        self._fault_uses = 0
        self._record = Record()

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def list_models(self, _request: web.Request) -> web.Response:
        model = {
            "id": self._name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self._name,
            "parent": None,
            "max_model_len": self._context_tokens,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await _read_object(request)
        if isinstance(body.get("messages"), list):
            count = _count_prompt(body["messages"])
        elif isinstance(body.get("prompt"), str):
            count = len(split_tokens(body["prompt"]))
        else:
            raise _refusal(400, "give messages or a prompt")
        return web.json_response(
            {
                "count": count,
                "max_model_len": self._context_tokens,
                "tokens": list(range(count)),
                "token_strs": None,
            }
        )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await _read_object(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _refusal(400, "messages: give a list with at least one message")
        if body.get("model", self._name) != self._name:
            raise _refusal(
                404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model"
            )
        entry = self._record.open(body)
        fault = self._take_fault()
        outcome: Outcome = "aborted"
        try:
            response, outcome = await self._answer(request, body, entry, fault)
            return response
        except web.HTTPException:
            outcome = "faulted"
            raise
        except ConnectionError:
            return web.Response()  # nobody is there to read it
        finally:
            self._record.close(entry, outcome)

    def _take_fault(self) -> Fault | None:
        fault = self._script.fault
        if fault is None or (fault.count is not None and self._fault_uses >= fault.count):
            return None
        self._fault_uses += 1
        return fault

    async def _answer(
        self, request: web.Request, body: dict[str, Any], entry: Entry, fault: Fault | None
    ) -> tuple[web.StreamResponse, Outcome]:
        script = self._script
        kind = fault.kind if fault else None
        prompt_tokens = _count_prompt(body["messages"])
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if kind == "refuse":
            _break(request)
            return web.Response(), "faulted"
        if kind == "status" and fault is not None:
            raise _refusal(fault.status, "the script says so", "InternalServerError")
        if kind == "context_overflow" or prompt_tokens + (limit or 1) > self._context_tokens:
            raise _overflow(self._context_tokens, prompt_tokens, limit)

        tokens = split_tokens(_cut_at_stop(self._text(script, body), body.get("stop")))
        room = self._context_tokens - prompt_tokens
        finish_reason = "stop" if len(tokens) <= min(limit or room, room) else "length"
        tokens = tokens[: min(limit or room, room)]
        usage = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + len(tokens),
            "completion_tokens": len(tokens),
        }
        chunks = Chunks(self._name)
        pace = Pace(script)
        if not body.get("stream"):
            for n in range(len(tokens)):
                await pace.wait(n)
                entry.tokens += 1
            answer = chunks.whole("".join(tokens), finish_reason, usage)
            return web.json_response(answer), "finished"

        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await pace.wait(0)
        await response.write(chunks.role())
        for n, token in enumerate(tokens):
            if fault is not None and n == fault.after_tokens:
                if fault.kind == "hang":
                    await asyncio.Event().wait()
                if fault.kind == "cut":
                    _break(request)
                    return response, "faulted"
                if fault.kind == "error":
                    await response.write(chunks.error("the script says so") + chunks.END)
                    return response, "faulted"
                if fault.kind == "garbage":
                    await response.write(b'data: {"choices":[{"delta"\n\n')
                if fault.kind == "slow":
                    pace = Pace(Script(speed=1 / fault.seconds), done=n - 1)
            await pace.wait(n)
            await response.write(chunks.content(token))
            entry.tokens += 1
        if fault is not None and fault.kind in ("hang", "cut") and not tokens[fault.after_tokens :]:
            raise AssertionError("the fault comes after the end of the answer")
        await response.write(chunks.finish(finish_reason))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(chunks.usage(usage))
        await response.write(chunks.END)
        await response.write_eof()
        return response, "finished"

    def _text(self, script: Script, body: dict[str, Any]) -> str:
        """Find the answer; a request to continue one gets what comes after its beginning."""
        messages = body["messages"]
        questions = [_text_of(m) for m in messages if m.get("role") == "user"]
        text = script.answer(questions[-1] if questions else "")
        if body.get("continue_final_message"):
            return text.removeprefix(_text_of(messages[-1]))
        return text

    async def set_script(self, request: web.Request) -> web.Response:
        try:
            self._script = parse_script(await _read_object(request))
        except BadScript as error:
            raise _refusal(400, str(error)) from None
        self._fault_uses = 0
        return web.json_response({})

    async def show_record(self, request: web.Request) -> web.Response:
        return web.json_response(self._record.after(int(request.query.get("after", "0"))))

    async def show_running(self, _request: web.Request) -> web.Response:
        running = self._record.running()
        return web.json_response({"running": len(running), "ids": running})


class Pace:
    """Says when each token is due, counted from the first, so that errors do not add up."""

    def __init__(self, script: Script, done: int = 0) -> None:
        self._script = replace(script)
        self._clock = asyncio.get_running_loop().time
        self._begin = self._clock() + script.first_token_seconds
        self._done = done
        self._random = random.Random(0)  # noqa: S311 - jitter, the same in every run

    async def wait(self, token: int) -> None:
        """Wait until token number `token` (0 is the first) may be sent."""
        due = self._begin
        if self._script.speed is not None:
            shift = self._script.jitter * (self._random.random() - 0.5)
            due += max(0.0, token - self._done + shift) / self._script.speed
        delay = due - self._clock()
        if delay > 0:
            await asyncio.sleep(delay)
        elif token % 64 == 0:
            await asyncio.sleep(0)  # other streams and the control endpoints get their turn


class Chunks:
    """The server-sent events of one answer, as vLLM writes them."""

    END = b"data: [DONE]\n\n"

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        head = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": model,
        }
        self._head = b"data: " + _encode(head)[:-1]

    def role(self) -> bytes:
        return (
            self._head + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
            b'"logprobs":null,"finish_reason":null}]}\n\n'
        )

    def content(self, text: str) -> bytes:
        return (
            self._head
            + b',"choices":[{"index":0,"delta":{"content":'
            + json.dumps(text, ensure_ascii=False).encode()
            + b'},"logprobs":null,"finish_reason":null}]}\n\n'
        )

    def finish(self, reason: str) -> bytes:
        return (
            self._head
            + b',"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"'
            + reason.encode()
            + b'","stop_reason":null}]}\n\n'
        )

    def usage(self, usage: dict[str, int]) -> bytes:
        return self._head + b',"choices":[],"usage":' + _encode(usage) + b"}\n\n"

    def error(self, message: str) -> bytes:
        return b"data: " + _encode(_error(500, message, "InternalServerError")) + b"\n\n"

    def whole(self, text: str, reason: str, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": reason,
                    "stop_reason": None,
                }
            ],
            "usage": usage,
        }


def _break(request: web.Request) -> None:
    """Close the connection at once, in the middle of whatever was being sent."""
    if request.transport is not None:
        request.transport.abort()


async def _read_object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise _refusal(400, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise _refusal(400, "the body is no object")
    return body


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def _count_prompt(messages: Iterable[dict[str, Any]]) -> int:
    """Count as split_tokens does, and 4 for each message's frame."""
    return sum(4 + len(split_tokens(_text_of(message))) for message in messages)


def _cut_at_stop(text: str, stop: str | list[str] | None) -> str:
    for word in [stop] if isinstance(stop, str) else stop or ():
        text = text.partition(word)[0]
    return text


def _overflow(context_tokens: int, prompt_tokens: int, limit: int | None) -> web.HTTPException:
    return _refusal(400, f"{context_tokens} {prompt_tokens} {limit}")


def _refusal(
    status: int, message: str, kind: str = "BadRequestError", param: str | None = None
) -> web.HTTPException:
    refusal = web.HTTPException(
        text=_encode(_error(status, message, kind, param)).decode(),
        content_type="application/json",
    )
    refusal.set_status(status)
    return refusal


def _error(status: int, message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
