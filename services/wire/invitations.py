"""Invitations: what both nodes agree on about the code that a link to the bot carries."""

import hashlib


def digest_of(code: str) -> str:
    """Name a code without giving it away: SHA-256 in hexadecimal digits."""
    return hashlib.sha256(code.encode()).hexdigest()


def invitation_in(text: str) -> str:
    """Find the code with which somebody begins, as a link makes them; its digest, "" for none."""
    words = text.split()
    return digest_of(words[1]) if len(words) == 2 and words[0] == "/start" else ""
