"""A bot on python-telegram-bot as its documentation begins one, counting messages alone.

    python -m tests.bench.peers.telegram_plain URL N

It says so every N messages.
"""

import sys
from typing import Any

from telegram.ext import ApplicationBuilder, MessageHandler, filters

TOKEN = "123456789:" + "A" * 35


def main() -> None:
    """Poll until SIGTERM."""
    url, every = sys.argv[1], int(sys.argv[2])
    count = 0

    async def handle(_update: Any, _context: Any) -> None:
        nonlocal count
        count += 1
        if count % every == 0:
            print(count, flush=True)

    application = ApplicationBuilder().token(TOKEN).base_url(f"{url}/bot").build()
    application.add_handler(MessageHandler(filters.ALL, handle))
    application.run_polling()


if __name__ == "__main__":
    main()
