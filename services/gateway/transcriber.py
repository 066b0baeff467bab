"""Writes down what is said in a recording, by a server of the operator's on a Unix socket.

It speaks OpenAI's protocol (https://platform.openai.com/docs/api-reference/audio), as vLLM does for
Whisper's models.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from services.gateway.reading import Unreadable

MOST_SECONDS = 240.0
"""The relay waits a minute longer."""

USUAL_NAME = "whisper-1"
"""What a server that lists no models calls the one that it has."""


class TranscriberUnavailable(Exception):
    """The transcriber takes no requests now: start it, or take TRANSCRIBER_SOCKET away."""


class Transcriber:
    """A connection pool to one transcriber."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def write_down(self, content: bytes, name: str) -> str:
        """Return the words of a recording; its name's ending tells the format.

        Raises Unreadable, or TranscriberUnavailable.
        """
        form = aiohttp.FormData()
        form.add_field("file", content, filename=name, content_type="application/octet-stream")
        form.add_field("response_format", "json")
        try:
            form.add_field("model", await self._served_name())
            async with self._session.post(
                "http://transcriber/v1/audio/transcriptions",
                data=form,
                timeout=aiohttp.ClientTimeout(total=MOST_SECONDS, sock_connect=5),
            ) as response:
                if response.status == 503:
                    raise TranscriberUnavailable
                if response.status != 200:
                    raise Unreadable("recording unreadable")
                text = orjson.loads(await response.read())["text"].strip()
        except TimeoutError:
            raise Unreadable("recording unreadable") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TranscriberUnavailable from error
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            raise Unreadable("recording unreadable") from None
        if not text:
            raise Unreadable("recording without words")
        return str(text)

    async def _served_name(self) -> str:
        async with self._session.get(
            "http://transcriber/v1/models", timeout=aiohttp.ClientTimeout(total=5)
        ) as response:
            if response.status == 503:
                raise TranscriberUnavailable
            try:
                return str(orjson.loads(await response.read())["data"][0]["id"])
            except (orjson.JSONDecodeError, LookupError, TypeError):
                return USUAL_NAME


@asynccontextmanager
async def open_transcriber(socket: Path | None) -> AsyncGenerator[Transcriber | None]:
    """Open the pool; None where there is no transcriber."""
    if socket is None:
        yield None
        return
    connector = aiohttp.UnixConnector(str(socket), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Transcriber(session)
