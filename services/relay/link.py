"""Speaks to the gateway at the other end of the tunnel. One HTTP library serves both ways out."""

from collections.abc import AsyncGenerator

import aiohttp
from pydantic import BaseModel, ValidationError

from services.wire import (
    VERSION,
    VERSION_HEADER,
    Batch,
    Claim,
    Event,
    Outcome,
    PartRecord,
    Receipts,
    decode_event,
)

SILENCE_SECONDS = 25.0
"""The stream is dead after this long: the gateway shows a sign of life every 10 s."""


class LinkDown(Exception):
    """The gateway cannot take this now; it may be asleep. Keep everything and try again."""


class Rejected(Exception):
    """The gateway will never take this request as it is."""


class Superseded(Exception):
    """Another stream has taken over: write nothing more before a new one has begun."""


class Settled(Exception):
    """The gateway does not know the reply any more: somebody has brought it to its end."""


class Link:
    """The calls and the stream between this relay and the gateway."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, batch: Batch) -> Receipts:
        """Hand a batch over. When this returns, the gateway has committed it.

        Raises LinkDown if it must be sent again, Rejected if the batch itself is refused.
        """
        try:
            return Receipts.model_validate_json(await self._post("/chat", batch))
        except (ValidationError, Superseded, Settled):
            raise LinkDown from None  # whatever answered is not the gateway that we know

    async def claim(self, epoch: int, reply_id: int) -> None:
        """Ask leave for an edit. Raises LinkDown, Superseded or Settled."""
        await self._post(f"/replies/{reply_id}/claim", Claim(epoch=epoch))

    async def record_part(self, epoch: int, reply_id: int, position: int, message_id: int) -> None:
        """Record which message carries a part. Raises LinkDown, Superseded or Settled."""
        record = PartRecord(epoch=epoch, position=position, message_id=message_id)
        await self._post(f"/replies/{reply_id}/parts", record)

    async def settle(self, outcome: Outcome, reply_id: int) -> None:
        """Report the end of a reply. Raises LinkDown, Superseded or Settled."""
        await self._post(f"/replies/{reply_id}/outcome", outcome)

    async def events(self) -> AsyncGenerator[Event]:
        """Follow the gateway's stream until it ends. Raises LinkDown."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_SECONDS)
        try:
            async with self._session.get("/events", timeout=timeout) as response:
                if response.status != 200:
                    raise LinkDown
                rest = b""
                async for data in response.content.iter_any():
                    *frames, rest = (rest + data).split(b"\n\n")
                    for frame in frames:
                        event = decode_event(frame)
                        if event:
                            yield event
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            raise LinkDown from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, path: str, body: BaseModel) -> bytes:
        try:
            async with self._session.post(
                path,
                data=body.model_dump_json().encode(),
                headers={"Content-Type": "application/json"},
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LinkDown from error
        match response.status:
            case 200 | 204:
                return answer
            case 404:
                raise Settled
            case 409:
                raise Superseded
            case 400 | 413 | 422:
                raise Rejected
            case _:
                # 5xx passes; a wrong link token or version (401, 426) is the operator's to mend,
                # and no reason to lose what users wrote.
                raise LinkDown


def open_link(address: str, port: int, token: str) -> Link:
    """Build the link; whoever calls closes it."""
    session = aiohttp.ClientSession(
        f"http://{address}:{port}",
        headers={"Authorization": f"Bearer {token}", VERSION_HEADER: str(VERSION)},
        timeout=aiohttp.ClientTimeout(total=15, sock_connect=5),
        connector=aiohttp.TCPConnector(limit=100),
    )
    return Link(session)
