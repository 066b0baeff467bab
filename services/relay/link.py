"""Speaks to the gateway at the other end of the tunnel. One HTTP library serves both ways out."""

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError

from services.relay.backoff import Backoff
from services.relay.versions import complete_receipts, write_batch, write_outcome, write_part
from services.wire import (
    SPOKEN,
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

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_SECONDS = 15.0

BRING_SECONDS = 300.0
"""A document of 20 MB at 100 kB/s, and the time that reading it takes."""

HEARD = Path("/tmp/wire")
"""On a tmpfs of this container."""

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


class VersionsTooFarApart(LinkDown):
    """The nodes' versions are too far apart: upgrade the older node, then both serve again."""


class Link:
    """The calls and the stream between this relay and the gateway.

    Each request names the version of the wire that it is written in. A gateway that does not speak
    it answers 426; then the version before is spoken, until the next stream tries the newest again.
    """

    def __init__(self, session: aiohttp.ClientSession, heard: Path | None = None) -> None:
        """`heard`: a file for the version that the gateway takes, for whoever upgrades a node."""
        self._session = session
        self._heard = heard
        self._version = VERSION
        self._has_complained = False

    async def send(self, batch: Batch) -> Receipts:
        """Hand a batch over. When this returns, the gateway has committed it.

        Raises LinkDown if it must be sent again, Rejected if the batch itself is refused.
        """
        try:
            answer = await self._post("/chat", partial(write_batch, batch))
            return complete_receipts(batch, Receipts.model_validate_json(answer))
        except (ValidationError, Superseded, Settled):
            raise LinkDown from None  # whatever answered is not the gateway that we know

    async def claim(self, epoch: int, reply_id: int) -> None:
        """Ask leave for an edit. Raises LinkDown, Superseded or Settled."""
        claim = Claim(epoch=epoch).model_dump_json().encode()  # the same in every version
        await self._post(f"/replies/{reply_id}/claim", lambda _: claim)

    async def record_part(self, record: PartRecord, reply_id: int) -> None:
        """Record which message carries a part. Raises LinkDown, Superseded or Settled."""
        await self._post(f"/replies/{reply_id}/parts", partial(write_part, record))

    async def file(self, epoch: int, reply_id: int) -> bytes:
        """Ask for the file that goes with a reply; nothing if its user has had it erased.

        Raises LinkDown, Superseded or Settled.
        """
        return await self._call("GET", f"/replies/{reply_id}/file?epoch={epoch}", lambda _: None)

    async def bring(
        self, epoch: int, reply_id: int, file_id: str, content: Callable[[], AsyncIterable[bytes]]
    ) -> None:
        """Hand over a document that a reply waits for, as it comes in.

        Raises LinkDown, Superseded, Settled, or Rejected where the document is not taken.
        """
        path = _document(epoch, reply_id, file_id)
        await self._call("POST", path, lambda _: content(), BRING_SECONDS)

    async def report_missing(self, epoch: int, reply_id: int, file_id: str) -> None:
        """Say that Telegram does not give out a document that a reply waits for.

        Raises LinkDown, Superseded or Settled.
        """
        await self._call("DELETE", _document(epoch, reply_id, file_id), lambda _: None)

    async def settle(self, outcome: Outcome, reply_id: int) -> None:
        """Report the end of a reply. Raises LinkDown, Superseded or Settled."""
        await self._post(f"/replies/{reply_id}/outcome", partial(write_outcome, outcome))

    async def events(self, away_seconds: float = 0.0) -> AsyncGenerator[Event]:
        """Follow the gateway's stream until it ends. Raises LinkDown.

        `away_seconds`: for how long there was none, by this relay's clock.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_SECONDS)
        self._version = VERSION  # the gateway may have been upgraded since it refused that one
        try:
            while True:
                version = self._version
                async with self._session.get(
                    "/events",
                    params={"away_seconds": int(away_seconds)} if version > 1 else None,
                    timeout=timeout,
                    headers={VERSION_HEADER: str(version)},
                ) as response:
                    if response.status == 426:
                        self._fall_back(version)
                        continue
                    if response.status != 200:
                        raise LinkDown
                    self._has_complained = False
                    if self._heard:
                        with suppress(OSError):  # a full tmpfs must not stop the messages
                            self._heard.write_text(str(version), encoding="ascii")
                    async with aclosing(_decoded(response.content)) as events:
                        async for event in events:
                            yield event
                    return
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            raise LinkDown from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, path: str, write: Callable[[int], bytes]) -> bytes:
        return await self._call("POST", path, write)

    async def _call(
        self,
        method: str,
        path: str,
        write: Callable[[int], bytes | AsyncIterable[bytes] | None],
        seconds: float = CALL_SECONDS,
    ) -> bytes:
        """Send what `write` makes for a version of the wire; returns what is answered."""
        while True:
            version = self._version
            try:
                async with self._session.request(
                    method,
                    path,
                    data=write(version),
                    headers={"Content-Type": "application/json", VERSION_HEADER: str(version)},
                    timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=5),
                ) as response:
                    answer = await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise LinkDown from error
            match response.status:
                case 200 | 204:
                    return answer
                case 410:
                    return b""
                case 404:
                    raise Settled
                case 409:
                    raise Superseded
                case 400 | 413 | 422:
                    raise Rejected
                case 426:
                    self._fall_back(version)
                case _:
                    # 5xx passes; a wrong link token (401) is the operator's to mend, and no reason
                    # to lose what users wrote.
                    raise LinkDown

    def _fall_back(self, refused: int) -> None:
        """Speak the version before the refused one. Raises VersionsTooFarApart if there is none."""
        if refused - 1 in SPOKEN:
            self._version = refused - 1
            return
        self._version = VERSION
        if not self._has_complained:
            self._has_complained = True
            log.error(
                "versions too far apart",
                extra={"speaks": sorted(SPOKEN), "remedy": VersionsTooFarApart.__doc__},
            )
        raise VersionsTooFarApart


def _document(epoch: int, reply_id: int, file_id: str) -> str:
    return f"/replies/{reply_id}/document?epoch={epoch}&document={quote(file_id, safe='')}"


async def persist(epoch: Callable[[int], Awaitable[int]], call: Callable[[int], Awaitable[T]]) -> T:
    """Call the gateway until it answers, and return what. Raises Settled.

    `epoch` gives the current stream's epoch, and waits until there is one beyond its argument.
    What an old one was refused for is said again with the next: a message that was sent before must
    be recorded after.
    """
    backoff = Backoff()
    refused = 0
    while True:
        current = await epoch(refused)
        try:
            return await call(current)
        except LinkDown:
            await backoff.wait()
        except Superseded:
            refused = current
        except Rejected:
            raise Settled from None


async def _decoded(content: aiohttp.StreamReader) -> AsyncGenerator[Event]:
    rest = b""
    async for data in content.iter_any():
        *frames, rest = (rest + data).split(b"\n\n")
        for frame in frames:
            event = decode_event(frame)
            if event:
                yield event


def open_link(address: str, port: int, token: str, heard: Path | None = None) -> Link:
    """Build the link; whoever calls closes it. `heard`: see Link."""
    session = aiohttp.ClientSession(
        f"http://{address}:{port}",
        headers={"Authorization": f"Bearer {token}"},
        connector=aiohttp.TCPConnector(limit=100),
    )
    return Link(session, heard)
