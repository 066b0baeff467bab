"""Keeps the menus of commands that clients show: in private chats, in groups, in admins' chats.

A stranger's client shows the menu of private chats: no more than an ordinary bot's, and nothing of
what admins can do. Everywhere else (the default) there is none. Telegram keeps each menu apart
(https://core.telegram.org/bots/api#determining-list-of-commands). Each is looked at first and
changed only where it differs, since a change is sent to all clients; a look costs as little.
"""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from aiogram import Bot
from aiogram.types import (
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    BotCommandScopeDefault,
)

from services.log import describe_error
from services.relay.profile import until_done
from services.relay.telegram import REFUSALS, CommandScope, GetRawCommands
from services.relay.texts import ADMIN_MENU, GROUP_MENU, MENU, NO_MENU, Menu

log = logging.getLogger(__name__)

STANDING: tuple[tuple[CommandScope, Menu], ...] = (
    (BotCommandScopeAllPrivateChats(), MENU),
    (BotCommandScopeAllGroupChats(), GROUP_MENU),
    (BotCommandScopeDefault(), NO_MENU),
)


class Menus:
    """The menus as they shall be; the gateway says who is an admin, and who was."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot
        self._wanted: dict[int, Menu] = {}
        self._kept: dict[int, Menu] = {}
        """What each of these chats shows, as far as this process knows."""
        self._unmet: set[int] = set()
        """Users who have never spoken to the bot: Telegram knows no chat with them."""
        self._changed = asyncio.Event()

    def name_admins(self, admins: Iterable[int], former: Iterable[int]) -> None:
        """These users' menus have the commands of admins; of those, not any more."""
        self._wanted = dict.fromkeys(former, NO_MENU) | dict.fromkeys(admins, ADMIN_MENU)
        self._unmet.clear()
        self._changed.set()

    def hear(self, user_id: int) -> None:
        """This user has written, so there is a chat with them by now."""
        if user_id in self._unmet:
            self._unmet.discard(user_id)
            self._changed.set()

    async def run(self) -> None:
        """Keep them for ever."""
        for scope, menu in STANDING:
            await until_done("menu", partial(self._keep, scope, menu))
        while True:
            await self._changed.wait()
            self._changed.clear()
            for user_id, menu in list(self._wanted.items()):
                if self._kept.get(user_id) is not menu and user_id not in self._unmet:
                    await until_done("menu", partial(self._meet, user_id, menu))

    async def _meet(self, user_id: int, menu: Menu) -> None:
        try:
            await self._keep(BotCommandScopeChat(chat_id=user_id), menu)
            self._kept[user_id] = menu
        except REFUSALS as error:
            log.info("menu waits for its user", extra={"error": describe_error(error)})
            self._unmet.add(user_id)

    async def _keep(self, scope: CommandScope, menu: Menu) -> None:
        """Let Telegram show this menu here, in each language; one that is right is left alone."""
        for language, commands in menu.items():
            shown = await self._bot(GetRawCommands(scope=scope, language_code=language))
            if [(one.get("command"), one.get("description")) for one in shown] == [
                (one.command, one.description) for one in commands
            ]:
                continue
            if commands:
                await self._bot.set_my_commands(commands, scope=scope, language_code=language)
            else:
                await self._bot.delete_my_commands(scope=scope, language_code=language)
