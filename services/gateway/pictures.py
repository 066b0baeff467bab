"""Pictures for an engine that sees: told by their content, made small, and stripped of all else."""

import io
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

MOST_SIDE = 1024
"""Pixels of the longer side. More of them cost the engine more than they tell it."""

LEAST_SIDE = 28
"""Pixels of the shorter side: engines refuse what is narrower than one of their patches, or more
than 200 times as long as wide."""

PATCH_SIDE = 28
"""Pixels that become a token, in each direction, with Qwen2-VL, Qwen2.5-VL and Mistral Small:
patches of 14, merged 2 by 2 (https://arxiv.org/abs/2409.12191, section 2.1). Qwen3-VL takes 32."""

PICTURE_TOKENS = (-(-MOST_SIDE // PATCH_SIDE)) ** 2 + 64
"""What a picture takes of a prompt at most, the marks around it and at the ends of its rows too."""

MOST_PIXELS = 100_000_000
"""Beyond most cameras; fewer may still be too many for the reader's memory."""

JPEG_QUALITY = 85

MOST_PICTURES = 20
"""An engine is given no more with one prompt, so no more of a conversation are kept."""

_MARKS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}

_ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""


class BadPicture(Exception):
    """It cannot be shown to the engine; the argument says why, as a key of `texts`."""


def picture_format(content: bytes) -> str:
    """Name the format of a picture; nothing for what is none, or of another format."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")


def shrink(content: bytes) -> bytes:
    """Make a JPEG of a picture: upright, without metadata, and of a moving one its beginning.

    Its longer side has at most MOST_SIDE pixels, its shorter one at least LEAST_SIDE. Raises
    BadPicture, or MemoryError.
    """
    # Here and not above: the gateway's own process decodes nothing.
    from PIL import Image, WebPImagePlugin

    assert WebPImagePlugin.SUPPORTED  # imported so that it is known; the other formats always are
    Image.MAX_IMAGE_PIXELS = None  # it would only warn
    try:
        with Image.open(io.BytesIO(content), formats=[picture_format(content)]) as source:
            if source.width * source.height > MOST_PIXELS:
                raise BadPicture("picture too big")
            source.draft("RGB", (MOST_SIDE, MOST_SIDE))  # a JPEG is decoded smaller at once
            turn = _turn(source)
            picture = _on_white(source)
        if turn is not None:
            picture = picture.transpose(turn)
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=JPEG_QUALITY)
    except _BROKEN:
        raise BadPicture("document damaged") from None
    return written.getvalue()


_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    struct.error,
)
"""Pillow meets what is broken in all these ways."""


def _turn(source: "Image") -> "Transpose | None":
    """Say how a picture is to be turned so that it is upright."""
    from PIL.Image import Transpose

    turns = (
        *(Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM),
        *(Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    try:
        orientation: Any = source.getexif().get(_ORIENTATION)
    except _BROKEN:
        return None  # it may lie on its side, but can be seen
    return turns[orientation - 2] if orientation in range(2, 9) else None


def _on_white(source: "Image") -> "Image":
    """Shrink a picture; where one can see through, or it is too narrow, there is white."""
    from PIL import Image

    picture = source
    if picture.mode.startswith("I"):  # 16 bits of grey, of which JPEG has 8
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.has_transparency_data and picture.mode != "RGBA":  # else it would be copied
        picture = picture.convert("RGBA")
    elif picture.mode in ("1", "P", "PA"):
        picture = picture.convert("RGB")  # colours by number cannot be averaged
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    size = (max(picture.width, LEAST_SIDE), max(picture.height, LEAST_SIDE))
    canvas = Image.new("RGB", size, "white")
    canvas.paste(picture.convert("RGB"), mask=picture if picture.mode == "RGBA" else None)
    return canvas
