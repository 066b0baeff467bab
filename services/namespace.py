"""Watches the network namespace that this container shares, and keeps the sign of life up to date.

The holder of the namespace listens on an abstract Unix socket, which is scoped to the namespace.
When the holder is restarted its members are left behind in a namespace that nobody tends; they
notice that the socket refuses, and exit so that the restart policy brings them into the new one.
A tunnel that is down changes nothing here: it must stop nobody.
"""

import asyncio
import contextlib
import logging
import re
import socket
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

HOLDER = "\0namespace"
ALIVE = Path("/tmp/alive")  # on a tmpfs of this container; `health` reads its age
PATIENCE_SECONDS = 3.0
PERIOD_SECONDS = 1.0

MOST_STATUS_BYTES = 4096


class HolderGone(Exception):
    """The namespace's holder is gone: this service exits and is restarted into the new one."""


@dataclass(frozen=True)
class Tunnel:
    """What the holder says of the tunnel whose one end is in its namespace."""

    handshake_at: int = 0
    """The last one, in seconds since 1970; 0: there was none yet."""
    refused_in: int = 0
    """Packets that the rules of the namespace, and around the tunnel, have refused so far."""
    refused_out: int = 0


class Namespace:
    """The namespace as it was last seen."""

    def __init__(self, holder: str = HOLDER, alive: Path = ALIVE) -> None:
        self._holder = holder
        self._alive = alive
        self.tunnel: Tunnel | None = None
        """None: the holder has not said anything about it yet."""

    async def watch(self) -> None:
        """Run until the holder has refused for 3 s, then raise HolderGone."""
        clock = asyncio.get_running_loop().time
        last_seen = clock()
        while True:
            if await self._look():
                last_seen = clock()
            elif clock() - last_seen >= PATIENCE_SECONDS:
                log.error("holder gone")
                raise HolderGone
            self._alive.touch()
            await asyncio.sleep(PERIOD_SECONDS)

    async def _look(self) -> bool:
        """Tell whether the holder answers; what it says is not a matter of life."""
        try:
            async with asyncio.timeout(PERIOD_SECONDS):
                reader, writer = await _connect(self._holder)
        except (OSError, TimeoutError):
            return False
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    self.tunnel = _read(await reader.read(MOST_STATUS_BYTES)) or self.tunnel
        finally:
            writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect a socket by hand: uvloop takes an abstract address for an empty one."""
    end = socket.socket(socket.AF_UNIX)
    end.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(end, address)
        return await asyncio.open_unix_connection(sock=end)
    except BaseException:
        end.close()
        raise


def _read(status: bytes) -> Tunnel | None:
    """Read NAME=NUMBER lines. Both containers of the tunnel count: a name may come twice.

    Numbers are small enough that not even their sum is too large for the wire.
    """
    numbers: dict[bytes, int] = {}
    for name, number in re.findall(rb"^([a-z_]+)=([0-9]{1,15})$", status, re.MULTILINE):
        numbers[name] = numbers.get(name, 0) + int(number)
    if not numbers:
        return None
    return Tunnel(
        numbers.get(b"handshake_at", 0),
        numbers.get(b"refused_in_packets", 0),
        numbers.get(b"refused_out_packets", 0),
    )
