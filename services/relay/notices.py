"""Tells the chats whose messages wait at Telegram that the answer comes later.

Everything here runs beside the inbox and holds up nothing. At least once and without piling up,
also over restarts: a reaction can be put twice without harm, and what a chat has been told in
words is marked at Telegram (marker.py). All that is kept here belongs to updates that wait.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramRetryAfter
from aiogram.types import ReactionTypeEmoji, ReplyParameters

from services.log import describe_error
from services.relay.decorations import DECORATION_SECONDS, Decorations
from services.relay.marker import NOTHING, Marker, read_marker, write_marker
from services.relay.pacing import Pacing
from services.relay.telegram import REFUSALS, SendText
from services.relay.texts import say
from services.wire import Update

log = logging.getLogger(__name__)

WARN_SECONDS = 20 * 3600.0
"""Telegram forgets an update after 24 hours."""

LONG_SECONDS = 20.0
"""What has not waited so long has not been given a reaction."""

ASLEEP = "😴"


class Notices:
    """What the waiting chats have been told, as far as this process knows."""

    def __init__(self, bot: Bot, pacing: Pacing, clock: Callable[[], float] = time.time) -> None:
        """Prepare; `clock` gives the Unix time."""
        self._bot = bot
        self._pacing = pacing
        self._clock = clock
        self._waiting: dict[int, Update] = {}
        self._answered: set[int] = set()
        self._reacted: set[int] = set()
        self._markers: dict[int, Marker] = {}
        self._unwritten: set[int] = set()
        self._sent: dict[int, list[int]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._decorations = Decorations()

    def tell(self, waiting: Sequence[Update]) -> None:
        """See to it that every chat among these updates, the oldest that wait, has been told."""
        if not waiting:
            return
        # Telegram may have shown fewer than before: what comes behind the last one waits still.
        behind = [u for u in self._waiting.values() if u.update_id > waiting[-1].update_id]
        self._waiting = {update.update_id: update for update in [*waiting, *behind]}
        self._forget_who_does_not_wait()
        self._start(0, self._answer_presses)
        for chat_id in {update.chat_id for update in self._messages()}:
            self._start(chat_id, partial(self._tell_chat, chat_id))

    def has_answered(self, update: Update) -> bool:
        """Tell whether this press has got its word: it is not handed over any more."""
        return update.update_id in self._answered

    def clear(self, updates: Iterable[Update]) -> None:
        """These were accepted: take back what was only to bridge the time until then."""
        for update in updates:
            self._waiting.pop(update.update_id, None)
            # One that has waited may have been given its reaction by a relay before this one.
            has_waited = self._clock() - _happened_at(update) >= LONG_SECONDS
            if update.update_id in self._reacted or (has_waited and update.kind != "press"):
                self._decorations.add(partial(self._react, update, None))
            for message_id in self._sent.pop(update.chat_id, []):
                self._delete(update.chat_id, message_id)
        self._forget_who_does_not_wait()

    def stop(self) -> None:
        """Say nothing more."""
        self._decorations.stop()
        for task in self._tasks.values():
            task.cancel()

    def _messages(self) -> list[Update]:
        return [u for u in self._waiting.values() if u.kind in ("message", "edit")]

    def _forget_who_does_not_wait(self) -> None:
        chats = {update.chat_id for update in self._messages()}
        self._answered &= self._waiting.keys()
        self._reacted &= self._waiting.keys()
        self._unwritten &= chats
        self._markers = {chat: it for chat, it in self._markers.items() if chat in chats}
        self._sent = {chat: it for chat, it in self._sent.items() if chat in chats}

    def _start(self, key: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if key not in self._tasks:
            self._tasks[key] = task = asyncio.create_task(self._carry_out(work))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _carry_out(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as error:
            # A worker's boundary: whatever it is, it comes again with the next look at the queue.
            log.warning("notice failed", extra={"error": describe_error(error)})

    async def _answer_presses(self) -> None:
        for press in [u for u in self._waiting.values() if u.kind == "press"]:
            if press.update_id in self._answered or press.update_id not in self._waiting:
                continue
            self._answered.add(press.update_id)  # before the call: never told and carried out
            try:
                await self._bot.answer_callback_query(
                    press.press_id,
                    text=say("press later", press.language),
                    request_timeout=DECORATION_SECONDS,
                )
            except TelegramRetryAfter as error:
                self._answered.discard(press.update_id)
                await asyncio.sleep(error.retry_after)
            except REFUSALS:
                pass  # too old: nobody waits for it any more
            except (AiogramError, OSError):
                self._answered.discard(press.update_id)

    async def _tell_chat(self, chat_id: int) -> None:
        messages = [update for update in self._messages() if update.chat_id == chat_id]
        for message in messages:
            if message.update_id not in self._reacted:
                self._reacted.add(message.update_id)
                self._decorations.add(
                    partial(self._react, message, ASLEEP),
                    failed=partial(self._reacted.discard, message.update_id),
                )
        oldest = messages[0]
        age_seconds = self._clock() - _happened_at(oldest)
        stage = 2 if age_seconds >= WARN_SECONDS else 1
        try:
            if chat_id not in self._markers:
                self._markers[chat_id] = await self._read_marker(chat_id)
            if not self._markers[chat_id].covers(stage, _happened_at(oldest)):
                await self._pacing.turn(chat_id, urgent=True)
                if oldest.update_id not in self._waiting:
                    return
                await self._send(oldest, stage)
                until = max(_happened_at(message) for message in messages)
                self._markers[chat_id] = Marker(oldest.message_id, stage, until)
                self._unwritten.add(chat_id)
            if chat_id in self._unwritten:
                with contextlib.suppress(*REFUSALS):  # then this process alone remembers it
                    await write_marker(self._bot, chat_id, self._markers[chat_id])
                self._unwritten.discard(chat_id)
        except TelegramRetryAfter as error:
            self._pacing.obey(chat_id, error.retry_after)

    async def _read_marker(self, chat_id: int) -> Marker:
        try:
            return await read_marker(self._bot, chat_id)
        except REFUSALS:
            return NOTHING  # better told twice than never

    async def _send(self, oldest: Update, stage: int) -> None:
        """Say it; what Telegram refuses for good counts as said."""
        sentence = say("asleep" if stage == 1 else "still asleep", oldest.language)
        try:
            message = await self._bot(
                SendText(
                    chat_id=oldest.chat_id,
                    text=sentence,
                    message_thread_id=oldest.thread_id or None,
                    reply_parameters=ReplyParameters(
                        message_id=oldest.message_id, allow_sending_without_reply=True
                    ),
                )
            )
        except REFUSALS:
            return
        log.info("told", extra={"stage": stage, "update": oldest.update_id})
        message_id = int(message["message_id"])
        if oldest.update_id in self._waiting:
            self._sent.setdefault(oldest.chat_id, []).append(message_id)
        else:
            self._delete(oldest.chat_id, message_id)  # it was accepted in this very moment

    async def _react(self, update: Update, emoji: str | None) -> bool | None:
        if emoji and update.update_id not in self._waiting:
            return None
        return await self._bot.set_message_reaction(
            update.chat_id,
            update.message_id,
            reaction=[ReactionTypeEmoji(emoji=emoji)] if emoji else [],
            request_timeout=DECORATION_SECONDS,
        )

    def _delete(self, chat_id: int, message_id: int) -> None:
        self._decorations.add(
            partial(
                self._bot.delete_message, chat_id, message_id, request_timeout=DECORATION_SECONDS
            ),
            is_first=True,
        )


def _happened_at(update: Update) -> int:
    """An edit happened when it was made, not when its message was sent."""
    return max(update.sent_at, update.edited_at)
