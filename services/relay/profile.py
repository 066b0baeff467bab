"""Keeps what Telegram shows of the bot as the settings want it: its name and texts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramRetryAfter

from services.log import describe_error
from services.relay.backoff import Backoff
from services.relay.telegram import REFUSALS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Profile:
    """What strangers see of the bot; what is empty stays as it is at Telegram."""

    name: str = ""
    about: str = ""
    """In the bot's profile and beside its name."""
    description: str = ""
    """In a chat that is still empty."""


async def keep_profile(bot: Bot, profile: Profile) -> None:
    """Return when all of it is as it should be: a webhook, which keeps updates away, goes first.

    Telegram lets a bot change its name a few times a day only, so what is right is left alone.
    """
    await until_done("webhook", lambda: bot.delete_webhook(drop_pending_updates=False))
    await _keep("name", profile.name, bot.get_my_name, bot.set_my_name)
    await _keep(
        "short_description", profile.about, bot.get_my_short_description,
        bot.set_my_short_description,
    )  # fmt: skip
    await _keep("description", profile.description, bot.get_my_description, bot.set_my_description)


async def _keep(
    what: str,
    wanted: str,
    get: Callable[[], Awaitable[Any]],
    change: Callable[[str], Awaitable[Any]],
) -> None:
    async def change_if_different() -> None:
        if getattr(await get(), what) != wanted:
            await change(wanted)

    if wanted:
        await until_done(what, change_if_different)


async def until_done(what: str, call: Callable[[], Awaitable[Any]]) -> None:
    """Call Telegram until it has done this, or will never: that is logged as an error."""
    backoff = Backoff()
    while True:
        try:
            await call()
            return
        except TelegramRetryAfter as error:
            await asyncio.sleep(error.retry_after)
        except REFUSALS as error:
            log.error("refused by telegram", extra={"what": what, "error": describe_error(error)})
            return
        except (AiogramError, OSError) as error:
            log.warning("not prepared yet", extra={"error": describe_error(error)})
            await backoff.wait()
