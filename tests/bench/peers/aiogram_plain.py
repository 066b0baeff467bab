"""A bot on aiogram as its documentation begins one: python -m tests.bench.peers.aiogram_plain URL N

It does nothing with a message but count it, and says so every N.
"""

import asyncio
import sys

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Message

TOKEN = "123456789:" + "A" * 35


async def main() -> None:
    """Poll until SIGTERM."""
    url, every = sys.argv[1], int(sys.argv[2])
    count = 0
    dispatcher = Dispatcher()

    async def handle(_message: Message) -> None:
        nonlocal count
        count += 1
        if count % every == 0:
            print(count, flush=True)

    dispatcher.message.register(handle)
    session = AiohttpSession(api=TelegramAPIServer.from_base(url))
    await dispatcher.start_polling(Bot(TOKEN, session=session))


if __name__ == "__main__":
    asyncio.run(main())
