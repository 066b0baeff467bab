"""Owns the files that the bot uploads or a user sends, by file_id and by download path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tests.stubs.telegram.errors import BotApiError, bad_request

_DOWNLOAD_LIMIT = 20 << 20


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

    def as_photo(self, width: int, height: int) -> list[dict[str, Any]]:
        """Shape as the Bot API's list of PhotoSize: the file itself, and a thumbnail of no use."""
        ids = {"file_id": self.file_id, "file_unique_id": self.unique_id}
        small = {"file_id": f"{self.file_id}small", "file_unique_id": f"{self.unique_id}s"}
        return [
            {**small, "width": 90, "height": 90, "file_size": 1},
            {**ids, "width": width, "height": height, "file_size": len(self.content)},
        ]


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
