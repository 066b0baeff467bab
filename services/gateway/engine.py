"""Speaks to the engine: OpenAI's chat completions, streamed, over a Unix socket.

vLLM and llama.cpp speak the same protocol with small differences; where they differ, the request
is written so that both do the same. Closing the connection makes either stop generating, and only
a streaming request can be stopped that way.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from services.gateway.texts import is_visible
from services.gateway.thinking import Thinking

PROMPT_SECONDS = 120.0
"""The engine has hung if it says nothing at all for this long: reading a prompt takes its time."""

GATHER_SECONDS = 0.04
"""Once an answer is visible, what follows is gathered for so long at most: to wake up costs as much
as some tokens, and the relay edits about once a second."""

Message = dict[str, Any]
"""A role, and a content: a text, or a list of pictures and a text, as OpenAI writes them."""


class EngineUnavailable(Exception):
    """The engine does not answer yet: it may still be starting. Asks wait until it does."""


class EngineFailed(Exception):
    """The engine broke off or reported an error: look at its log."""


class PromptTooLong(Exception):
    """The prompt does not fit the engine's context: leave out the oldest turns."""


class NoSuchModel(Exception):
    """The engine does not have a model: compare MODELS with what its GET /v1/models lists."""


class CannotResume(Exception):
    """The engine, or its model's chat template, cannot go on with an answer: begin it anew."""


class CannotSee(Exception):
    """The engine refuses pictures: serve a model that sees, or set PICTURES=0."""


@dataclass(frozen=True)
class Piece:
    """A bit more of the answer."""

    text: str
    tokens: int = 1
    """As far as can be told before the engine counts itself: in so many bits it has come."""


@dataclass(frozen=True)
class Thought:
    """A bit more of what a reasoning model thinks before it answers: no part of the answer."""

    text: str
    tokens: int = 1
    """As with a Piece."""


@dataclass(frozen=True)
class Finished:
    """The answer is complete: why it ended, and what it cost in tokens."""

    reason: str
    prompt_tokens: int
    answer_tokens: int


class Engine:
    """A connection pool to one engine."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._chat_key = secrets.token_bytes(32)
        self._name = ""
        self._counts_prompts = True

    async def is_ready(self) -> bool:
        """Tell whether the engine takes requests now."""
        try:
            async with self._session.get("http://engine/health", timeout=_short()) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def count_prompt(self, messages: list[Message], model: str = "") -> int | None:
        """Count a prompt's tokens by the engine's own tokenizer; None if it does not offer that.

        `model`: the engine's name of it; "": the first one that it serves. Raises
        EngineUnavailable, NoSuchModel, EngineFailed. vLLM and llama.cpp speak this part of
        Anthropic's protocol alike (https://docs.anthropic.com/en/api/messages-count-tokens); their
        own endpoints differ.
        """
        if not self._counts_prompts:
            return None
        system = [message["content"] for message in messages if message["role"] == "system"]
        name = model or await self._served_name()
        body = {
            "model": name,
            "messages": [message for message in messages if message["role"] != "system"],
            **({"system": "\n".join(system)} if system else {}),
        }
        try:
            async with self._session.post(
                "http://engine/v1/messages/count_tokens",
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json"},
                timeout=_short(),
            ) as response:
                if response.status == 200:
                    return int(orjson.loads(await response.read())["input_tokens"])
                if response.status == 404 and name not in await self._names():
                    if model:
                        raise NoSuchModel
                    self._name = ""  # another model is served by now
                    return None
                # An engine without it is not asked again; one that has a bad moment is.
                self._counts_prompts = response.status not in (404, 405, 501)
                return None
        except aiohttp.ClientConnectorError as error:
            raise EngineUnavailable from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError):
            return None  # too busy, or odd: the estimate must do this time

    async def stream(
        self,
        messages: list[Message],
        answer_tokens: int,
        temperature: float,
        priority: int = 0,
        *,
        resume: bool = False,
        model: str = "",
        thinks: bool = True,
        chat: str = "",
    ) -> AsyncGenerator[Piece | Thought | Finished]:
        """Generate an answer of at most `answer_tokens` tokens.

        `priority`: lower goes first where the engine must choose. `resume`: the last message is the
        beginning of the answer, and what is generated goes on where it ends. `model`: the engine's
        name of it; "": the first one that it serves. `thinks` False: a reasoning model is asked to
        answer at once, which not every one can. `chat`: what is the same for all requests of a
        conversation. Where there are several engines, they go to the one that still holds what it
        has read of it; what is said of it there tells nobody whose it is.

        Yields thoughts and pieces, then exactly one Finished. Closing the generator aborts the
        generation. Raises EngineUnavailable before the first piece, PromptTooLong, CannotResume,
        NoSuchModel, CannotSee, or EngineFailed.
        """
        body = {
            "model": model or await self._served_name(),
            "messages": messages,
            "max_tokens": answer_tokens,
            "temperature": temperature,
            "priority": priority,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"continue_final_message": True, "add_generation_prompt": False} if resume else {}),
            **({} if thinks else {"chat_template_kwargs": {"enable_thinking": False}}),
        }
        try:
            async with self._session.post(
                "http://engine/v1/chat/completions",
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json", **self._session_id(chat)},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=PROMPT_SECONDS),
            ) as response:
                if response.status != 200:
                    self._name = ""  # another model may be served by now
                    if response.status == 404 and model:
                        raise NoSuchModel
                    has_pictures = any(isinstance(m["content"], list) for m in messages)
                    await _raise_for(response, resume, has_pictures)
                answer = _Answer(is_resumed=resume)
                gathering = _Gathering()
                response.content.on_eof(gathering.end)
                is_shown = False
                while data := await response.content.readany():
                    for item in answer.read(data):
                        yield item
                        if isinstance(item, Finished):
                            return
                        is_shown = is_shown or is_visible(item.text)
                    if is_shown:
                        await gathering.wait()
                raise EngineFailed  # cut off before [DONE]
        except aiohttp.ClientConnectorError as error:
            raise EngineUnavailable from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineFailed from error

    def _session_id(self, chat: str) -> dict[str, str]:
        """The header that routers of engines know a conversation by: made anew by each process."""
        if not chat:
            return {}
        digest = hashlib.blake2b(chat.encode(), key=self._chat_key, digest_size=16)
        return {"X-Session-ID": digest.hexdigest()}

    async def _served_name(self) -> str:
        if not self._name:
            try:
                self._name = (await self._names())[0]
            except IndexError as error:
                raise EngineFailed from error
        return self._name

    async def _names(self) -> list[str]:
        """List what the engine serves. Raises EngineUnavailable, EngineFailed."""
        try:
            async with self._session.get("http://engine/v1/models", timeout=_short()) as response:
                if response.status != 200:
                    raise EngineUnavailable
                return [model["id"] for model in orjson.loads(await response.read())["data"]]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineUnavailable from error
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise EngineFailed from error


@asynccontextmanager
async def open_engine(socket: Path, slots: int) -> AsyncGenerator[Engine]:
    """Open the pool: as many connections as the engine has slots, and some for questions.

    Each request has its own: engines close idle connections when they like, and a request that is
    written to one at that moment is lost. On a Unix socket a connection costs next to nothing.
    """
    connector = aiohttp.UnixConnector(str(socket), limit=slots + 8, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Engine(session)


class _Gathering:
    """Lets more of an answer come, until its end or the next of the moments that all wait for.

    A timeout would do the same, but it cancels, and raises, at each of these moments.
    """

    def __init__(self) -> None:
        self._is_over = False
        self._moment: asyncio.Future[None] | None = None

    def end(self) -> None:
        """No more comes."""
        self._is_over = True
        self._wake()

    async def wait(self) -> None:
        """Wait for the moment."""
        if self._is_over:
            return
        loop = asyncio.get_running_loop()
        self._moment = loop.create_future()
        due = (loop.time() // GATHER_SECONDS + 1) * GATHER_SECONDS
        timer = loop.call_at(due, self._wake)
        try:
            await self._moment
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._moment and not self._moment.done():
            self._moment.set_result(None)


class _Answer:
    """Reads an answer out of the engine's event stream, wherever that is cut.

    Bits of one kind that come together are told together.
    """

    def __init__(self, *, is_resumed: bool) -> None:
        # What goes on with an answer is answer, whatever the engine takes it for.
        self._is_resumed = is_resumed
        self._thinking = None if is_resumed else Thinking()
        """Takes thoughts out of the text, where the engine has left them there; None: no more."""
        self._rest: list[bytes] = []
        """Of a line that is not complete."""
        self._reason = ""
        self._usage: Any = None
        self._bits: list[str] = []
        self._are_thoughts = False
        """Whether the bits are thoughts."""
        self._items: list[Piece | Thought | Finished] = []
        """Told when all that has come is read."""

    def read(self, data: bytes) -> Iterator[Piece | Thought | Finished]:
        """Tell what there is in a bit more of the stream.

        Raises EngineFailed, after all that stands before what is malformed.
        """
        failure: Exception | None = None
        try:
            for line in self._lines(data):
                if not line.startswith(b"data:"):
                    continue  # an empty line, or a comment as a sign of life
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    self._finish()
                    break
                self._read_chunk(orjson.loads(payload))
        except (EngineFailed, ValueError, LookupError, TypeError, AttributeError) as error:
            failure = error
        self._gather()
        items, self._items = self._items, []
        yield from items
        if failure:
            raise EngineFailed from failure

    def _lines(self, data: bytes) -> list[bytes]:
        """Cut off the lines that are complete."""
        if b"\n" not in data:
            self._rest.append(data)
            return []
        *lines, rest = b"".join([*self._rest, data]).split(b"\n")
        self._rest = [rest]
        return lines

    def _read_chunk(self, chunk: Any) -> None:
        if "error" in chunk:
            raise EngineFailed
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self._reason = choice.get("finish_reason") or self._reason
            # llama.cpp, and vLLM before 0.11 and since then
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if thought and isinstance(thought, str):
                self._take(thought, is_thought=True)
            if text := delta.get("content"):
                if not isinstance(text, str):
                    raise EngineFailed
                if self._thinking is None:
                    self._take(text)
                else:
                    self._take_apart(*self._thinking.split(text))

    def _finish(self) -> None:
        finished = Finished(
            self._reason, int(self._usage["prompt_tokens"]), int(self._usage["completion_tokens"])
        )
        if self._thinking:
            self._take_apart(*self._thinking.end())
        self._gather()
        self._items.append(finished)

    def _take_apart(self, thought: str, text: str) -> None:
        self._take(thought, is_thought=True)
        self._take(text)
        if self._thinking and self._thinking.is_over:
            self._thinking = None

    def _take(self, bit: str, *, is_thought: bool = False) -> None:
        if bit:
            if is_thought is not self._are_thoughts:
                self._gather()
                self._are_thoughts = is_thought
            self._bits.append(bit)

    def _gather(self) -> None:
        """Make one of the bits that have come of one kind."""
        if self._bits:
            text, tokens = "".join(self._bits), len(self._bits)
            self._bits = []
            is_thought = self._are_thoughts and not self._is_resumed
            self._items.append(Thought(text, tokens) if is_thought else Piece(text, tokens))


async def _raise_for(response: aiohttp.ClientResponse, resume: bool, has_pictures: bool) -> None:
    if response.status == 503:
        raise EngineUnavailable
    try:
        async with asyncio.timeout(5):
            error: Any = orjson.loads(await response.read())["error"]
        # The message itself may quote what the user wrote: it goes no further.
        is_overflow = (
            error.get("type") == "exceed_context_size_error"  # llama.cpp
            or error.get("param") == "input_tokens"  # vLLM
            or "context length" in str(error.get("message"))  # vLLM, older
        )
        # llama.cpp without a projector, which it takes for its own failure in some versions
        is_blind = "image input is not supported" in str(error.get("message"))
    except (ValueError, LookupError, TypeError, AttributeError, aiohttp.ClientError, TimeoutError):
        is_overflow = is_blind = False  # the status says enough
    if response.status == 400 and is_overflow:
        raise PromptTooLong
    if resume and response.status in (400, 422):
        raise CannotResume  # a chat template can make it impossible
    if has_pictures and (is_blind or response.status in (400, 415, 422)):
        raise CannotSee
    raise EngineFailed


def _short() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=5)
