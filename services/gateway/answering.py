"""Answers asks: takes them from the queue, lets the engine speak, and closes their replies.

An answer that is cut goes on where it was cut, and is saved every second, so that it goes on even
after this process has died. A reply never takes back what its user saw, unless the engine cannot
go on with a text: then it begins anew in the same message.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

from services.gateway.buttons import again_button, more_button, retry_button
from services.gateway.engine import (
    CannotResume,
    CannotSee,
    Engine,
    EngineFailed,
    EngineUnavailable,
    Finished,
    NoSuchModel,
    Piece,
    PromptTooLong,
    Thought,
)
from services.gateway.history import History, Recalled, estimate_tokens
from services.gateway.manner import House, Manner, Preferences
from services.gateway.outbox import Outbox
from services.gateway.progress import Progress
from services.gateway.queue import Queue, Running
from services.gateway.store import Ask, Store, StoreError
from services.gateway.texts import add_remark, is_visible, quote, say
from services.log import describe_error

log = logging.getLogger(__name__)

T = TypeVar("T")
End = Literal["finished", "stopped", "failed", "too long", "cannot see"]

TRIES_IN_VAIN = 4
"""Tries in a row that bring no text, after which the user is told that it failed."""

MOST_TRIES = 20
"""Tries of one ask in all: an engine that breaks off after each word would never end."""

PLACE_SECONDS = 5.0
"""A place in the queue is told anew after this long at the earliest: each time costs an edit."""

PLACES_REST = 20.0
"""Finding all places takes longer the more wait; so many times that long is left to other work."""

PROMPT_SHARES = (1.0, 0.5, 0.0)
"""Shares of the prompt budget tried in turn when the engine finds the prompt too long."""

SAVE_SECONDS = 1.0
"""What an answer has gained is saved this often: at most so much is said anew after a crash."""

MOST_PAUSE_SECONDS = 10.0

MOST_PIECES_A_TOKEN = 2
"""Engines send a token in one piece or hold it back; twice that is no odd way to count any more."""


class Answering:
    """As many at once as the engine has slots, so that its batches are full."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        outbox: Outbox,
        history: History,
        engine: Engine,
        slots: int,
        house: House,
        silence_seconds: float = 30.0,
        file_characters: int = 0,
        note_answered: Callable[[Ask, Manner], None] = lambda _ask, _manner: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to work.

        `silence_seconds`: an engine that has begun to speak and pauses so long has hung;
        `file_characters`: a longer answer comes as a file, too (0: none does); `note_answered` is
        told of each ask whose conversation may have become longer.
        """
        self._store = store
        self._queue = queue
        self._outbox = outbox
        self._history = history
        self._engine = engine
        self._slots = slots
        self._house = house
        self._silence_seconds = silence_seconds
        self._file_characters = file_characters
        self._note_answered = note_answered
        self._sleep = sleep
        self._typical_seconds = 10.0
        self._placed: dict[int, float] = {}
        self._progress: dict[int, Progress] = {}
        self._free = asyncio.Semaphore(slots)
        """The engine's slots that answer nothing."""
        self._closing = asyncio.Semaphore(slots)
        self._has_stale_places = False
        self._places_rest_until = 0.0
        self._is_paused = False
        queue.on_change = self._show_places_soon

    async def run(self) -> None:
        """Answer for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._save())
            group.create_task(self._work(group))

    def _show_places_soon(self) -> None:
        """Once for all that changes in this moment: a batch can bring a hundred asks."""
        if not self._has_stale_places:
            self._has_stale_places = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._places_rest_until), self._show_all_places)

    def _show_all_places(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        self._has_stale_places = False
        self._show_places()
        self._places_rest_until = clock() + PLACES_REST * (clock() - began)

    def _show_places(self) -> None:
        """Tell those who wait how many are ahead, and about how long it takes."""
        if self._queue.is_paused != self._is_paused:
            self._is_paused = self._queue.is_paused
            self._placed.clear()
            if not self._is_paused:
                for ask in self._queue.waiting():
                    self._outbox.show_status(ask.reply_id, "")
        if self._queue.is_paused:
            for ask in self._queue.waiting():
                self._outbox.show_status(ask.reply_id, say("paused", ask.language))
            return
        if self._queue.running_count < self._slots:
            return
        now = time.monotonic()
        self._placed = {
            ask_id: self._placed.get(ask_id, -PLACE_SECONDS) for ask_id in self._queue.waiting_ids
        }
        if all(now - placed < PLACE_SECONDS for placed in self._placed.values()):
            return
        for ahead, ask in enumerate(self._queue.waiting(), start=1):
            if now - self._placed[ask.id] < PLACE_SECONDS:
                continue
            self._placed[ask.id] = now
            seconds = max(1, round(self._typical_seconds * ahead / self._slots))
            status = say("queued", ask.language, ahead=ahead, seconds=seconds)
            self._outbox.show_status(ask.reply_id, status)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            points = [point for p in self._progress.values() if (point := p.checkpoint())]
            if points:
                try:
                    await self._store.run(self._store.save, points)
                except StoreError as error:
                    log.critical("store failed", extra={"remedy": str(error)})

    async def _work(self, answers: asyncio.TaskGroup) -> None:
        """Give each free slot an ask: one for all, since each change of the queue wakes it up."""
        while True:
            await self._free.acquire()
            answers.create_task(self._see_through(await self._queue.next()))

    def _leave(self, running: Running) -> None:
        """The engine is done with an ask: its slot is free, once."""
        if not running.has_left:
            running.has_left = True
            self._free.release()

    async def _see_through(self, running: Running) -> None:
        incomplete = None
        try:
            incomplete = await self._answer(running)
        except Exception as error:
            # A worker's boundary: an ask that breaks its worker must not take the others with
            # it, nor be taken up again by every later start.
            log.error("ask broke", extra={"error": describe_error(error)})
            await self._close(Progress(running.ask), "failed")
        finally:
            self._leave(running)
            self._queue.release(running, incomplete)

    async def _answer(self, running: Running) -> Ask | None:
        """Answer an ask; returned as it is now where one more of its album has just come."""
        taken = await self._in_store(self._take, running.ask.id, is_urgent=True)
        if taken is None:
            return None  # it was stopped between the queue and here
        ask, said, chosen, recalled = taken
        if ask.state == "waiting":
            return ask
        if ask.state == "stopping":
            running.stopped.set()
        manner = self._house.manner(chosen)
        self._outbox.show_status(ask.reply_id, "")
        if not manner.streaming:
            self._outbox.rewrite(ask.reply_id, "")  # what an earlier process has said
        progress = self._progress[ask.id] = Progress(
            ask, said, ask.spent, answer_tokens=min(ask.spent.answer_tokens, estimate_tokens(said))
        )
        try:
            end = await self._try_until_done(running, progress, manner, recalled)
        finally:
            del self._progress[ask.id]
        # So many at most: a disk that takes nothing must not let answers pile up.
        async with self._closing:
            self._leave(running)  # the engine's slot does not wait for the disk; the chat does
            for _ in range(2):
                await asyncio.sleep(0)  # whoever the slot goes to hands its work over first
            await self._close(progress, end, manner)
        if end in ("finished", "stopped"):
            self._note_answered(running.ask, manner)
        self._log(progress, end)
        return None

    def _take(self, ask_id: int) -> tuple[Ask, str, Preferences, Recalled] | None:
        """In the store's thread, at once: a free slot of the engine waits for this.

        A power failure may take it back: an ask that was begun is begun anew at the next start.
        """
        taken = self._store.take_ask(ask_id)
        if taken is None:
            return None
        ask, said = taken
        return ask, said, self._store.preferences(ask.user_id), self._history.recall(ask)

    async def _try_until_done(
        self, running: Running, progress: Progress, manner: Manner, recalled: Recalled | None
    ) -> End:
        tries = in_vain = share = pauses = 0
        is_blind = False
        while not running.stopped.is_set():
            try:
                turns, recalled = recalled, None  # what a later try is told is read anew
                await self._speak(running, progress, manner, PROMPT_SHARES[share], is_blind, turns)
                return "finished" if progress.finished else "stopped"
            except PromptTooLong:
                share += 1
                if share == len(PROMPT_SHARES):
                    return "too long"
            except CannotSee:
                log.error("engine does not see", extra={"remedy": CannotSee.__doc__})
                if is_blind or progress.ask.pictures:
                    return "cannot see"
                is_blind = True  # the pictures were shown before: what is asked now has none
            except CannotResume:
                progress.begin_anew()
            except NoSuchModel:
                remedy = "compare MODELS with what the engine lists: another model answers"
                log.warning("no such model", extra={"ask": progress.ask.id, "remedy": remedy})
                manner = self._house.without_model(manner)
            except (EngineUnavailable, StoreError) as error:
                if isinstance(error, StoreError):
                    log.critical("store failed", extra={"remedy": str(error)})
                status = say("waking", progress.ask.language)
                self._outbox.show_status(progress.ask.reply_id, status)
                await self._pause(running, min(MOST_PAUSE_SECONDS, 2.0**pauses))
                pauses += 1
            except EngineFailed:
                tries += 1
                in_vain = 0 if progress.end_try() else in_vain + 1
                log.warning("engine failed", extra={"ask": progress.ask.id, "tries": tries})
                if in_vain == TRIES_IN_VAIN or tries == MOST_TRIES:
                    return "failed"
                await self._pause(running, min(MOST_PAUSE_SECONDS, 0.5 * 2**in_vain))
        return "stopped"

    async def _speak(
        self,
        running: Running,
        progress: Progress,
        manner: Manner,
        share: float,
        is_blind: bool,
        recalled: Recalled | None,
    ) -> None:
        """Pass on what the engine says until it has finished or nobody wants it any more."""
        ask = progress.ask
        messages, prompt_tokens = await self._history.compose(
            *(ask, manner.system_prompt, share, manner.model),
            is_blind=is_blind,
            recalled=recalled,
        )
        # Chat templates drop white space at the end of a message, and so must we.
        beginning = progress.text.rstrip() if is_visible(progress.text) else ""
        progress.begin_anew(beginning)
        if manner.streaming:
            self._outbox.rewrite(ask.reply_id, _with_thoughts(progress, manner, beginning))
        if beginning:
            messages.append({"role": "assistant", "content": beginning})
            if progress.answer_tokens >= manner.answer_tokens:
                progress.finished = Finished("length", 0, 0)  # the cut took the end alone
                return
        limit = manner.answer_tokens - progress.answer_tokens
        stream = self._engine.stream(
            messages,
            limit,
            manner.temperature,
            self._queue.priority(ask.user_id),
            resume=bool(beginning),
            model=manner.model,
            chat=str(ask.chat),
        )
        self._queue.charge(ask.user_id, prompt_tokens=prompt_tokens)
        progress.begin_try(prompt_tokens)
        clock = asyncio.get_running_loop().time

        async def read() -> None:
            pieces = 0
            # Closing the generator aborts the engine's work.
            async with contextlib.aclosing(stream) as items:
                async for item in items:
                    match item:
                        case Finished():
                            progress.finished = item
                            continue
                        case Piece(text, tokens):
                            self._show_piece(progress, manner, text)
                            progress.add(text, tokens, clock())
                        case Thought(text, tokens):
                            progress.think(text, tokens, clock())
                            self._show_thought(progress, manner, text)
                    self._queue.charge(ask.user_id, answer_tokens=tokens)
                    pieces += tokens
                    if pieces > MOST_PIECES_A_TOKEN * limit:
                        progress.finished = Finished("length", prompt_tokens, pieces)
                        return  # the engine disregards the limit

        reader = asyncio.create_task(read())
        stop = asyncio.create_task(running.stopped.wait())
        try:
            while not reader.done() and not stop.done():
                await asyncio.wait(
                    {reader, stop},
                    timeout=self._silence_seconds / 4,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if progress.last_sign and clock() - progress.last_sign > self._silence_seconds:
                    break
            if reader.done():
                reader.result()
            else:
                reader.cancel()
                await asyncio.wait({reader})  # until the engine has been told
                if not stop.done():
                    raise EngineFailed
            progress.end_try()
        finally:
            for task in (reader, stop):
                task.cancel()

    def _show_piece(self, progress: Progress, manner: Manner, text: str) -> None:
        ask = progress.ask
        if not progress.has_begun:
            self._outbox.show_status(ask.reply_id, "")
            if progress.is_thought_shown:
                text = f"\n\n{text}"
        if manner.streaming:
            self._outbox.grow(ask.reply_id, text)

    def _show_thought(self, progress: Progress, manner: Manner, thought: str) -> None:
        ask = progress.ask
        if progress.has_begun:
            return
        if not manner.reasoning or not manner.streaming:
            self._outbox.show_status(ask.reply_id, say("thinking", ask.language))
            return
        if not progress.is_thought_shown:
            if not is_visible(thought):
                return
            thought, progress.is_thought_shown = f"> {thought.lstrip()}", True
        self._outbox.grow(ask.reply_id, thought.replace("\n", "\n> "))

    async def _pause(self, running: Running, seconds: float) -> None:
        """Wait before the next try, or until nobody wants it any more."""
        sleep = asyncio.ensure_future(self._sleep(seconds))
        stop = asyncio.create_task(running.stopped.wait())
        try:
            await asyncio.wait({sleep, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            stop.cancel()

    async def _close(self, progress: Progress, end: End, manner: Manner | None = None) -> None:
        progress.end_try()
        ask = progress.ask
        language = ask.language
        said = progress.text.strip() if is_visible(progress.text) else ""
        is_cut = progress.finished is not None and progress.finished.reason == "length"
        silence = "only thought" if progress.thoughts and is_cut else "empty"
        remark = {
            "finished": "" if said else say(silence, language),
            "stopped": say("stopped", language),
            "failed": say("failed", language),
            "too long": say("too long", language),
            "cannot see": say("cannot see", language),
        }[end]
        most = self._history.most_pictures
        if said and len(ask.pictures) > most:
            # More than the engine is given: its user must not think that it saw all.
            unseen = say("last pictures" if most else "cannot see", language, count=most)
            remark = f"{unseen} {remark}".strip()
        shown = add_remark(_with_thoughts(progress, manner, said), remark)
        if end == "failed":
            retry = retry_button(ask, language)
            if await self._in_store(self._store.fail_ask, ask, shown, retry, progress.spent):
                self._outbox.close(ask.reply_id, shown, retry)
            return
        answer = said if end not in ("too long", "cannot see") else ""
        buttons = [again_button(ask, language)] if answer else []
        if answer and is_cut:
            buttons.append(more_button(ask, language))
        is_long = 0 < self._file_characters < len(answer)
        finish = partial(self._store.finish_ask, caption=say("as a file", language) * is_long)
        following = await self._in_store(finish, ask, answer, shown, progress.spent, *buttons)
        if following is not None:
            self._outbox.close(ask.reply_id, shown, *buttons)
            for reply in following:
                self._outbox.open(reply)
        if end == "finished":
            seconds = progress.spent.engine_ms / 1000
            self._typical_seconds += 0.2 * (seconds - self._typical_seconds)

    async def _in_store(
        self, work: Callable[..., T], *arguments: Any, is_urgent: bool = False
    ) -> T:
        """Do work in the store, and wait for a disk that does not take it: what was said is kept.

        Meanwhile new asks are refused, because the disk does not take them either.
        """
        pause = 1.0
        run = self._store.run_first if is_urgent else self._store.run
        while True:
            try:
                return await run(work, *arguments)
            except StoreError as error:
                log.critical("store failed", extra={"remedy": str(error)})
                await self._sleep(pause)
                pause = min(MOST_PAUSE_SECONDS, pause * 2)

    def _log(self, progress: Progress, end: End) -> None:
        first = progress.first_token_seconds
        log.info(
            "answered",
            extra={
                "ask": progress.ask.id,
                "reply": progress.ask.reply_id,
                "end": end,
                "stopped": end == "stopped",
                "queue_ms": round((progress.taken_at - progress.ask.received_at) * 1000),
                "first_token_ms": round(first * 1000) if first is not None else None,
                "engine_ms": progress.spent.engine_ms,
                "tokens": progress.spent.answer_tokens,
            },
        )


def _with_thoughts(progress: Progress, manner: Manner | None, said: str) -> str:
    """Put what the model thought above what it says, as a quote, if its user wants to see it."""
    thought = "".join(progress.thoughts)
    if not manner or not manner.reasoning or not is_visible(thought):
        return said
    return f"{quote(thought)}\n\n{said}".rstrip()
