"""Owns the words that nothing on the relay node may say: what it serves, and this project."""

import re

STRONG = "adyton|llm|llama|gpu|cuda|nvidia|inference|smollm|oracle"
"""Words that have no business in any path of the image, whoever wrote the file."""

EVERY = f"{STRONG}|model|engine|prompt"
"""Words that must not stand in what this project itself puts there."""

HARMLESS = (
    rb"model_(config|copy|dump|dump_json|fields|post_init|rebuild|validate|validate_json)|BaseModel"
    rb"|fullmatch"
)
"""pydantic's names for its data classes, which say nothing of language models; `fu-llm-atch`."""


def spot(words: str, text: bytes) -> list[str]:
    """Where one of the words stands, in any case, with what surrounds it."""
    found = re.finditer(words.encode(), re.sub(HARMLESS, b"", text), re.IGNORECASE)
    around = [match.string[max(0, match.start() - 40) : match.end() + 40] for match in found]
    return [re.sub(rb"[^ -~]+", b" ", piece).decode().strip() for piece in around]
