"""The catalogue of sentences is whole, and each language fills in the same values."""

from string import Formatter
from typing import get_args

import pytest

from services.gateway.texts import _TEXTS, Language


@pytest.mark.parametrize("key", _TEXTS)
def test_every_language_says_the_same(key: str) -> None:
    """All languages are there, none is empty, and they name the same values."""
    sentences = _TEXTS[key]

    assert set(sentences) == set(get_args(Language))
    assert all(text.strip() for text in sentences.values())
    values = {
        frozenset(name for _, name, _, _ in Formatter().parse(text) if name is not None)
        for text in sentences.values()
    }
    assert len(values) == 1
