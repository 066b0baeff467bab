"""Owns the files that the bot uploads or a user sends, by file_id and by download path."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tests.stubs.telegram.errors import BotApiError, bad_request

_DOWNLOAD_LIMIT = 20 << 20
_PHOTO_LIMIT = 10 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class File:
    """One stored file."""

    file_id: str
    unique_id: str
    path: str
    file_name: str
    mime_type: str
    content: bytes

    def as_document(self) -> dict[str, Any]:
        """Shape as the Bot API's Document."""
        return {
            "file_name": self.file_name,
            "mime_type": self.mime_type,
            "file_id": self.file_id,
            "file_unique_id": self.unique_id,
            "file_size": len(self.content),
        }

    def as_photo(self) -> list[dict[str, Any]]:
        """Shape as the Bot API shows the bot's own photo; PNG is all that is read."""
        if len(self.content) > _PHOTO_LIMIT:
            raise bad_request("file is too big")
        if not self.content.startswith(_PNG):
            raise bad_request("IMAGE_PROCESS_FAILED")
        width, height = struct.unpack(">II", self.content[16:24])
        if width + height > 10_000 or max(width, height) > 20 * min(width, height):
            raise bad_request("PHOTO_INVALID_DIMENSIONS")
        return self.as_sizes(width, height)

    def as_sizes(self, width: int, height: int) -> list[dict[str, Any]]:
        """Shape as the Bot API's list of PhotoSize: a thumbnail of no use, and the file itself."""
        ids = {"file_id": self.file_id, "file_unique_id": self.unique_id}
        small = {"file_id": f"{self.file_id}small", "file_unique_id": f"{self.unique_id}s"}
        return [
            {**small, "width": 90, "height": 90, "file_size": 1},
            {**ids, "width": width, "height": height, "file_size": len(self.content)},
        ]

    def as_media(self, kind: str) -> dict[str, Any]:
        """Shape as the fields of a message that carries it: a document or a photo."""
        return {kind: self.as_photo() if kind == "photo" else self.as_document()}


class Files:
    """Stored files; the same content may be stored twice under different ids."""

    def __init__(self) -> None:
        self._by_id: dict[str, File] = {}
        self._by_path: dict[str, File] = {}

    def store(self, content: bytes, file_name: str, mime_type: str) -> File:
        """Keep a file and give it ids that look like Telegram's."""
        number = len(self._by_id)
        digest = hashlib.sha256(content + file_name.encode()).hexdigest()
        folder = "photos" if mime_type.startswith("image/") else "documents"
        stored = File(
            file_id=f"BQACAgIAAxkBAAI{number:05d}{digest[:40]}",
            unique_id=f"AgAD{digest[:12]}",
            path=f"{folder}/file_{number}{PurePosixPath(file_name).suffix}",
            file_name=file_name,
            mime_type=mime_type,
            content=content,
        )
        self._by_id[stored.file_id] = stored
        self._by_path[stored.path] = stored
        return stored

    def find(self, file_id: str) -> File | None:
        """Return the file of an id."""
        return self._by_id.get(file_id)

    def describe(self, file_id: str) -> dict[str, Any]:
        """Answer getFile."""
        stored = self._by_id.get(file_id)
        if stored is None:
            raise bad_request("invalid file_id")
        if len(stored.content) > _DOWNLOAD_LIMIT:
            raise bad_request("file is too big")
        return {
            "file_id": stored.file_id,
            "file_unique_id": stored.unique_id,
            "file_size": len(stored.content),
            "file_path": stored.path,
        }

    def at(self, path: str) -> File:
        """Return the file to download."""
        stored = self._by_path.get(path)
        if stored is None:
            raise BotApiError(404, "Not Found")
        return stored
