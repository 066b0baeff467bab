"""What users send as files is read, or refused with the reason; whatever it is made to do."""

import os
import time

import pytest

from services.gateway.documents import Documents
from services.gateway.reading import Unreadable
from tests.unit.documents import archive, docx, locked_pdf, pdf

TABLE = (
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>left</w:t></w:r></w:p></w:tc>"
    "<w:tc><w:p><w:r><w:t>right</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
)
BREAK = "<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>"
BOX = (
    '<w:p><w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-'
    'compatibility/2006"><mc:Choice Requires="wps"><w:t>box</w:t></mc:Choice><mc:Fallback>'
    "<w:t>box</w:t></mc:Fallback></mc:AlternateContent></w:r></w:p>"
)
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 50}">' for n in range(9))
RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей чаю. " * 3


async def read(content: bytes) -> str | bytes:
    return await Documents(20_000_000).read("document", "name", content, 100_000)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain\r\nlines\n", "plain\nlines"),
        ("naïve — „чай“ 🫖".encode(), "naïve — „чай“ 🫖"),
        ("\ufeffmarked".encode(), "marked"),
        ("шире".encode("utf-16"), "шире"),
        (RUSSIAN.encode("cp1251"), RUSSIAN.strip()),
        (RUSSIAN.encode()[:-2] + b"\xd0", RUSSIAN.strip()[:-1] + "\ufffd"),
        (b"an old end of file\r\n\x1a", "an old end of file\n\x1a"),
        (b"def f():\n\treturn 1\n\n\n\n\n# end\n", "def f():\n\treturn 1\n\n# end"),
        (pdf("First page.", "Second page."), "First page.\n\nSecond page."),
        (docx(["One.", "Two &amp; three."]), "One.\nTwo & three."),
        (docx(["Above."], TABLE + BREAK), "Above.\nleft | right\na\tb\nc"),
        (docx([], TABLE.replace("<w:p>", TABLE + "<w:p>", 1)), "left | right left | right"),
        (docx([], BOX), "box"),
        (pdf("A", to_unicode="<41> <D800>"), "?"),
        (locked_pdf("", "AES-128"), "secret"),
        (b"x" * 100_000, "x" * 100_000),
    ],
)
async def test_text_is_read(content: bytes, text: str) -> None:
    """Plain text in any encoding, code, PDF and DOCX, told by what they hold."""
    assert await read(content) == text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "document without text"),
        (b" \n\t\n", "document without text"),
        (pdf(""), "document without text"),
        (docx([]), "document without text"),
        (locked_pdf("x"), "document locked"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 9, "document damaged"),
        (pdf("Whole.")[:200], "document damaged"),
        (docx(["Whole."])[:-30], "document damaged"),
        (archive({"word/document.xml": "<w:document"}), "document damaged"),
        (archive({"xl/workbook.xml": "<workbook/>"}), "cannot read kind"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 99, "cannot read kind"),
        (b"\x89PNG\r\n\x1a\n" + os.urandom(2000), "cannot read kind"),
        (b"x" * 20_000_001, "document too big"),
        (b"x" * 100_001, "document too long"),
    ],
)
async def test_what_cannot_be_read_has_a_reason(content: bytes, why: str) -> None:
    """Each reason is a sentence's key."""
    with pytest.raises(Unreadable) as error:
        await read(content)

    assert str(error.value) == why


@pytest.mark.parametrize(
    "content",
    [
        docx(["&l8;"], head=f"<!DOCTYPE w:document [{LAUGHS}]>"),
        docx([], "<w:p/>" * 12_000_000),
        docx([], "<w:p/>" * 6_000_000),
        docx([], "<w:tbl>" * 90_000 + "</w:tbl>" * 90_000),
    ],
    ids=["laughs", "unpacks to 72 MB", "millions of paragraphs", "nested"],
)
async def test_document_that_exhausts_its_reader_costs_nobody_else(content: bytes) -> None:
    """It ends within bounds, with a sentence; the next one is read."""
    documents = Documents(20_000_000)
    began = time.monotonic()

    with pytest.raises(Unreadable) as error:
        await documents.read("document", "name", content, 10**9)

    assert str(error.value) in {
        "document too big to read", "document damaged", "document without text",
    }  # fmt: skip
    assert time.monotonic() - began < 45
    assert await documents.read("document", "name", b"next", 4) == "next"
