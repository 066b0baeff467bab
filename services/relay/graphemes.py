"""Finds borders between characters as readers see them: several code points can be one of them."""

import unicodedata

_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_TAGS = range(0xE0020, 0xE0080)
_HANGUL_TAILS = range(0x1160, 0x1200)


def last_border(text: str, least: int, most: int) -> int:
    """Find the last border at `most` or before it.

    `least` is where to stop looking: a character that is longer than that is cut.
    """
    for place in range(most, least - 1, -1):
        if is_border(text, place):
            return place
    return max(most, 1)


def is_border(text: str, place: int) -> bool:
    """Tell whether one character ends and another begins at a place.

    These are the rules of UAX 29 (https://unicode.org/reports/tr29/) that matter in chats: marks,
    joined emoji, skin tones, flags, keycaps, Hangul; what stands behind the place may be unknown
    but for one code point.
    """
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if before == _JOINER or after == _JOINER:
        return False
    code = ord(after)
    if code < 0x300:
        return True
    if unicodedata.category(after) in ("Mn", "Me", "Mc"):
        return False
    if code in _SKIN_TONES or code in _TAGS or code in _HANGUL_TAILS:
        return False
    if code in _FLAG_LETTERS:
        first = place
        while first > 0 and ord(text[first - 1]) in _FLAG_LETTERS:
            first -= 1
        return (place - first) % 2 == 0
    return True
