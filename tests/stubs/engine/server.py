"""The stub engine's HTTP side: answers in vLLM's shapes, and the control endpoints."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from aiohttp import web

from tests.stubs.engine.record import Entry, Outcome, Record
from tests.stubs.engine.script import BadScript, Fault, Script, parse_script, split_tokens

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(
    name: str = "stub",
    context_tokens: int = 8192,
    script: Script | None = None,
    also: Sequence[str] = (),
    slots: int = 1024,
) -> web.Application:
    """Build the application; without handler_cancellation it sees late that a client left.

    `also`: further names that it serves, behind the first. `slots`: answers at once.
    """
    engine = Engine((name, *also), context_tokens, script or Script(), slots)
    app = web.Application(middlewares=[answer_refusals], client_max_size=64 * 1024 * 1024)
    app.router.add_get("/health", engine.health)
    app.router.add_get("/v1/models", engine.list_models)
    app.router.add_post("/v1/chat/completions", engine.complete)
    app.router.add_post("/tokenize", engine.tokenize)
    app.router.add_post("/v1/messages/count_tokens", engine.count_tokens)
    app.router.add_post("/control/script", engine.set_script)
    app.router.add_get("/control/record", engine.show_record)
    app.router.add_get("/control/running", engine.show_running)
    return app


class Engine:
    """Says what the script tells it to, under each of its names."""

    def __init__(
        self, names: Sequence[str], context_tokens: int, script: Script, slots: int
    ) -> None:
        self._names = names
        self._context_tokens = context_tokens
        self._script = script
        self._fault_uses = 0
        self._record = Record()
        self._slots = asyncio.Semaphore(slots)

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def list_models(self, _request: web.Request) -> web.Response:
        models = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": name,
                "parent": None,
                "max_model_len": self._context_tokens,
            }
            for name in self._names
        ]
        return web.json_response({"object": "list", "data": models})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await _read_object(request)
        if isinstance(body.get("messages"), list):
            count = _count_prompt(body["messages"])
        elif isinstance(body.get("prompt"), str):
            count = len(split_tokens(body["prompt"]))
        else:
            raise Refusal(400, "give messages or a prompt")
        return web.json_response(
            {
                "count": count,
                "max_model_len": self._context_tokens,
                "tokens": list(range(count)),
                "token_strs": None,
            }
        )

    async def count_tokens(self, request: web.Request) -> web.Response:
        body = await _read_object(request)
        self._check_name(body)
        system = [{"content": body["system"]}] if body.get("system") else []
        return web.json_response({"input_tokens": _count_prompt(system + body["messages"])})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await _read_object(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "messages: give a list with at least one message")
        if not all(isinstance(message, dict) for message in messages):
            raise Refusal(400, "messages: give objects", "Bad Request", "body.messages")
        name = self._check_name(body)
        entry = self._record.open(body)
        outcome: Outcome = "aborted"
        try:
            async with self._slots:
                fault = self._take_fault()
                response, outcome = await self._answer(request, body, name, entry, fault)
            return response
        except Refusal:
            outcome = "faulted"
            raise
        except ConnectionError:
            return web.Response()  # nobody is there to read it
        finally:
            self._record.close(entry, outcome)

    def _check_name(self, body: dict[str, Any]) -> str:
        name = body.get("model", self._names[0])
        if name not in self._names:
            message = f"The model `{name}` does not exist. Valid aliases: {self._names[0]}."
            raise Refusal(404, message, "NotFoundError", "model")
        return str(name)

    def _take_fault(self) -> Fault | None:
        fault = self._script.fault
        if fault is None or (fault.count is not None and self._fault_uses >= fault.count):
            return None
        self._fault_uses += 1
        return fault

    async def _answer(
        self,
        request: web.Request,
        body: dict[str, Any],
        name: str,
        entry: Entry,
        fault: Fault | None,
    ) -> tuple[web.StreamResponse, Outcome]:
        script = self._script
        kind = fault.kind if fault else None
        if kind == "refuse":
            _break(request)
            return web.Response(), "faulted"
        if fault and kind == "status":
            raise Refusal(fault.status, "the script says so", "InternalServerError")
        prompt_tokens = _count_prompt(body["messages"])
        room = self._context_tokens - prompt_tokens
        if kind == "context_overflow" or room < 1:
            raise _overflow(self._context_tokens)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or room
        if not isinstance(limit, int):
            raise Refusal(400, "max_tokens: give a whole number", "Bad Request", "body.max_tokens")
        if limit > self._context_tokens:
            raise _greed(self._context_tokens, limit)
        limit = min(limit, room)

        tokens = split_tokens(_cut_at_stop(self._text(script, body), body.get("stop")))
        finish = "stop" if len(tokens) <= limit else "length"
        tokens = tokens[:limit]
        usage = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + len(tokens),
            "completion_tokens": len(tokens),
        }
        if body.get("stream"):
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            chunks = Chunks(name, finish, usage if wants_usage else None)
            return await self._stream(request, chunks, tokens, fault, entry)
        pace = Pace(script.speed, script.jitter, script.first_token_seconds)
        for n in range(len(tokens)):
            await pace.wait(n)
            entry.tokens += 1
        return web.json_response(_whole(name, "".join(tokens), finish, usage)), "finished"

    async def _stream(
        self,
        request: web.Request,
        chunks: "Chunks",
        tokens: list[str],
        fault: Fault | None,
        entry: Entry,
    ) -> tuple[web.StreamResponse, Outcome]:
        script = self._script
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        pace = Pace(script.speed, script.jitter, script.first_token_seconds)
        await pace.wait(0)
        await response.write(chunks.role())
        # The finish comes with the last token, or alone after a natural end.
        pieces = tokens if chunks.finish == "length" else [*tokens, ""]
        fault_at = min(fault.after_tokens, len(pieces) - 1) if fault else -1
        for n, piece in enumerate(pieces):
            if fault and n == fault_at:
                match fault.kind:
                    case "hang":
                        await asyncio.Event().wait()
                    case "cut":
                        _break(request)
                        return response, "faulted"
                    case "error":
                        await response.write(chunks.error("the script says so") + chunks.END)
                        return response, "faulted"
                    case "garbage":
                        await response.write(b'data: {"choices":[{"delta"\n\n')
                    case "slow":
                        pace = Pace(1 / fault.seconds, first=n - 1)
            await pace.wait(n)
            entry.tokens += piece != ""
            await response.write(chunks.content(piece, is_last=n == len(pieces) - 1))
        await response.write(chunks.end())
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
            raise Refusal(400, str(error)) from None
        self._fault_uses = 0
        return web.json_response({})

    async def show_record(self, request: web.Request) -> web.Response:
        return web.json_response(self._record.after(int(request.query.get("after", "0"))))

    async def show_running(self, _request: web.Request) -> web.Response:
        running = self._record.running()
        return web.json_response({"running": len(running), "ids": running})


class Pace:
    """Says when each token is due, counted from the first, so that errors do not add up."""

    def __init__(
        self,
        speed: float | None,
        jitter: float = 0.0,
        first_token_seconds: float = 0.0,
        first: int = 0,
    ) -> None:
        self._speed = speed
        self._jitter = jitter
        self._first = first
        self._clock = asyncio.get_running_loop().time
        self._begin = self._clock() + first_token_seconds
        self._random = random.Random(0)  # the same jitter in every run

    async def wait(self, token: int) -> None:
        """Wait until token number `token` (0 is the first) may be sent."""
        due = self._begin
        if self._speed is not None:
            shift = self._jitter * (self._random.random() - 0.5)
            due += max(0.0, token - self._first + shift) / self._speed
        delay = due - self._clock()
        if delay > 0:
            await asyncio.sleep(delay)
        elif token % 64 == 0:
            await asyncio.sleep(0)  # other streams and the control endpoints get their turn


class Chunks:
    """The server-sent events of one answer, as vLLM 0.32 writes them."""

    END = b"data: [DONE]\n\n"

    def __init__(self, model: str, finish: str, usage: dict[str, int] | None) -> None:
        self.finish = finish
        head = {
            "id": f"chatcmpl-{uuid4().hex[:16]}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._head = b"data: " + _encode(head)[:-1]
        self._before_text = self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._usage = usage

    def role(self) -> bytes:
        return (
            self._head + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
            b'"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
        )

    def content(self, text: str, is_last: bool) -> bytes:
        finish = b"null"
        if is_last:
            finish = b'"' + self.finish.encode() + b'","stop_reason":null'
        return (
            self._before_text
            + json.dumps(text, ensure_ascii=False).encode()
            + b'},"logprobs":null,"finish_reason":'
            + finish
            + b',"token_ids":null}]}\n\n'
        )

    def end(self) -> bytes:
        if self._usage is None:
            return self.END
        return self._head + b',"choices":[],"usage":' + _encode(self._usage) + b"}\n\n" + self.END

    def error(self, message: str) -> bytes:
        return b"data: " + _encode(_error(500, message, "InternalServerError", None)) + b"\n\n"


def _whole(model: str, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid4().hex[:16]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": finish,
                "stop_reason": None,
            }
        ],
        "usage": usage,
    }


class Refusal(Exception):
    """A request that is answered with an error, in vLLM's shape."""

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = _error(status, message, kind, param)


@web.middleware
async def answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return web.json_response(refusal.body, status=refusal.status)


def _overflow(context_tokens: int) -> Refusal:
    return Refusal(
        400,
        f"This model's maximum context length is {context_tokens} tokens. However, your prompt "
        f"contains at least {context_tokens + 1} input tokens, which exceeds this limit even "
        "without any output tokens. Please reduce the length of the input prompt. "
        f"(parameter=input_tokens, value={context_tokens + 1})",
        param="input_tokens",
    )


def _greed(context_tokens: int, limit: int) -> Refusal:
    return Refusal(
        400,
        f"max_tokens={limit} cannot be greater than max_model_len={context_tokens}. "
        f"Please request fewer output tokens. (parameter=max_tokens, value={limit})",
        param="max_tokens",
    )


def _break(request: web.Request) -> None:
    """Close the connection at once, in the middle of whatever was being sent."""
    if request.transport is not None:
        request.transport.abort()


async def _read_object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise Refusal(400, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is no object")
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


def _error(status: int, message: str, kind: str, param: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
