"""Users by marks instead of ids: a list of marks that is copied or shown names nobody.

A mark is keyed with the link token. Whoever has both can still try all ids.
"""

import hashlib
import hmac
from collections.abc import Iterable

MARK_DIGITS = 32


def mark_of(user_id: int, key: str) -> str:
    """HMAC-SHA256 of an id in decimal digits, its first 16 bytes as hexadecimal digits."""
    return hmac.new(key.encode(), str(user_id).encode(), hashlib.sha256).hexdigest()[:MARK_DIGITS]


class MarkedUsers:
    """A set of users that holds their marks alone."""

    def __init__(self, users: Iterable[int | str], key: str) -> None:
        """`users`: ids and marks."""
        self._key = key
        self._marks = {user if isinstance(user, str) else mark_of(user, key) for user in users}

    def __contains__(self, user_id: object) -> bool:
        """Tell whether a user, by id, is one of them."""
        return isinstance(user_id, int) and mark_of(user_id, self._key) in self._marks
