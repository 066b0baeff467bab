"""Tells what a model thinks from what it answers, where the engine has left both in one text.

Reasoning models write `<think>…</think>` before they answer. An engine that is told of the model's
format takes that apart; one that is not passes it on as it is.
"""

OPENING, CLOSING = "<think>", "</think>"


class Thinking:
    """One answer as it comes in; only at its very beginning can there be thoughts."""

    def __init__(self) -> None:
        self._held = ""
        """What may be a part of a mark."""
        self._is_thinking: bool | None = None
        """None: that is not clear yet."""

    @property
    def is_over(self) -> bool:
        """Whether all that comes from now on is answered."""
        return self._is_thinking is False

    def split(self, text: str) -> tuple[str, str]:
        """Take a bit more of the text; returns what is thought, and what is answered."""
        if self._is_thinking is False:
            return "", text
        text = self._held + text
        if self._is_thinking is None:
            begun = text.lstrip()
            if len(begun) < len(OPENING) and OPENING.startswith(begun):
                # White space goes on: an engine that says nothing else must be noticed.
                self._held = begun
                return "", text[: len(text) - len(begun)]
            self._is_thinking = begun.startswith(OPENING)
            if not self._is_thinking:
                return "", text
            text = begun.removeprefix(OPENING)
        thought, mark, answer = text.partition(CLOSING)
        if mark:
            self._is_thinking = False
            return thought, answer
        kept = _length_of_beginning(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], ""

    def end(self) -> tuple[str, str]:
        """Nothing more comes; returns what was held back, likewise."""
        if self._is_thinking:
            return self._held, ""
        return "", self._held if self._is_thinking is None else ""


def _length_of_beginning(text: str) -> int:
    """Tell how much of a text's end may be the beginning of the closing mark."""
    return next(
        (size for size in range(len(CLOSING) - 1, 0, -1) if text.endswith(CLOSING[:size])), 0
    )
