"""Watches the network namespace that this container shares, and keeps the sign of life up to date.

The holder of the namespace listens on an abstract Unix socket, which is scoped to the namespace.
When the holder is restarted its members are left behind in a namespace that nobody tends; they
notice that the socket refuses, and exit so that the restart policy brings them into the new one.
A tunnel that is down changes nothing here: it must stop nobody.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

log = logging.getLogger(__name__)

HOLDER = "\0namespace"
ALIVE = Path("/tmp/alive")  # on a tmpfs of this container; `health` reads its age
PATIENCE_SECONDS = 3.0
PERIOD_SECONDS = 1.0


class HolderGone(Exception):
    """The namespace's holder is gone: this service exits and is restarted into the new one."""


async def watch_namespace(holder: str = HOLDER, alive: Path = ALIVE) -> None:
    """Run until the holder has refused for 3 s, then raise HolderGone."""
    clock = asyncio.get_running_loop().time
    last_seen = clock()
    while True:
        if await _answers(holder):
            last_seen = clock()
        elif clock() - last_seen >= PATIENCE_SECONDS:
            log.error("holder gone")
            raise HolderGone
        alive.touch()
        await asyncio.sleep(PERIOD_SECONDS)


async def _answers(holder: str) -> bool:
    try:
        async with asyncio.timeout(PERIOD_SECONDS):
            _, writer = await asyncio.open_unix_connection(holder)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
