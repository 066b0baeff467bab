"""Reads and changes single settings in the node's .env, and leaves every other byte as it is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from scripts.model import WeightsFailed


def read_settings(path: Path) -> dict[str, str]:
    """What stands in a .env file, without quotes and comments; nothing if there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WeightsFailed(f"{path} cannot be read ({error.strerror}): run this as root") from None
    found = {}
    for name, value in re.findall(r"^(?:export[ \t]+)?(\w+)=([^\r\n]*)", text, re.MULTILINE):
        quoted = re.match(r"""(['"])(.*)\1""", value.strip())
        found[name] = quoted[2] if quoted else re.sub(r"(^|\s+)#.*", "", value).strip()
    return found


def change(content: bytes, values: Mapping[str, str]) -> bytes:
    """A .env file's content with other values: each in its place, else after its comment."""
    for name, value in values.items():
        line = f"{name}={value}".encode()
        set_here = list(_lines(name, rb"(?:export[ \t]+)?", content))
        example = list(_lines(name, rb"#[ \t]*", content))
        if set_here:
            last = set_here[-1]  # of two the last one counts
            content = content[: last.start()] + line + content[last.end() :]
        elif example:
            content = content[: example[0].end()] + b"\n" + line + content[example[0].end() :]
        else:
            content = content + (b"" if content.endswith(b"\n") or not content else b"\n")
            content += line + b"\n"
    return content


def _lines(name: str, before: bytes, content: bytes) -> list[re.Match[bytes]]:
    pattern = rb"^" + before + re.escape(name.encode()) + rb"=[^\r\n]*"
    return list(re.finditer(pattern, content, re.MULTILINE))


def write_settings(path: Path, content: bytes) -> None:
    """Replace a .env file as a whole; owner and mode stay. Raises WeightsFailed."""
    path = path.resolve()  # a link stays one
    part = path.with_name(f"{path.name}.new")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, part)
        status = path.stat()
        os.chown(part, status.st_uid, status.st_gid)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WeightsFailed(
            f"{path} cannot be changed ({error.strerror}): run this as root"
        ) from None
