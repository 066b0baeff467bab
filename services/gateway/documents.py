"""Turns what users send as files into what the engine takes: text, or small pictures."""

import asyncio
import base64
import json
import logging
import sys

from services.gateway.pictures import picture_format
from services.gateway.reading import Unreadable
from services.gateway.transcriber import Transcriber

log = logging.getLogger(__name__)

MOST_SECONDS = 40.0
"""From the start of the reader's process; of the processor's time it has less."""

MOST_FILE_BYTES = 20_000_000
"""Telegram gives bots no larger file."""

SPOKEN = {"voice": "voice.ogg", "video_note": "video.mp4"}
"""Recordings in which users speak to the bot, and names that tell their formats."""

RECORDINGS = frozenset({"audio", *SPOKEN})


class Documents:
    """Which files are taken, and what they say."""

    def __init__(
        self, most_bytes: int, transcriber: Transcriber | None = None, *, sees: bool = False
    ) -> None:
        """`most_bytes` 0: no document is read; without a transcriber no recording is heard.

        `sees`: the engine does, so pictures are taken, also as documents.
        """
        self._most_bytes = most_bytes
        self._transcriber = transcriber
        self._sees = sees
        self._turn = asyncio.Lock()

    def most_bytes(self, kind: str) -> int:
        """Say how large a file of this kind, by Telegram's name, may be; 0: none is taken."""
        if kind == "document":
            return self._most_bytes or MOST_FILE_BYTES * self._sees
        if kind == "photo":
            return MOST_FILE_BYTES * self._sees
        return MOST_FILE_BYTES if self._transcriber and kind in RECORDINGS else 0

    async def read(self, kind: str, name: str, content: bytes, most: int) -> str | bytes:
        """Say what is in a file, if that has at most `most` characters; a picture is a JPEG.

        Raises Unreadable, or TranscriberUnavailable.
        """
        if not self.most_bytes(kind):
            raise Unreadable("cannot open")  # it was taken before the settings changed
        if len(content) > self.most_bytes(kind):
            raise Unreadable("document too big")
        if kind in RECORDINGS:
            assert self._transcriber  # else nothing of that kind would be taken
            name = SPOKEN.get(kind) or name or "audio.mp3"
            return await self._transcriber.write_down(content, name)
        if not (self._sees and picture_format(content)):
            if kind == "photo":
                raise Unreadable("document damaged")
            if not self._most_bytes:
                raise Unreadable("cannot open")
        return await self._read_apart(content, most)

    async def _read_apart(self, content: bytes, most: int) -> str | bytes:
        """One document at a time: its reader may take a good deal of memory."""
        async with self._turn:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.gateway.reading", str(most)),
                *(["pictures"] if self._sees else []),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # a library may quote what it stumbled over
            )
            end = asyncio.get_running_loop().call_later(MOST_SECONDS, process.kill)
            try:
                printed, _ = await process.communicate(content)
            finally:
                end.cancel()
                if process.returncode is None:
                    process.kill()
        if status := process.returncode:
            log.warning("reader ended", extra={"status": status})
            exhausted = "document too big to read"
            if self._sees and picture_format(content):
                exhausted = "picture too big"
            raise Unreadable(exhausted if status < 0 else "document damaged")
        answer = json.loads(printed)
        if "why" in answer:
            raise Unreadable(answer["why"])
        if "picture" in answer:
            return base64.b64decode(answer["picture"])
        return str(answer["text"])


def introduce(kind: str, name: str, text: str) -> str:
    """Write down what a file says, for the model; what users speak are their own words."""
    if kind in SPOKEN:
        return f"{text}\n\n"
    return f"[The file {name}:]\n{text}\n[The end of {name}]\n\n"
