"""Fetches updates from Telegram and hands them to the gateway; Telegram's queue is the inbox.

The offset moves, and with it Telegram forgets, only after the gateway has committed a batch. If
this process dies in between, Telegram delivers again and the gateway knows the update already.

While the gateway is away, the same updates are looked at again and again: what is new among them
is seen, its chat is told, and the return of the gateway cuts the wait short.
"""

import asyncio
import contextlib
import itertools
import logging
import math
from typing import TypeGuard

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    TelegramConflictError,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)

from services.log import describe_error
from services.namespace import Namespace
from services.relay.backoff import Backoff
from services.relay.decorations import DECORATION_SECONDS
from services.relay.link import Link, LinkDown, Rejected
from services.relay.menus import Menus
from services.relay.notices import Notices
from services.relay.polls import PollSign
from services.relay.presence import Presence
from services.relay.telegram import GetRawUpdates, RawUpdate
from services.relay.translation import (
    ALLOWED_UPDATES,
    Doorman,
    TurnedAway,
    Undecided,
    Verdict,
)
from services.wire import Batch, Update

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
"""A gateway that only restarts is back before that, and nobody need be told."""

REPEAT_SECONDS = 1.0
"""Telegram shows a single update to whoever asks again for the same ones within half a second."""

MOST_REPEAT_SECONDS = 15.0

MOST_RETRY_SECONDS = 5.0
"""A Telegram that returns is found this soon: whoever wrote meanwhile has waited long enough."""

REPORT_SECONDS = 60.0
"""Strangers are reported this often at most, however many they are."""

POLL_SECONDS = 50
"""Telegram holds a getUpdates call this long when there is nothing to deliver."""


class BadToken(Exception):
    """Telegram does not know this bot token: put the one that BotFather shows into bot_token."""


class Inbox:
    """The polling loop."""

    def __init__(
        self,
        bot: Bot,
        link: Link,
        doorman: Doorman,
        presence: Presence,
        notices: Notices,
        menus: Menus,
        patience_seconds: float = PATIENCE_SECONDS,
        sign: PollSign | None = None,
        namespace: Namespace | None = None,
    ) -> None:
        """Prepare. Chats are told that they must wait after `patience_seconds` of waiting."""
        self._menus = menus
        self._sign = sign
        self._namespace = namespace
        self._bot = bot
        self._link = link
        self._doorman = doorman
        self._presence = presence
        self._notices = notices
        self._patience_seconds = patience_seconds
        self._offset: int | None = None
        self._is_asleep = False
        self._reported_strangers = 0
        self._reported_at = -math.inf
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Carry updates for ever. Raises BadToken."""
        backoff = Backoff(REPEAT_SECONDS, MOST_REPEAT_SECONDS)
        try:
            while True:
                raw_updates = await self._fetch()
                if self._sign:
                    self._sign.answered()
                returned = self._presence.returned
                if await self._take(raw_updates) or await backoff.wait(until=returned):
                    backoff.reset()
        finally:
            self._notices.stop()

    async def _fetch(self) -> list[RawUpdate]:
        """Return the oldest updates that wait, as soon as there are any."""
        backoff = Backoff(most_seconds=MOST_RETRY_SECONDS)
        while True:
            try:
                raw_updates = await self._bot(
                    GetRawUpdates(
                        offset=self._offset,
                        limit=100,
                        timeout=POLL_SECONDS,
                        allowed_updates=ALLOWED_UPDATES,
                    ),
                    request_timeout=POLL_SECONDS + 10,
                )
            except TelegramUnauthorizedError:
                raise BadToken from None
            except TelegramRetryAfter as error:
                await asyncio.sleep(error.retry_after)
            except TelegramConflictError:
                log.error("another poller", extra={"remedy": "stop the other one"})
                await backoff.wait()
            except (AiogramError, OSError) as error:
                log.warning("telegram unreachable", extra={"error": describe_error(error)})
                await backoff.wait()
            else:
                known = [raw for raw in raw_updates if isinstance(raw.get("update_id"), int)]
                return sorted(known, key=lambda raw: int(raw["update_id"]))

    async def _take(self, raw_updates: list[RawUpdate]) -> bool:
        """Hand over what can be, and confirm that much; False if something has to wait."""
        window = [(int(raw["update_id"]), self._doorman.admit(raw)) for raw in raw_updates]
        decided = list(itertools.takewhile(lambda it: not isinstance(it[1], Undecided), window))
        try:
            await self._hand_over([it[1] for it in decided if self._is_wanted(it[1])])
        except LinkDown as error:
            self._note_sleep(error)
            # What needs nothing from the gateway must not fill the hundred that can be seen.
            decided = list(itertools.takewhile(lambda it: not self._is_wanted(it[1]), decided))
        self._confirm(decided)
        waiting = window[len(decided) :]
        if not waiting:
            self._presence.note_idle()
        if waiting and self._presence.away_seconds >= self._patience_seconds:
            self._notices.tell([it[1] for it in waiting if isinstance(it[1], Update)])
        if self._sign:
            self._sign.waiting(len(waiting))
        await self._report_strangers()
        return not waiting

    async def _report_strangers(self) -> None:
        """Say how many were turned away, now and then: what is lost of that is no loss."""
        now = asyncio.get_running_loop().time()
        count = self._doorman.turned_away["stranger"] - self._reported_strangers
        is_due = count > 0 and now - self._reported_at >= REPORT_SECONDS
        if not is_due or self._presence.away_seconds:
            return
        self._reported_at = now
        with contextlib.suppress(LinkDown, Rejected):
            await self._link.send(self._batch([], count))
            self._reported_strangers += count

    def _is_wanted(self, verdict: Verdict) -> TypeGuard[Update]:
        return isinstance(verdict, Update) and not self._notices.has_answered(verdict)

    def _confirm(self, decided: list[tuple[int, Verdict]]) -> None:
        """Let Telegram forget these with the next call."""
        for number, verdict in decided:
            self._offset = number + 1
            if isinstance(verdict, TurnedAway):
                self._doorman.count(verdict)

    async def _hand_over(self, updates: list[Update]) -> None:
        """Return only when the gateway has every update that it will ever take.

        Raises LinkDown.
        """
        if not updates:
            return
        try:
            await self._send(updates)
        except Rejected:
            # The batch as a whole is refused: find the update that spoils it.
            for update in updates:
                try:
                    await self._send([update])
                except Rejected:
                    log.error("update refused", extra={"update": update.update_id})
        self._presence.note_taken()
        if self._sign:
            self._sign.came()
        self._is_asleep = False

    async def _send(self, updates: list[Update]) -> None:
        receipts = (await self._link.send(self._batch(updates))).receipts
        outcomes = [receipt.outcome for receipt in receipts]
        log.info(
            "handed over",
            extra={what: outcomes.count(what) for what in ("accepted", "duplicate", "refused")},
        )
        self._notices.clear(updates)
        for update, receipt in zip(updates, receipts, strict=False):
            if update.chat_kind == "private":
                self._menus.hear(update.user_id)
            if update.press_id:
                self._answer_press(update.press_id, receipt.notice)

    def _batch(self, updates: list[Update], strangers: int = 0) -> Batch:
        tunnel = self._namespace.tunnel if self._namespace else None
        return Batch(
            bot_id=self._bot.id,
            updates=[update.model_dump() for update in updates],
            bot_name=self._doorman.identity.username,
            strangers=strangers,
            refused=(tunnel.refused_in, tunnel.refused_out) if tunnel else None,
        )

    def _note_sleep(self, error: LinkDown) -> None:
        self._presence.note_refused()
        if not self._is_asleep:
            self._is_asleep = True
            log.warning("other end asleep", extra={"error": describe_error(error)})

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
