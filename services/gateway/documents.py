"""Reads what users send as files: text, code, PDF and DOCX, each in a process of its own."""

import asyncio
import json
import logging
import sys

from services.gateway.reading import Unreadable

log = logging.getLogger(__name__)

MOST_SECONDS = 40.0
"""From the start of the reader's process; of the processor's time it has less."""

MOST_READERS = 2
"""At one time: each may take a good deal of memory."""


class Documents:
    """Which documents are read, and the reading."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` 0: none is read."""
        self.most_bytes = most_bytes
        self._places = asyncio.Semaphore(MOST_READERS)

    async def read(self, content: bytes) -> str:
        """Take the text out. Raises Unreadable."""
        if len(content) > self.most_bytes:
            raise Unreadable("document too big")
        async with self._places:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.gateway.reading"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # a library may quote what it stumbled over
            )
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    printed, _ = await process.communicate(content)
            except TimeoutError:
                raise Unreadable("document too big to read") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if status := process.returncode:
            log.warning("reader ended", extra={"status": status})
            raise Unreadable("document too big to read" if status < 0 else "document damaged")
        answer = json.loads(printed)
        if "why" in answer:
            raise Unreadable(answer["why"])
        return str(answer["text"])
