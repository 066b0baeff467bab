"""aiogram is imported without its four hundred schemas, which are the same when they are used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

REPORT = """
import json, warnings
import services.relay.__main__
from aiogram import types
from pydantic.json_schema import PydanticJsonSchemaWarning
warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
classes = [getattr(types, name) for name in types.__all__]
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps({
    "built": sum(getattr(cls, "__pydantic_complete__", False) for cls in classes),
    "resident_mb": pages * 4096 / 1e6,
    "update": types.Update.model_json_schema(),
    "parsed": types.Update.model_validate_json(%r).model_dump_json(exclude_none=True),
}))
"""
PLAIN = "import aiogram\n"
UPDATE = json.dumps(
    {
        "update_id": 1,
        "message": {
            "message_id": 2,
            "date": 3,
            "chat": {"id": 4, "type": "private", "first_name": "Ada"},
            "from": {"id": 4, "is_bot": False, "first_name": "Ada"},
            "text": "hello",
            "entities": [{"type": "bold", "offset": 0, "length": 5}],
            "reply_to_message": {
                "message_id": 1,
                "date": 1,
                "chat": {"id": 4, "type": "private"},
                "photo": [{"file_id": "a", "file_unique_id": "b", "width": 1, "height": 1}],
            },
        },
    }
)


def report(before: str = "") -> dict[str, Any]:
    """What a process of its own says that has imported the relay."""
    done = subprocess.run(
        [sys.executable, "-c", before + REPORT % UPDATE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def lean() -> dict[str, Any]:
    return report()


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return report(PLAIN)


def test_hardly_anything_is_built_at_the_start(lean: dict[str, Any], plain: dict[str, Any]) -> None:
    """The control: without this, nearly everything is."""
    assert plain["built"] > 300
    assert lean["built"] < 10


def test_memory_is_less_than_half(lean: dict[str, Any], plain: dict[str, Any]) -> None:
    """168 MB against 62, measured; the rest is Python, pydantic's core, aiohttp and TLS."""
    assert lean["resident_mb"] < 85
    assert lean["resident_mb"] < plain["resident_mb"] / 2


def test_every_kind_of_update_is_read_alike(lean: dict[str, Any], plain: dict[str, Any]) -> None:
    """The schema of an update names all types that Telegram delivers."""
    assert len(lean["update"]["$defs"]) > 150
    assert lean["update"] == plain["update"]
    assert lean["parsed"] == plain["parsed"]
