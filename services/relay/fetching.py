"""Brings the documents that users have sent from Telegram to the gateway; keeps nothing of them.

A document passes through in pieces, as it comes in. Whatever breaks on the way, it is fetched
anew from its beginning: Telegram keeps it, and the gateway takes it once.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp
from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramRetryAfter

from services.log import describe_error
from services.relay.backoff import Backoff
from services.relay.link import Link, LinkDown, Rejected, Settled, Superseded, persist
from services.relay.telegram import REFUSALS, GetRawFile
from services.wire import Reply

log = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024

DOWNLOAD_SECONDS = 240
"""A download that takes longer is begun anew."""

MOST_FETCHES = 2
"""Downloads at one time."""

MOST_FAILURES = 8
"""Downloads of one file that broke off, after which Telegram is taken not to have it."""


class Unavailable(Exception):
    """Telegram does not give the document out, or the gateway does not take it."""


class Fetching:
    """One task for each document that a reply waits for."""

    def __init__(self, bot: Bot, link: Link, epoch: Callable[[int], Awaitable[int]]) -> None:
        """`epoch` gives the current stream's epoch, and waits for one beyond its argument."""
        self._bot = bot
        self._link = link
        self._epoch = epoch
        self._places = asyncio.Semaphore(MOST_FETCHES)
        self._tasks: dict[tuple[int, str], asyncio.Task[None]] = {}

    def begin(self, reply: Reply) -> None:
        """Bring the document that a reply waits for, unless that is under way.

        The next one of an album may be named before the one before it is known to be there.
        """
        key = reply.id, reply.document
        if key in self._tasks:
            return
        task = self._tasks[key] = asyncio.create_task(self._fetch(*key))

        def forget(task: asyncio.Task[None]) -> None:
            if self._tasks.get(key) is task:
                del self._tasks[key]

        task.add_done_callback(forget)

    def end(self, reply_id: int) -> None:
        """Nobody waits for it any more; it may be begun anew at once."""
        for key in [key for key in self._tasks if key[0] == reply_id]:
            self._tasks.pop(key).cancel()

    def stop(self) -> None:
        """End all; a later relay begins anew."""
        for reply_id, _ in list(self._tasks):
            self.end(reply_id)

    async def _fetch(self, reply_id: int, file_id: str) -> None:
        with contextlib.suppress(Settled):
            try:
                await self._bring(reply_id, file_id)
                log.info("document brought", extra={"reply": reply_id})
            except Unavailable:
                log.warning("document unavailable", extra={"reply": reply_id})
                await persist(
                    self._epoch,
                    lambda epoch: self._link.report_missing(epoch, reply_id, file_id),
                )

    async def _bring(self, reply_id: int, file_id: str) -> None:
        """Raises Unavailable or Settled."""
        backoff = Backoff()
        failures = refused = 0
        while True:
            epoch = await self._epoch(refused)
            try:
                # What the gateway cannot take yet does not keep others from being brought.
                async with self._places:
                    # Where it is, Telegram promises for an hour only: it is asked each time.
                    download = _Download(self._bot, await self._find(file_id))
                    await self._link.bring(epoch, reply_id, file_id, download.pieces)
                return
            except Superseded:
                refused = epoch
                continue
            except Rejected:
                raise Unavailable from None
            except LinkDown:
                failures += download.has_failed
            if download.has_failed:
                log.warning("download failed", extra={"reply": reply_id, "failures": failures})
            if download.is_refused or failures >= MOST_FAILURES:
                raise Unavailable
            await backoff.wait()

    async def _find(self, file_id: str) -> str:
        """Ask Telegram where the file is, until it answers. Raises Unavailable."""
        backoff = Backoff()
        while True:
            try:
                file = await self._bot(GetRawFile(file_id=file_id))
                return str(file["file_path"])
            except (*REFUSALS, KeyError):
                raise Unavailable from None
            except TelegramRetryAfter as error:
                await asyncio.sleep(error.retry_after)
            except (AiogramError, OSError) as error:
                log.warning("telegram failed", extra={"error": describe_error(error)})
                await backoff.wait()


class _Download:
    """A file as it comes in."""

    def __init__(self, bot: Bot, path: str) -> None:
        self._bot = bot
        self._path = path
        self.has_failed = False
        self.is_refused = False
        """Whether Telegram will not give it out, however often it is asked."""

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Whoever reads this sees it break off where the download does: by ConnectionError."""
        session = self._bot.session
        url = session.api.file_url(self._bot.token, self._path)
        try:
            async with contextlib.aclosing(
                session.stream_content(url, timeout=DOWNLOAD_SECONDS, chunk_size=PIECE_BYTES)
            ) as pieces:
                async for piece in pieces:
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.has_failed = True
            if isinstance(error, aiohttp.ClientResponseError):
                self.is_refused = 400 <= error.status < 500 and error.status != 429
            # The error itself quotes the address, which holds the bot's token.
            raise ConnectionError from None
