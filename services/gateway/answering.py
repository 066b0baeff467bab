"""Answers asks: takes them from the queue, lets the engine speak, and closes their replies."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from services.gateway.engine import (
    Engine,
    EngineFailed,
    EngineUnavailable,
    Finished,
    Piece,
    PromptTooLong,
)
from services.gateway.history import History, estimate_tokens
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue, Running
from services.gateway.store import Ask, Store, StoreError, Usage
from services.gateway.texts import Language, is_visible, say
from services.log import describe_error

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""Tries of one ask after which its user is told that it failed."""

PLACE_SECONDS = 5.0
"""A place in the queue is told anew after this long at the earliest: each time costs an edit."""

PROMPT_SHARES = (1.0, 0.5, 0.0)
"""Shares of the prompt budget tried in turn when the engine finds the prompt too long."""


@dataclass
class _Attempt:
    """What came of one try, for the log and the meter."""

    started: float
    first_piece: float = 0.0
    text: str = ""
    finished: Finished | None = None


class Answering:
    """As many workers as the engine has slots, so that its batches are full."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        outbox: Outbox,
        history: History,
        engine: Engine,
        slots: int,
        answer_tokens: int,
        temperature: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._queue = queue
        self._outbox = outbox
        self._history = history
        self._engine = engine
        self._slots = slots
        self._answer_tokens = answer_tokens
        self._temperature = temperature
        self._sleep = sleep
        self._typical_seconds = 10.0
        self._placed: dict[int, float] = {}
        queue.on_change = self.show_places

    async def run(self) -> None:
        """Answer for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._slots):
                group.create_task(self._work())

    def show_places(self) -> None:
        """Tell those who wait how many are ahead, and about how long it takes."""
        if self._queue.running_count < self._slots:
            return
        now = time.monotonic()
        waiting = self._queue.waiting()
        self._placed = {ask.id: self._placed.get(ask.id, -PLACE_SECONDS) for ask in waiting}
        for ahead, ask in enumerate(waiting, start=1):
            if now - self._placed[ask.id] < PLACE_SECONDS:
                continue
            self._placed[ask.id] = now
            seconds = max(1, round(self._typical_seconds * ahead / self._slots))
            status = say("queued", _language(ask), ahead=ahead, seconds=seconds)
            self._outbox.show_status(ask.reply_id, status)

    async def _work(self) -> None:
        while True:
            running = await self._queue.next()
            try:
                await self._answer(running)
            except StoreError as error:
                # The disk does not take the answer. The ask stays in the store and is answered
                # after the next start; going on without a disk would lose what comes next.
                log.critical("store failed", extra={"remedy": str(error)})
                raise
            except Exception as error:
                # A worker's boundary: an ask that breaks its worker must not take the others with
                # it, nor be taken up again by every later start.
                log.error("ask broke", extra={"error": describe_error(error)})
                await self._close(running.ask, _Attempt(0.0), say("failed", _language(running.ask)))
            finally:
                self._queue.release(running)

    async def _answer(self, running: Running) -> None:
        taken = time.time()
        ask = await self._store.run(self._store.take_ask, running.ask.id)
        if ask is None:
            return  # it was stopped between the queue and here
        if ask.state == "stopping":
            running.stopped.set()
        self._outbox.show_status(ask.reply_id, "")
        tries = 0
        share = 0
        attempt = _Attempt(taken)
        while not running.stopped.is_set():
            attempt = _Attempt(time.time())
            try:
                messages = await self._history.compose(ask, PROMPT_SHARES[share])
                prompt = sum(estimate_tokens(message["content"]) for message in messages)
                self._queue.charge(ask.user_id, prompt_tokens=prompt)
                await self._speak(running, ask, messages, attempt)
                break
            except PromptTooLong:
                share += 1
                if share == len(PROMPT_SHARES):
                    await self._close(ask, attempt, say("too long", _language(ask)))
                    return
            except EngineUnavailable:
                self._outbox.show_status(ask.reply_id, say("waking", _language(ask)))
                await self._pause(running, 1.0)
            except EngineFailed:
                tries += 1
                log.warning("engine failed", extra={"ask": ask.id, "tries": tries})
                self._outbox.restart(ask.reply_id)
                if tries == MOST_TRIES:
                    await self._close(ask, attempt, say("failed", _language(ask)))
                    return
                await self._pause(running, 0.5 * 2**tries)
        stopped = running.stopped.is_set() and attempt.finished is None
        answer = attempt.text.strip() if is_visible(attempt.text) else ""
        shown = answer or ("" if stopped else say("empty", _language(ask)))
        if stopped:
            shown = f"{shown}\n\n{say('stopped', _language(ask))}".strip()
        await self._close(ask, attempt, shown, answer)
        self._log(ask, attempt, taken, stopped)

    async def _speak(
        self, running: Running, ask: Ask, messages: list[dict[str, str]], attempt: _Attempt
    ) -> None:
        """Pass on what the engine says until it has finished or nobody wants it any more."""
        stream = self._engine.stream(messages, self._answer_tokens, self._temperature)
        stop = asyncio.create_task(running.stopped.wait())
        pieces: list[str] = []

        async def read() -> None:
            # Closing the generator aborts the engine's work.
            async with contextlib.aclosing(stream) as items:
                async for item in items:
                    match item:
                        case Piece(text):
                            attempt.first_piece = attempt.first_piece or time.time()
                            pieces.append(text)
                            self._outbox.grow(ask.reply_id, text)
                            self._queue.charge(ask.user_id, answer_tokens=1)
                        case Finished():
                            attempt.finished = item

        reader = asyncio.create_task(read())
        try:
            await asyncio.wait({reader, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                reader.cancel()
                await asyncio.wait({reader})  # until the engine has been told
            else:
                reader.result()
        finally:
            for task in (reader, stop):
                task.cancel()
            attempt.text = "".join(pieces)

    async def _pause(self, running: Running, seconds: float) -> None:
        """Wait before the next try, or until nobody wants it any more."""
        sleep = asyncio.ensure_future(self._sleep(seconds))
        stop = asyncio.create_task(running.stopped.wait())
        try:
            await asyncio.wait({sleep, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            stop.cancel()

    async def _close(self, ask: Ask, attempt: _Attempt, shown: str, answer: str = "") -> None:
        now = time.time()
        usage = None
        if attempt.finished or attempt.text:
            usage = Usage(
                attempt.finished.prompt_tokens if attempt.finished else 0,
                attempt.finished.answer_tokens
                if attempt.finished
                else estimate_tokens(attempt.text),
                round((now - attempt.started) * 1000),
            )
            self._typical_seconds += 0.2 * (now - attempt.started - self._typical_seconds)
        await self._store.run(self._store.finish_ask, ask, answer, shown, usage)
        self._outbox.close(ask.reply_id, shown)

    def _log(self, ask: Ask, attempt: _Attempt, taken: float, stopped: bool) -> None:
        now = time.time()
        first = attempt.first_piece or now
        log.info(
            "answered",
            extra={
                "ask": ask.id,
                "reply": ask.reply_id,
                "stopped": stopped,
                "queue_ms": round((taken - ask.received_at) * 1000),
                "first_token_ms": round((first - attempt.started) * 1000),
                "engine_ms": round((now - attempt.started) * 1000),
                "tokens": attempt.finished.answer_tokens if attempt.finished else None,
            },
        )


def _language(ask: Ask) -> Language:
    return cast(Language, ask.language)
