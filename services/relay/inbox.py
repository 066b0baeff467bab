"""Fetches updates from Telegram and hands them to the gateway; Telegram's queue is the inbox.

The offset moves, and with it Telegram forgets, only after the gateway has committed a batch. If
this process dies in between, Telegram delivers again and the gateway knows the update already.
"""

import asyncio
import contextlib
import logging

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    TelegramConflictError,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)

from services.log import describe_error
from services.relay.backoff import Backoff
from services.relay.link import Link, LinkDown, Rejected
from services.relay.telegram import GetRawUpdates, RawUpdate
from services.relay.translation import ALLOWED_UPDATES, Doorman
from services.wire import Batch, Update

log = logging.getLogger(__name__)

DECORATION_SECONDS = 3
"""What is only decoration is given up after this long."""

POLL_SECONDS = 50
"""Telegram holds a getUpdates call this long when there is nothing to deliver."""


class BadToken(Exception):
    """Telegram does not know this bot token: put the one that BotFather shows into bot_token."""


class Inbox:
    """The polling loop."""

    def __init__(self, bot: Bot, link: Link, doorman: Doorman) -> None:
        self._bot = bot
        self._link = link
        self._doorman = doorman
        self._offset: int | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Carry updates for ever. Raises BadToken."""
        backoff = Backoff()
        while True:
            try:
                raw_updates = await self._fetch()
            except TelegramUnauthorizedError:
                raise BadToken from None
            except TelegramRetryAfter as error:
                await asyncio.sleep(error.retry_after)
                continue
            except TelegramConflictError:
                log.error("another poller", extra={"remedy": "stop the other one"})
                await backoff.wait()
                continue
            except (AiogramError, OSError) as error:
                log.warning("telegram unreachable", extra={"error": describe_error(error)})
                await backoff.wait()
                continue
            backoff.reset()
            if raw_updates:
                notices = await self._hand_over(raw_updates)
                self._offset = max(int(raw["update_id"]) for raw in raw_updates) + 1
                for press_id, notice in notices:
                    self._answer_press(press_id, notice)

    async def _fetch(self) -> list[RawUpdate]:
        raw_updates = await self._bot(
            GetRawUpdates(
                offset=self._offset,
                limit=100,
                timeout=POLL_SECONDS,
                allowed_updates=ALLOWED_UPDATES,
            ),
            request_timeout=POLL_SECONDS + 10,
        )
        return [raw for raw in raw_updates if isinstance(raw.get("update_id"), int)]

    async def _hand_over(self, raw_updates: list[RawUpdate]) -> list[tuple[str, str]]:
        """Return only when the gateway has every update that it will ever take.

        Returns the presses that wait for a word, with the gateway's notice for each.
        """
        updates = [update for raw in raw_updates if (update := self._doorman.admit(raw))]
        if not updates:
            return []
        try:
            return await self._send(updates)
        except Rejected:
            # The batch as a whole is refused: find the update that spoils it.
            notices: list[tuple[str, str]] = []
            for update in updates:
                try:
                    notices += await self._send([update])
                except Rejected:
                    log.error("update refused", extra={"update": update.update_id})
            return notices

    async def _send(self, updates: list[Update]) -> list[tuple[str, str]]:
        batch = Batch(bot_id=self._bot.id, updates=[update.model_dump() for update in updates])
        backoff = Backoff()
        while True:
            try:
                receipts = await self._link.send(batch)
                break
            except LinkDown as error:
                log.warning("other end asleep", extra={"error": describe_error(error)})
                await backoff.wait()
        outcomes = [receipt.outcome for receipt in receipts.receipts]
        log.info(
            "handed over",
            extra={what: outcomes.count(what) for what in ("accepted", "duplicate", "refused")},
        )
        return [
            (update.press_id, receipt.notice)
            for update, receipt in zip(updates, receipts.receipts, strict=False)
            if update.press_id
        ]

    def _answer_press(self, press_id: str, notice: str) -> None:
        """Acknowledge a press: a decoration, which must hold up nothing."""

        async def answer() -> None:
            # Telegram forgets a press after a few minutes; then there is nothing to answer.
            with contextlib.suppress(AiogramError, OSError):
                await self._bot.answer_callback_query(
                    press_id, text=notice or None, request_timeout=DECORATION_SECONDS
                )

        task = asyncio.create_task(answer())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
