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
from services.relay.link import Link, LinkDown, Rejected, Settled, persist
from services.relay.telegram import REFUSALS, GetRawFile
from services.wire import Reply

log = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024

DOWNLOAD_SECONDS = 240
"""A download that takes longer is begun anew."""

MOST_FETCHES = 4
"""Downloads at one time."""


class Unavailable(Exception):
    """Telegram does not give the document out, or the gateway does not take it."""


class Fetching:
    """One task for each reply that waits for a document."""

    def __init__(self, bot: Bot, link: Link, epoch: Callable[[int], Awaitable[int]]) -> None:
        """`epoch` gives the current stream's epoch, and waits for one beyond its argument."""
        self._bot = bot
        self._link = link
        self._epoch = epoch
        self._places = asyncio.Semaphore(MOST_FETCHES)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def begin(self, reply: Reply) -> None:
        """Bring the document that a reply waits for, unless that is under way."""
        if reply.id not in self._tasks:
            task = asyncio.create_task(self._fetch(reply.id, reply.document))
            self._tasks[reply.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(reply.id, None))

    def end(self, reply_id: int) -> None:
        """Nobody waits for it any more."""
        if task := self._tasks.get(reply_id):
            task.cancel()

    def stop(self) -> None:
        """End all; a later relay begins anew."""
        for task in self._tasks.values():
            task.cancel()

    async def _fetch(self, reply_id: int, file_id: str) -> None:
        with contextlib.suppress(Settled):
            async with self._places:
                try:
                    path = await self._find(file_id)
                    await persist(self._epoch, lambda epoch: self._bring(epoch, reply_id, path))
                    log.info("document brought", extra={"reply": reply_id})
                except Unavailable:
                    log.warning("document unavailable", extra={"reply": reply_id})
                    await persist(
                        self._epoch, lambda epoch: self._link.report_missing(epoch, reply_id)
                    )

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

    async def _bring(self, epoch: int, reply_id: int, path: str) -> None:
        """Raises Unavailable, LinkDown (begin anew), Superseded or Settled."""
        download = _Download(self._bot, path)
        try:
            await self._link.bring(epoch, reply_id, download.pieces)
        except LinkDown:
            if download.is_refused:
                raise Unavailable from None
            raise
        except Rejected:
            raise Unavailable from None


class _Download:
    """A file as it comes in."""

    def __init__(self, bot: Bot, path: str) -> None:
        self._bot = bot
        self._path = path
        self.is_refused = False
        """Whether Telegram will not give it out, however often it is asked."""

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Whoever reads this sees it break off where the download does."""
        session = self._bot.session
        url = session.api.file_url(self._bot.token, self._path)
        try:
            async with contextlib.aclosing(
                session.stream_content(url, timeout=DOWNLOAD_SECONDS, chunk_size=PIECE_BYTES)
            ) as pieces:
                async for piece in pieces:
                    yield piece
        except aiohttp.ClientResponseError as error:
            self.is_refused = 400 <= error.status < 500 and error.status != 429
            raise
