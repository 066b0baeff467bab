"""Makes small documents of every kind that users send."""

import io
import zipfile
from collections.abc import Sequence

from pypdf import PdfReader, PdfWriter

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(*pages: str, to_unicode: str = "") -> bytes:
    """A PDF with a line of ASCII text on each page; an empty text makes a page without any.

    `to_unicode`: what a reader is to take a code for, as in `<41> <D800>`.
    """
    cmap = (
        f"1 begincodespacerange <00> <FF> endcodespacerange\n1 beginbfchar {to_unicode} endbfchar\n"
    )
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "",
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    said = "/ToUnicode 3 0 R" if to_unicode else ""
    kids = []
    for text in pages:
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {number + 1} 0 R"
            " /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica"
            f" {said} >> >> >> >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    body, offsets = "%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    return (
        f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    ).encode()


def locked_pdf(password: str, algorithm: str = "RC4-128") -> bytes:
    """One that is encrypted; without a password (""), everybody may read it."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret"))))
    writer.encrypt(password, "owner", algorithm=algorithm)
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def docx(paragraphs: Sequence[str], body: str = "", *, head: str = "") -> bytes:
    """A document of Word with these paragraphs; `body` is XML that follows, `head` goes before."""
    lines = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    xml = f'{head}<w:document xmlns:w="{WORD}"><w:body>{lines}{body}</w:body></w:document>'
    return archive({"[Content_Types].xml": "<Types/>", "word/document.xml": xml})


def archive(files: dict[str, str]) -> bytes:
    """A ZIP archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return written.getvalue()
