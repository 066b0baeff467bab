"""Opens aiogram's Bot over the one way to Telegram that there is: the egress's Unix socket.

TLS is spoken from here to Telegram, end to end; whoever forwards the bytes sees none of it. No
name is ever resolved in this process.
"""

import socket
import ssl
from pathlib import Path
from typing import Any

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramMigrateToChat,
)
from aiogram.methods import TelegramMethod
from aiogram.types import (
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    BotCommandScopeDefault,
    InlineKeyboardMarkup,
    InputMediaDocument,
    InputMediaPhoto,
    ReplyParameters,
)
from aiohttp.abc import AbstractResolver, ResolveResult

RawUpdate = dict[str, Any]
CommandScope = (
    BotCommandScopeDefault
    | BotCommandScopeAllPrivateChats
    | BotCommandScopeAllGroupChats
    | BotCommandScopeChat
)
RawMessage = Any  # an object, or true for a message that is not the bot's own

REFUSALS = (TelegramBadRequest, TelegramForbiddenError, TelegramMigrateToChat)
"""Telegram has understood the request and will never carry it out as it is."""


class GetRawUpdates(TelegramMethod[list[RawUpdate]]):
    """getUpdates, each update left as it came: one that aiogram cannot read spoils no other."""

    __returning__ = list[RawUpdate]
    __api_method__ = "getUpdates"

    offset: int | None = None
    limit: int | None = None
    timeout: int | None = None
    allowed_updates: list[str] | None = None


class GetRawMe(TelegramMethod[dict[str, Any]]):
    """getMe, its answer left as it came."""

    __returning__ = dict[str, Any]
    __api_method__ = "getMe"


class GetRawCommands(TelegramMethod[list[dict[str, Any]]]):
    """getMyCommands, its answer left as it came."""

    __returning__ = list[dict[str, Any]]
    __api_method__ = "getMyCommands"

    scope: CommandScope
    language_code: str | None = None


class GetRawFile(TelegramMethod[dict[str, Any]]):
    """getFile, its answer left as it came."""

    __returning__ = dict[str, Any]
    __api_method__ = "getFile"

    file_id: str


class SendText(TelegramMethod[RawMessage]):
    """sendMessage, its answer left as it came.

    The answer repeats the message replied to: what aiogram cannot read in it must not make a
    message that stands in the chat look like one that was never sent.
    """

    __returning__ = RawMessage
    __api_method__ = "sendMessage"

    chat_id: int
    text: str
    message_thread_id: int | None = None
    reply_parameters: ReplyParameters | None = None


class EditText(TelegramMethod[RawMessage]):
    """editMessageText, its answer left as it came, for the same reason."""

    __returning__ = RawMessage
    __api_method__ = "editMessageText"

    chat_id: int
    message_id: int
    text: str
    entities: str | None = None
    """A list, as JSON: within a list aiogram would write its numbers as words."""
    link_preview_options: str = '{"is_disabled": true}'
    """Whoever runs a site that an answer names would hear of it from Telegram's preview."""
    reply_markup: InlineKeyboardMarkup | None = None


class EditFile(TelegramMethod[RawMessage]):
    """editMessageMedia, its answer left as it came; a message of text may become one of a file."""

    __returning__ = RawMessage
    __api_method__ = "editMessageMedia"

    chat_id: int
    message_id: int
    media: InputMediaDocument | InputMediaPhoto
    reply_markup: InlineKeyboardMarkup | None = None


def open_bot(token: str, api: str, egress: Path, ca_file: Path | None) -> Bot:
    """Build the Bot; whoever calls closes its session.

    `ca_file` names certificates to trust instead of the system's.
    """
    session = _EgressSession(
        egress,
        ssl.create_default_context(cafile=str(ca_file) if ca_file else None),
        TelegramAPIServer.from_base(api),
    )
    return Bot(token, session=session)


_GONE = (
    "chat not found",
    "chat was deactivated",
    "chat_restricted",
    "chat_write_forbidden",
    "have no rights to send",
    "message thread not found",
    "not enough rights to send",
    "peer_id_invalid",
    "topic_closed",
    "topic_deleted",
    "user is deactivated",
    "user_is_blocked",
)
"""How Telegram words it, in lower case, that nothing can be said there any more."""

_NOT_TO_EDIT = ("message to edit not found", "message_id_invalid")


def is_gone(error: Exception) -> bool:
    """Tell whether the chat, the topic, or our place in it is gone for good."""
    if isinstance(error, TelegramForbiddenError):
        return True
    return isinstance(error, TelegramBadRequest) and _says(error, _GONE)


def is_shown(error: TelegramBadRequest) -> bool:
    """Tell whether there is nothing to edit: it shows the text, or the user has deleted it."""
    return _says(error, ("not modified", *_NOT_TO_EDIT))


def _says(error: Exception, phrases: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(phrase in text for phrase in phrases)


class _EgressSession(AiohttpSession):
    def __init__(self, egress: Path, context: ssl.SSLContext, api: TelegramAPIServer) -> None:
        super().__init__(api=api, timeout=30.0)
        # aiogram has no public way to give its connector arguments, and pins a certificate store
        # of its own instead of the system's.
        self._connector_init = {
            "ssl": context,
            "limit": 100,
            "resolver": _NoResolver(),
            "socket_factory": lambda _: _EgressSocket(egress),
        }


class _EgressSocket(socket.socket):
    """Goes to the egress, whatever address it is told to connect to."""

    def __init__(self, egress: Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._egress = str(egress)

    def connect(self, _address: Any, /) -> None:
        super().connect(self._egress)


class _NoResolver(AbstractResolver):
    """Answers without asking anybody: the egress alone knows where Telegram is."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""
