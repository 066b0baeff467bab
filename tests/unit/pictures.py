"""Pictures that users send, honest ones and hostile ones."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

RED, BLUE = (220, 20, 20), (20, 20, 220)


def picture(
    colour: tuple[int, int, int] = RED,
    size: tuple[int, int] = (1280, 960),
    kind: str = "JPEG",
    **options: Any,
) -> bytes:
    """Draw a picture of one colour."""
    return written(Image.new("RGB", size, colour), kind, **options)


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Write a picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(content: bytes) -> Image.Image:
    """Open what the engine is shown."""
    image = Image.open(io.BytesIO(content), formats=["JPEG"])
    image.load()
    return image


def is_of(image: Image.Image, colour: tuple[int, int, int], at: tuple[int, int] = (5, 5)) -> bool:
    """Tell whether a pixel has about this colour: JPEG changes it a little."""
    pixel = image.getpixel(at)
    assert isinstance(pixel, tuple)
    return all(abs(one - other) < 12 for one, other in zip(pixel, colour, strict=True))


def bomb(width: int, height: int) -> bytes:
    """Write a PNG whose few bytes unpack to a grey picture of this size."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", rows)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
