"""Starts the relay: reads the settings, builds every object in order, and runs until stopped."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramUnauthorizedError

from services.log import describe_error, start_logging
from services.namespace import HOLDER, Namespace
from services.relay.addressing import Identity
from services.relay.backoff import Backoff
from services.relay.inbox import PATIENCE_SECONDS, BadToken, Inbox
from services.relay.link import HEARD, open_link
from services.relay.marks import MarkedUsers
from services.relay.menus import Menus
from services.relay.notices import Notices
from services.relay.outbox import Outbox
from services.relay.pacing import Pacing
from services.relay.polls import PollSign
from services.relay.presence import Presence
from services.relay.profile import keep_profile
from services.relay.settings import RelaySettings
from services.relay.telegram import GetRawMe, open_bot
from services.relay.tenure import Tenure
from services.relay.translation import Doorman
from services.settings import BadSetting, read_settings

log = logging.getLogger("services.relay")


def main() -> int:
    """Run the relay. Returns the process's exit status."""
    try:
        settings = read_settings(RelaySettings)
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    start_logging(settings.log_level)
    log.info("starting", extra={"settings": settings.public()})
    try:
        asyncio.run(run(settings))
    except BaseExceptionGroup as errors:
        log.critical("stopped", extra={"errors": [describe_error(e) for e in errors.exceptions]})
        if errors.subgroup(BadToken):
            print(BadToken.__doc__, file=sys.stderr)
            return 2
        return 1
    return 0


async def run(
    settings: RelaySettings,
    holder: str = HOLDER,
    clock: Callable[[], float] = time.time,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Carry messages until SIGTERM or SIGINT. Raises a group with what stopped it otherwise.

    `clock` gives the Unix time; waiting chats are told so after `patience_seconds`.
    """
    async with AsyncExitStack() as stack:
        bot = open_bot(
            settings.bot_token,
            settings.telegram_api,
            settings.telegram_socket,
            settings.telegram_ca_file,
        )
        stack.push_async_callback(bot.session.close)
        link = open_link(settings.link_address, settings.link_port, settings.link_token, HEARD)
        stack.push_async_callback(link.close)
        pacing, presence, menus = Pacing(), Presence(), Menus(bot)
        notices, sign = Notices(bot, pacing, clock), PollSign()
        outbox = Outbox(bot, link, pacing, presence, Tenure(), menus, sign)
        namespace = Namespace(holder)
        users = MarkedUsers(settings.allowed_users, settings.link_token)

        async def receive() -> None:
            sign.begin()
            username = await _ask_own_name(bot)
            sign.answered()
            doorman = Doorman(users, presence, Identity(bot.id, username))
            inbox = Inbox(
                *(bot, link, doorman, presence, notices, menus),
                *(patience_seconds, sign, namespace),
            )
            await inbox.run()

        stopped = _catch_signals()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(namespace.watch()),
                group.create_task(keep_profile(bot, settings.profile)),
                group.create_task(menus.run()),
                group.create_task(outbox.run()),
                group.create_task(receive()),
            ]
            await stopped.wait()
            for task in tasks:
                task.cancel()


async def _ask_own_name(bot: Bot) -> str:
    """Ask Telegram for the bot's user name, by which groups call it. Raises BadToken."""
    backoff = Backoff()
    while True:
        try:
            return str((await bot(GetRawMe())).get("username", ""))
        except TelegramUnauthorizedError:
            raise BadToken from None
        except (AiogramError, OSError) as error:
            log.warning("own name not known yet", extra={"error": describe_error(error)})
            await backoff.wait()


def _catch_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


if __name__ == "__main__":
    sys.exit(main())
