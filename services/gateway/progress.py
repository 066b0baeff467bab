"""How far the answer to one ask has come, over all tries: its text and its cost."""

import time
from dataclasses import dataclass, field

from services.gateway.engine import Finished
from services.gateway.store import NOTHING, Ask, Checkpoint, Usage
from services.gateway.texts import is_visible


@dataclass
class Progress:
    """The text so far, what earlier tries have cost, and the try that is going on."""

    ask: Ask
    text: str = ""
    spent: Usage = NOTHING
    """By tries that have ended."""
    taken_at: float = field(default_factory=time.time)
    answer_tokens: int = 0
    """In the text so far, as far as this process has counted them."""
    finished: Finished | None = None
    last_sign: float = 0.0
    """When the engine last said something, by the loop's clock; 0: not yet in this try."""
    first_token_seconds: float | None = None
    """From the start of the first try that brought any text."""
    thoughts: list[str] = field(default_factory=list)
    """What the model thought before the answer, as far as this process knows."""
    is_thought_shown: bool = False
    _pieces: list[str] = field(default_factory=list)
    _piece_tokens: int = 0
    _is_visible: bool = False
    """Whether any of the pieces is."""
    _thought_tokens: int = 0
    _try_started: float = 0.0
    _try_prompt_tokens: int = 0
    _saved: tuple[int, int] = (0, 0)

    def begin_try(self, prompt_tokens: int) -> None:
        """The engine is asked; text that comes is appended."""
        self._try_started = time.monotonic()
        self._try_prompt_tokens = prompt_tokens
        self._forget_pieces()
        self._thought_tokens = 0
        self.last_sign = 0.0

    def add(self, piece: str, tokens: int, now: float) -> None:
        """The engine has said a piece of so many tokens, as far as can be told before it counts."""
        self._pieces.append(piece)
        self._piece_tokens += tokens
        self._is_visible = self._is_visible or is_visible(piece)
        self.last_sign = now
        if self.first_token_seconds is None:
            self.first_token_seconds = time.monotonic() - self._try_started

    def think(self, thought: str, tokens: int, now: float) -> None:
        """The engine has thought; once it has begun to speak, that is nobody's business."""
        if not self.has_begun:
            self.thoughts.append(thought)
        self._thought_tokens += tokens
        self.last_sign = now

    @property
    def has_begun(self) -> bool:
        """Whether there is any text of the answer."""
        return self._is_visible or is_visible(self.text)

    def end_try(self) -> bool:
        """Sum the try up; True if it brought any text. Ending none, or one twice, does nothing."""
        if not self._try_started:
            return False
        self.spent += self._cost()
        self.text += "".join(self._pieces)
        advanced = self._is_visible  # the next try drops white space
        self.answer_tokens += self._piece_tokens
        self._forget_pieces()
        self._try_started = 0.0
        return advanced

    def begin_anew(self, text: str = "") -> None:
        """Take back what was said, but for this beginning."""
        if not text:
            self.answer_tokens = 0
            self.thoughts = []
            self.is_thought_shown = False
        self.text = text

    def checkpoint(self) -> Checkpoint | None:
        """What is to be saved; None if nothing has changed since the last time."""
        text = self.text + "".join(self._pieces)
        state = (len(text), self._piece_tokens + self._thought_tokens)
        if state == self._saved:
            return None
        self._saved = state
        spent = self.spent + self._cost() if self._try_started else self.spent
        return Checkpoint(self.ask.id, self.ask.reply_id, text, spent)

    def _forget_pieces(self) -> None:
        self._pieces, self._piece_tokens, self._is_visible = [], 0, False

    def _cost(self) -> Usage:
        if self.finished:
            prompt, answer = self.finished.prompt_tokens, self.finished.answer_tokens
        elif self._pieces or self._thought_tokens:
            prompt, answer = self._try_prompt_tokens, self._piece_tokens + self._thought_tokens
        else:
            return NOTHING  # nobody knows whether it was begun at all
        return Usage(prompt, answer, round((time.monotonic() - self._try_started) * 1000))
