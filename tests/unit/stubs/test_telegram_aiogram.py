"""Owns the promise that aiogram, the relay's library, understands every answer of the stub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaDocument,
    Message,
    MessageEntity,
    ReactionTypeEmoji,
    ReplyParameters,
)

from tests.stubs.telegram.budgets import Limits
from tests.stubs.telegram.client import TOKEN, Session, started
from tests.stubs.telegram.stub import Options

KEYBOARD = InlineKeyboardMarkup(
    inline_keyboard=[[InlineKeyboardButton(text="Stop", callback_data="stop:1")]]
)
UNLIMITED = Limits(budgets=False, repeat_guard=False)


@asynccontextmanager
async def bot_on_stub(
    limits: Limits = UNLIMITED, token: str = TOKEN
) -> AsyncIterator[tuple[Session, Bot]]:
    """Run a stub and aiogram's real Bot against it; user 7 has spoken."""
    async with started(Options(limits=limits)) as telegram:
        server = TelegramAPIServer.from_base(telegram.base)
        bot = Bot(token, session=AiohttpSession(api=server))
        await telegram.say(7, "/start now")
        try:
            yield telegram, bot
        finally:
            await bot.session.close()


async def test_whole_life_of_an_answer() -> None:
    """Updates, placeholder, edits, keyboard, reaction, document: all parse."""
    async with bot_on_stub() as (telegram, bot):
        assert (await bot.get_me()).id == bot.id
        (update,) = await bot.get_updates(timeout=1, allowed_updates=["message", "callback_query"])
        assert update.message is not None
        assert update.message.text == "/start now"
        assert update.message.entities is not None
        assert update.message.entities[0].type == "bot_command"

        await bot.send_chat_action(7, "typing")
        await bot.set_message_reaction(
            7, update.message.message_id, [ReactionTypeEmoji(emoji="👀")]
        )
        placeholder = await bot.send_message(
            7,
            "…",
            reply_markup=KEYBOARD,
            reply_parameters=ReplyParameters(message_id=update.message.message_id),
        )
        assert placeholder.reply_markup is not None
        assert placeholder.reply_markup.model_dump() == KEYBOARD.model_dump()
        assert placeholder.reply_to_message is not None
        edited = await bot.edit_message_text(
            "bold",
            chat_id=7,
            message_id=placeholder.message_id,
            entities=[MessageEntity(type="bold", offset=0, length=4)],
            reply_markup=KEYBOARD,
        )
        assert isinstance(edited, Message)
        assert edited.html_text == "<b>bold</b>"
        pressed = await telegram.press(7, placeholder.message_id, "stop:1")
        updates = await bot.get_updates(offset=update.update_id + 1, timeout=1)
        query = updates[0].callback_query
        assert query is not None
        assert query.id == pressed["callback_query_id"]
        assert await bot.answer_callback_query(query.id, text="Stopped")
        await bot.edit_message_reply_markup(chat_id=7, message_id=placeholder.message_id)
        document = BufferedInputFile(b"long answer", "answer.md")
        media = await bot.edit_message_media(
            InputMediaDocument(media=document, caption="The rest"),
            chat_id=7,
            message_id=placeholder.message_id,
        )
        assert isinstance(media, Message)
        assert media.document is not None
        assert media.caption == "The rest"
        file = await bot.get_file(media.document.file_id)
        assert file.file_path is not None
        downloaded = await bot.download_file(file.file_path)
        assert downloaded is not None
        assert downloaded.read() == b"long answer"
        sent = await bot.send_document(7, document, caption="<b>c</b>", parse_mode="HTML")
        assert sent.document is not None
        assert await bot.delete_message(7, sent.message_id)


async def test_profile_methods() -> None:
    """Commands, names, chat and webhook information parse."""
    async with bot_on_stub() as (_, bot):
        commands = [BotCommand(command="help", description="Help")]
        assert await bot.set_my_commands(commands)
        assert [c.model_dump() for c in await bot.get_my_commands()] == [
            c.model_dump() for c in commands
        ]
        assert await bot.delete_my_commands()
        assert await bot.set_my_name("N")
        assert (await bot.get_my_name()).name == "N"
        assert await bot.set_my_description("D")
        assert (await bot.get_my_description()).description == "D"
        assert await bot.set_my_short_description("S")
        assert (await bot.get_my_short_description()).short_description == "S"
        assert (await bot.get_chat(7)).type == "private"
        assert (await bot.get_webhook_info()).pending_update_count == 1
        assert await bot.delete_webhook(drop_pending_updates=True)
        assert await bot.log_out()


async def test_errors_have_their_classes() -> None:
    """aiogram recognises each error class that the stub can give."""
    async with bot_on_stub() as (telegram, bot):
        message = await bot.send_message(7, "a")
        with pytest.raises(TelegramBadRequest, match="message is not modified"):
            await bot.edit_message_text("a", chat_id=7, message_id=message.message_id)
        with pytest.raises(TelegramBadRequest, match="message is too long"):
            await bot.send_message(7, "x" * 4097)
        with pytest.raises(TelegramBadRequest, match="can't parse entities"):
            await bot.send_message(7, "<x>", parse_mode="HTML")
        with pytest.raises(TelegramBadRequest, match="chat not found"):
            await bot.send_message(8, "a")
        await telegram.post("block", {"chat_id": 7})
        with pytest.raises(TelegramForbiddenError, match="bot was blocked by the user"):
            await bot.send_message(7, "a")
        await telegram.post("fault", {"kind": "retry_after", "seconds": 3})
        with pytest.raises(TelegramRetryAfter) as caught:
            await bot.get_me()
        assert caught.value.retry_after == 3
        await telegram.post("fault", {"kind": "status", "status": 500})
        with pytest.raises(TelegramServerError):
            await bot.get_me()
        await telegram.post("fault", {"kind": "reset"})
        with pytest.raises(TelegramNetworkError):
            await bot.get_me()
        with pytest.raises(TelegramNotFound):
            await bot.get_my_star_balance()
        other = Bot("42:" + "x" * 35, session=bot.session)
        with pytest.raises(TelegramUnauthorizedError):
            await other.get_me()


async def test_conflict_and_budget() -> None:
    """Two pollers give a conflict, a flood gives retry_after."""
    limits = Limits(private_burst=1, repeat_guard=False)
    async with bot_on_stub(limits) as (_, bot):
        await bot.delete_webhook(drop_pending_updates=True)
        polls = [asyncio.create_task(bot.get_updates(timeout=1)) for _ in range(2)]
        await asyncio.wait(polls)

        outcomes = sorted(type(task.exception()).__name__ for task in polls)
        assert outcomes == ["NoneType", "TelegramConflictError"]

        await bot.send_message(7, "a")
        with pytest.raises(TelegramRetryAfter):
            await bot.send_message(7, "b")
