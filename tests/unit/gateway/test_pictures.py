"""A picture is made small for the engine, or refused with the reason; whatever it is made to do."""

import struct
import time

import pytest
from PIL import Image

from services.gateway.documents import Documents
from services.gateway.pictures import LEAST_SIDE, MOST_SIDE
from services.gateway.reading import Unreadable
from tests.unit.documents import pdf
from tests.unit.pictures import BLUE, RED, bomb, is_of, picture, seen, written

WHITE = (255, 255, 255)


async def read(content: bytes, kind: str = "photo", most_bytes: int = 20_000_000) -> bytes:
    said = await Documents(most_bytes, sees=True).read(kind, "name", content, 100_000)
    assert isinstance(said, bytes)
    return said


def halves(kind: str, orientation: int = 1) -> bytes:
    """Blue on the left and red on the right, as the camera was held."""
    image = Image.new("RGB", (1600, 800), RED)
    image.paste(BLUE, (0, 0, 800, 800))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera's maker"
    return written(image, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("sent_as", ["photo", "document"])
async def test_picture_is_made_small(kind: str, sent_as: str) -> None:
    """Told by what it holds, whatever it is sent as."""
    small = seen(await read(picture(RED, (3000, 1500), kind), sent_as))

    assert (small.size, small.mode) == ((MOST_SIDE, MOST_SIDE // 2), "RGB")
    assert is_of(small, RED)


async def test_small_picture_stays_as_large_as_it_is() -> None:
    """Nothing is gained by enlarging it."""
    assert seen(await read(picture(RED, (300, 200)))).size == (300, 200)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
async def test_narrow_picture_is_put_on_white(size: tuple[int, int]) -> None:
    """Engines refuse pictures of less than one patch."""
    small = seen(await read(picture(RED, size, "PNG")))

    assert LEAST_SIDE <= min(small.size) <= max(small.size) <= MOST_SIDE


@pytest.mark.parametrize(
    ("orientation", "size", "first", "last"),
    [
        (1, (1024, 512), BLUE, RED), (2, (1024, 512), RED, BLUE), (3, (1024, 512), RED, BLUE),
        (4, (1024, 512), BLUE, RED), (5, (512, 1024), BLUE, RED), (6, (512, 1024), BLUE, RED),
        (7, (512, 1024), RED, BLUE), (8, (512, 1024), RED, BLUE), (77, (1024, 512), BLUE, RED),
    ],
)  # fmt: skip
async def test_picture_is_upright_and_nothing_else_goes_with_it(
    orientation: int, size: tuple[int, int], first: tuple[int, int, int], last: tuple[int, int, int]
) -> None:
    """As the camera was held; where and with what it was taken is nobody's business."""
    content = await read(halves("JPEG", orientation))
    small = seen(content)

    assert small.size == size
    assert is_of(small, first, (5, 5))
    assert is_of(small, last, (size[0] - 5, size[1] - 5))
    assert len(small.getexif()) == 0
    assert b"camera" not in content


def see_through(mode: str, kind: str) -> bytes:
    image = Image.new("RGBA", (300, 300), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 150, 300))
    if mode == "P":
        image = image.quantize(16)
    return written(image, kind)


@pytest.mark.parametrize(
    ("content", "left", "right"),
    [
        (see_through("RGBA", "PNG"), WHITE, RED),
        (see_through("RGBA", "WEBP"), WHITE, RED),
        (see_through("P", "PNG"), WHITE, RED),
        (see_through("RGBA", "GIF"), WHITE, RED),
        (written(Image.new("RGB", (300, 300), RED), "PNG", transparency=RED), WHITE, WHITE),
        (
            written(Image.new("CMYK", (300, 300), (0, 255, 255, 0)), "JPEG"),
            (255, 0, 0),
            (255, 0, 0),
        ),
        (written(Image.new("L", (300, 300), 100), "PNG"), (100, 100, 100), (100, 100, 100)),
        (written(Image.new("1", (300, 300), 1), "PNG"), WHITE, WHITE),
        (written(Image.new("I;16", (300, 300), 25_700), "PNG"), (100, 100, 100), (100, 100, 100)),
    ],
    ids=["alpha", "webp alpha", "palette", "gif", "key", "cmyk", "grey", "bits", "16 bits"],
)
async def test_colours_are_those_that_people_see(
    content: bytes, left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    """Whatever way they are written; where one can see through, there is white."""
    small = seen(await read(content))

    assert is_of(small, left, (20, 150))
    assert is_of(small, right, (280, 150))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
async def test_moving_picture_is_its_beginning(kind: str) -> None:
    """The engine is given one."""
    frames = [Image.new("RGB", (300, 300), colour) for colour in (BLUE, RED, RED)]

    small = seen(await read(written(frames[0], kind, save_all=True, append_images=frames[1:])))

    assert is_of(small, BLUE)


@pytest.mark.parametrize(
    "content",
    [
        picture()[:2000],
        picture(kind="PNG")[:200],
        picture(kind="WEBP")[:100],
        picture(kind="GIF")[:100],
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a" + bytes(range(256)),
        b"\xff\xd8\xff" + bytes(range(256)) * 9,
        b"RIFF\0\0\0\0WEBP" + bytes(99),
        b"only text",
        pdf("Whole."),
        b"",
    ],
)
async def test_what_is_no_whole_picture_has_a_reason(content: bytes) -> None:
    """It is a sentence's key."""
    with pytest.raises(Unreadable) as error:
        await read(content)

    assert str(error.value) == "document damaged"


@pytest.mark.parametrize(
    ("size", "kind"),
    [((20_000, 20_000), "photo"), ((20_000, 20_000), "document"), ((11_000, 10_000), "photo")],
)
async def test_bomb_costs_nobody_else(size: tuple[int, int], kind: str) -> None:
    """What would fill the memory of its reader ends with a sentence; the next is read."""
    documents = Documents(20_000_000, sees=True)
    began = time.monotonic()

    with pytest.raises(Unreadable) as error:
        await documents.read(kind, "name", bomb(*size), 9999)

    assert str(error.value) == "picture too big"
    assert time.monotonic() - began < 45
    assert await documents.read("photo", "name", picture(), 4)


async def test_large_picture_that_one_can_see_through_is_read() -> None:
    """As from a large screen: it is not copied more often than it must be."""
    content = written(Image.new("RGBA", (6000, 4000)), "PNG", compress_level=1)

    assert seen(await read(content)).size == (1024, 683)


async def test_picture_that_fits_no_memory_has_the_same_reason() -> None:
    """Fewer pixels, but each takes four bytes, and their average as many again."""
    content = written(Image.new("RGBA", (8000, 8000)), "PNG", compress_level=1)

    with pytest.raises(Unreadable) as error:
        await read(content)

    assert str(error.value) == "picture too big"


async def test_size_that_is_a_lie_is_not_believed() -> None:
    """As many pixels as can be written."""
    honest = picture(kind="PNG")
    content = honest.replace(
        struct.pack(">II", 1280, 960), struct.pack(">II", 2**31 - 1, 2**31 - 1)
    )
    assert content != honest

    with pytest.raises(Unreadable):
        await read(content)


@pytest.mark.parametrize(
    ("most_bytes", "sees", "kind", "content", "why"),
    [
        (0, True, "document", b"text", "cannot open"),
        (9, True, "document", picture(), "document too big"),
        (10**6, False, "document", picture(), "cannot read kind"),
        (10**6, True, "document", b"\0\1\2", "cannot read kind"),
    ],
)
async def test_what_is_not_taken_has_a_reason(
    most_bytes: int, sees: bool, kind: str, content: bytes, why: str
) -> None:
    """By what the operator has set."""
    with pytest.raises(Unreadable) as error:
        await Documents(most_bytes, sees=sees).read(kind, "name", content, 9999)

    assert str(error.value) == why


@pytest.mark.parametrize(
    ("most_bytes", "sees", "expected"),
    [
        (5, False, (5, 0)),
        (5, True, (5, 20_000_000)),
        (0, True, (20_000_000,) * 2),
        (0, False, (0, 0)),
    ],
)
def test_what_is_taken(most_bytes: int, sees: bool, expected: tuple[int, int]) -> None:
    """Photos where the engine sees; and then documents, which may be pictures, in any case."""
    documents = Documents(most_bytes, sees=sees)

    assert (documents.most_bytes("document"), documents.most_bytes("photo")) == expected
