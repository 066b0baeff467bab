"""Owns reading a request's parameters, however they were encoded, as leniently as Telegram does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from email.message import Message as MimeHeader
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from tests.stubs.telegram.errors import BotApiError, bad_request

_LEADING_INTEGER = re.compile(r"-?\d+")
_JSON_PARAMETERS = frozenset(
    {
        "allowed_updates",
        "caption_entities",
        "commands",
        "entities",
        "link_preview_options",
        "media",
        "reaction",
        "reply_markup",
        "reply_parameters",
        "scope",
    }
)


@dataclass(frozen=True)
class Upload:
    """One file of a multipart body."""

    file_name: str
    mime_type: str
    content: bytes


@dataclass(frozen=True)
class Params:
    """All parameters of a call as text, plus its files."""

    values: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return the parameter, or "" (Telegram does not tell the two apart)."""
        return self.values.get(name, "")

    def integer(
        self, name: str, default: int = 0, low: int = -(2**63), high: int = 2**63 - 1
    ) -> int:
        """Return a whole number clamped to low..high; text that is none counts as 0."""
        value = self.values.get(name, "")
        number = default if not value else leading_integer(value)
        return min(max(number, low), high)

    def boolean(self, name: str) -> bool:
        """Say whether the parameter is one of Telegram's words for yes."""
        return self.values.get(name, "").lower() in {"true", "yes", "1"}

    def for_record(self) -> dict[str, Any]:
        """Return the parameters as a checker wants them: JSON decoded, files as sizes."""
        shown: dict[str, Any] = {}
        for name, value in self.values.items():
            shown[name] = value
            if name in _JSON_PARAMETERS:
                try:
                    shown[name] = json.loads(value)
                except ValueError:
                    continue
        for name, upload in self.files.items():
            shown[name] = {"file_name": upload.file_name, "size": len(upload.content)}
        return shown


def leading_integer(text: str) -> int:
    """Read a number as Telegram does: leading digits count, the rest is ignored, none is 0."""
    match = _LEADING_INTEGER.match(text)
    return int(match.group()) if match else 0


async def read_params(request: web.Request) -> Params:
    """Collect the parameters from the query string and the body."""
    values = dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
    files: dict[str, Upload] = {}
    if not request.body_exists:
        return Params(values, files)
    body = await request.read()
    match request.content_type:
        case "application/json":
            values.update(_json_body(body))
        case "multipart/form-data":
            fields, files = _multipart_body(body, request.headers.get("Content-Type", ""))
            values.update(fields)
        case "application/x-www-form-urlencoded":
            values.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        case _:
            pass
    return Params(values, files)


def _json_body(body: bytes) -> dict[str, str]:
    if not body.strip():
        return {}
    try:
        decoded = json.loads(body)
    except ValueError as error:
        raise BotApiError(400, "Bad Request: can't parse JSON object in the request") from error
    if not isinstance(decoded, dict):
        raise bad_request("JSON object expected")
    values: dict[str, str] = {}
    for name, value in decoded.items():
        if value is None:
            continue
        values[name] = value if isinstance(value, str) else json.dumps(value)
    return values


def _multipart_body(body: bytes, content_type: str) -> tuple[dict[str, str], dict[str, Upload]]:
    """Split a whole multipart body; it is in memory anyway, so no streaming reader is needed."""
    header = MimeHeader()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise bad_request("boundary is missing in the multipart request")
    values: dict[str, str] = {}
    files: dict[str, Upload] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            break
        head, _, content = part.partition(b"\r\n\r\n")
        fields = MimeHeader()
        for line in head.decode("utf-8", "replace").split("\r\n"):
            key, colon, value = line.partition(":")
            if colon:
                fields[key.strip()] = value.strip()
        name = fields.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            continue
        file_name = fields.get_filename()
        if file_name is None:
            values[name] = content.decode("utf-8", "surrogateescape")
        else:
            mime = fields.get("Content-Type", "application/octet-stream")
            files[name] = Upload(file_name, str(mime).partition(";")[0], content)
    return values, files
