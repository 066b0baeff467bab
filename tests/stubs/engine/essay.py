"""Owns answers that their questions determine: whoever knows a question can check its answer.

A question says how long its answer shall be: "... 40 words ...". No two questions share more than
single words of their answers, so that any piece of one can be told from all others.
"""

import hashlib
import re

_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"


def essay(question: str, words: int) -> str:
    """Answer in the number of words that the question names, or in `words`."""
    named = re.search(r"(\d+) words", question)
    count = int(named.group(1)) if named else words
    stream = iter(hashlib.shake_256(question.encode()).digest(count * 12))
    said: list[str] = []
    for n in range(1, count + 1):
        word = ""
        for _ in range(3 + next(stream) % 3):
            word += _CONSONANTS[next(stream) % 18] + _VOWELS[next(stream) % 5]
        if n % 10 == 1:
            word = word.capitalize()
        if n == count or n % 10 == 0:
            word += "."
        said.append(word)
    sentences = [" ".join(said[n : n + 10]) for n in range(0, count, 10)]
    paragraphs = [" ".join(sentences[n : n + 6]) for n in range(0, len(sentences), 6)]
    return "\n\n".join(paragraphs)
