"""Waits for the store's key where it is not kept on the disk: an empty secret means locked.

Whoever has the key writes it into the same file, from outside, and the gateway goes on. Until then
it listens to nobody, and so is asleep for the relay; it counts as healthy all the while, since no
restart would help.
"""

import asyncio
import logging
from pathlib import Path

from services.namespace import Namespace

log = logging.getLogger("services.gateway")

PERIOD_SECONDS = 1.0


async def until_unlocked(
    secret: Path, namespace: Namespace, period_seconds: float = PERIOD_SECONDS
) -> None:
    """Return when the secret is not empty. Raises HolderGone, in a group, as at work."""
    if not is_locked(secret):
        return
    log.warning("locked", extra={"action": "locked", "remedy": "unlock the store on this node"})
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(namespace.watch())
        while True:
            await asyncio.sleep(period_seconds)
            if not is_locked(secret):
                break
        watching.cancel()
    log.info("unlocked", extra={"action": "unlocked"})


def is_locked(secret: Path) -> bool:
    """Whether the secret is there and empty; of a missing one the settings say what is wrong."""
    try:
        return secret.stat().st_size == 0
    except OSError:
        return False
