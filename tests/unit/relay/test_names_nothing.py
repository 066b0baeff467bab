"""The sources that go into the relay node's images name neither what it serves nor this project."""

from pathlib import Path

import pytest

from tests.ignorance import EVERY, spot

ROOT = Path(__file__).resolve().parents[3]
SHARED = ("__init__.py", "log.py", "namespace.py", "settings.py", "health")
SOURCES = sorted(
    path
    for path in (
        *(ROOT / "services" / name for name in SHARED),
        *(ROOT / "services" / "wire").rglob("*"),
        *(ROOT / "services" / "relay").rglob("*"),
        *(ROOT / "services" / "egress").rglob("*"),
        *(ROOT / "wireguard").rglob("*"),
    )
    if path.is_file() and "__pycache__" not in path.parts
)


def test_the_search_finds_what_it_is_for() -> None:
    """A check that cannot fail is a defect."""
    assert spot(EVERY, b"a\nMODEL=small\n") == ["a MODEL=small"]
    assert spot(EVERY, b"the vLLM behind it")
    assert spot(EVERY, b"self.reply.model_copy(update={})") == []
    assert spot(EVERY, b"model_name")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_names_nothing(source: Path) -> None:
    """What the running containers and their images are searched for again, in a slower test."""
    assert spot(EVERY, source.read_bytes()) == []
