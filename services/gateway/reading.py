"""Takes the text out of a document, or makes a picture small, in a process of its own.

    python -m services.gateway.reading MOST_CHARACTERS [pictures] < DOCUMENT

prints one JSON object: `{"text": …}`, `{"picture": …}` in base64 or `{"why": …}`, a key of `texts`.
What users send may be made to exhaust whoever reads it: so the process has little memory and little
time, and where it ends, the gateway goes on.
"""

import base64
import contextlib
import io
import json
import re
import resource
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from services.gateway.pictures import BadPicture, picture_format, shrink

MOST_MEMORY = 256 * 1024 * 1024
"""Bytes of addresses: a reader beside the gateway stays below the container's limit."""

MOST_CPU_SECONDS = 20

MOST_UNPACKED = 64 * 1024 * 1024

MOST_GUESSED = 1_000_000
"""Bytes by which the encoding of a text is guessed."""

FEW_ODD = 0.01
"""A text with so few odd characters is UTF-8 with a flaw rather than in another encoding."""

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]")


class Unreadable(Exception):
    """There is no text to be had; the argument says why, as a key of `texts`."""


def read_text(content: bytes, most: int) -> str:
    """Take the text out of a document, told by its content, if it has at most `most` characters.

    Raises Unreadable.
    """
    if content.startswith(b"%PDF-"):
        text = _read_pdf(content)
    elif content.startswith(b"PK\x03\x04"):
        text = _read_docx(content)
    else:
        text = _decode(content)
    text = re.sub(r"\n{3,}", "\n\n", text.replace("\r\n", "\n").replace("\x00", "")).strip()
    if not text:
        raise Unreadable("document without text")
    if len(text) > most:
        raise Unreadable("document too long")
    return text.encode("utf-8", "replace").decode()  # a PDF can name halves of characters


def _read_pdf(content: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("document locked")
        return "\n\n".join(page.extract_text() for page in reader.pages)
    except (DependencyError, FileNotDecryptedError):
        raise Unreadable("document locked") from None
    except (PyPdfError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise Unreadable("document damaged") from None  # what is broken, it meets in all these ways


def _read_docx(content: bytes) -> str:
    """Paragraphs as lines, the cells of a table's row on one line."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if "word/document.xml" not in archive.namelist():
                raise Unreadable("cannot read kind")
            if archive.getinfo("word/document.xml").file_size > MOST_UNPACKED:
                raise Unreadable("document too big to read")
            root = ElementTree.fromstring(archive.read("word/document.xml"))
    except (zipfile.BadZipFile, ElementTree.ParseError, RuntimeError):
        # RuntimeError: an entry is encrypted, or packed in a way that nobody knows.
        raise Unreadable("document damaged") from None
    body = root.find(f"{_WORD}body")
    return "\n".join(_blocks(body)) if body is not None else ""


def _blocks(parent: ElementTree.Element) -> list[str]:
    lines: list[str] = []
    for block in parent:
        if block.tag == f"{_WORD}p":
            lines.append(_words(block))
        elif block.tag == f"{_WORD}tbl":
            for row in block.findall(f"{_WORD}tr"):
                cells = [" ".join(_blocks(cell)) for cell in row.findall(f"{_WORD}tc")]
                lines.append(" | ".join(cells))
        elif block.tag in (f"{_WORD}sdt", f"{_WORD}sdtContent"):
            lines += _blocks(block)
    return lines


def _words(paragraph: ElementTree.Element) -> str:
    words = ""
    for part in paragraph:
        if part.tag == f"{_WORD}t":
            words += part.text or ""
        elif part.tag == f"{_WORD}tab":
            words += "\t"
        elif part.tag in (f"{_WORD}br", f"{_WORD}cr"):
            words += "\n"
        elif part.tag != _COMPATIBILITY:  # the same once more, for older programs
            words += _words(part)
    return words


def _decode(content: bytes) -> str:
    """Read text in whatever encoding: UTF-8 or UTF-16 first, then what fits best."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            try:
                return content.decode(encoding)
            except UnicodeDecodeError:
                raise Unreadable("document damaged") from None
    if _CONTROLS.search(content):
        raise Unreadable("cannot read kind")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        flawed = content.decode("utf-8", "replace")
        if flawed.count("\ufffd") <= FEW_ODD * len(flawed):
            return flawed
        from charset_normalizer import from_bytes

        best = from_bytes(content[:MOST_GUESSED]).best()
        if best is None:
            raise Unreadable("cannot read kind") from None
        return content.decode(best.encoding, errors="replace")


def main() -> int:
    """Read standard input, within bounds; if memory ends all the same, this process goes first."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    content = sys.stdin.buffer.read()
    is_picture = "pictures" in sys.argv and picture_format(content) != ""
    try:
        if is_picture:
            answer = {"picture": base64.b64encode(shrink(content)).decode()}
        else:
            answer = {"text": read_text(content, int(sys.argv[1]))}
    except (BadPicture, Unreadable) as error:
        answer = {"why": str(error)}
    except (MemoryError, RecursionError):
        answer = {"why": "picture too big" if is_picture else "document too big to read"}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
