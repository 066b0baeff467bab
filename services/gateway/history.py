"""Chooses what the engine is told: the instruction, what fits of the conversation, and the ask."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.engine import Engine, Message, PromptTooLong
from services.gateway.pictures import PICTURE_TOKENS
from services.gateway.store import Ask, Store, Turn

FRAME_TOKENS = 16
"""What a chat template may put around one message, from above."""

MOST_TURNS = 400

BYTES_PER_TOKEN = 10
"""A text of so many bytes a token is not to be expected: more need not even be counted."""

MOST_COUNTS = 4
"""Questions to the engine's tokenizer for one prompt; after them the estimate decides."""


UNSEEN = "[picture attached that you cannot see any more]"


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text takes, whatever the engine's tokenizer.

    Latin text takes about four bytes a token, Cyrillic about five: three is on the safe side.
    """
    return len(text.encode()) // 3 + FRAME_TOKENS // 2


@dataclass(frozen=True)
class Said:
    """A message for the engine, its pictures by the store's numbers."""

    role: str
    text: str
    pictures: tuple[int, ...] = ()

    @property
    def estimated_tokens(self) -> int:
        """How many it probably takes of a prompt."""
        return estimate_tokens(self.text) + PICTURE_TOKENS * len(self.pictures)

    @property
    def most_tokens(self) -> int:
        """How many it takes at most: no tokenizer makes more tokens of a text than it has bytes."""
        return len(self.text.encode()) + FRAME_TOKENS + PICTURE_TOKENS * len(self.pictures)


class History:
    """The conversation of each chat, within the token budget of a prompt."""

    def __init__(
        self, store: Store, engine: Engine, prompt_tokens: int, most_pictures: int = 0
    ) -> None:
        """`most_pictures`: so many, the latest, are shown to the engine with one prompt."""
        self._store = store
        self._engine = engine
        self._prompt_tokens = prompt_tokens
        self.most_pictures = most_pictures

    async def compose(
        self,
        ask: Ask,
        system_prompt: str,
        budget_share: float = 1.0,
        model: str = "",
        *,
        is_blind: bool = False,
    ) -> tuple[list[Message], int]:
        """List the messages for the engine, with their tokens; the oldest exchanges go first.

        The engine's own tokenizer counts, unless even the bound from above fits; each picture
        counts as its bound. `budget_share` below 1 leaves room after the engine has found a prompt
        too long nevertheless; `is_blind`: without pictures. `model`: by the engine's own
        name, see Engine. Raises PromptTooLong if the ask alone does not fit, EngineUnavailable,
        NoSuchModel.
        """
        messages, tokens = await self._choose(ask, system_prompt, budget_share, model, is_blind)
        numbers = [number for message in messages for number in message.pictures]
        contents = await self._store.run(self._store.pictures, numbers) if numbers else {}
        return [_written(message, contents) for message in messages], tokens

    async def _choose(
        self, ask: Ask, system_prompt: str, budget_share: float, model: str, is_blind: bool
    ) -> tuple[list[Said], int]:
        most_pictures = 0 if is_blind else self.most_pictures
        budget = int(self._prompt_tokens * budget_share)
        turns: list[Turn] = []
        if budget:  # else the engine's limit is not what its count says: the ask alone must do
            turns = await self._store.run(self._store.turns_before, ask, MOST_TURNS)
        turns = turns[len(turns) % 2 :]  # whole exchanges: a question and its answer
        *said, question = _with_latest_pictures(
            [*(Said(t.role, t.text, t.pictures) for t in turns), _question(ask)], most_pictures
        )
        fixed = _Fixed(system_prompt, question)
        if not budget:
            messages = fixed.around([])
            return messages, _estimate(messages)
        spare = _most(fixed.around(said)) - BYTES_PER_TOKEN * budget
        said = _without_oldest(said, spare) if spare > 0 else said
        for _ in range(MOST_COUNTS):
            messages = fixed.around(said)
            if (bound := _most(messages)) <= budget:
                # The meter and the queue want a likely number, not a bound.
                return messages, _estimate(messages)
            plain = [_plain(message) for message in messages]
            tokens = await self._engine.count_prompt(plain, model)
            if tokens is None:
                break
            tokens += PICTURE_TOKENS * sum(len(message.pictures) for message in messages)
            if tokens <= budget:
                return messages, tokens
            if not said:
                raise PromptTooLong
            said = _without_oldest(said, (tokens - budget) * bound / tokens)
        # The engine does not count, or text and tokenizer are an odd pair: on the safe side.
        spare = budget - estimate_tokens(system_prompt) - question.estimated_tokens
        messages = fixed.around(_fitting(said, spare))
        return messages, _estimate(messages)


@dataclass(frozen=True)
class _Fixed:
    """What a prompt holds in any case, however little of the conversation fits."""

    instruction: str
    question: Said

    def around(self, said: list[Said]) -> list[Said]:
        return [
            *([Said("system", self.instruction)] if self.instruction else []),
            *said,
            self.question,
        ]


def _question(ask: Ask) -> Said:
    return Said("user", ask.text, ask.pictures)


def _with_latest_pictures(messages: list[Said], most: int) -> list[Said]:
    """Keep the latest pictures; instead of each other one the engine is told that it was there."""
    kept: list[Said] = []
    for message in reversed(messages):
        first = max(0, len(message.pictures) - most)
        most -= len(message.pictures) - first
        kept.append(Said(message.role, _unseen(first) + message.text, message.pictures[first:]))
    return kept[::-1]


def _unseen(count: int) -> str:
    return f"{UNSEEN}\n\n" * count


def _most(messages: Sequence[Said]) -> int:
    return sum(message.most_tokens for message in messages)


def _estimate(messages: Sequence[Said]) -> int:
    return sum(message.estimated_tokens for message in messages)


def _without_oldest(said: list[Said], excess: float) -> list[Said]:
    """Drop the oldest exchanges until so much of the bound is gone."""
    dropped = 0
    start = 0
    while start < len(said) and (start == 0 or dropped < excess):
        dropped += _most(said[start : start + 2])
        start += 2
    return said[start:]


def _fitting(said: list[Said], budget: int) -> list[Said]:
    """Keep the latest exchanges that fit by the estimate."""
    start = len(said)
    for first in range(len(said) - 2, -1, -2):
        budget -= _estimate(said[first : first + 2])
        if budget < 0:
            break
        start = first
    return said[start:]


def _plain(message: Said) -> Message:
    return {"role": message.role, "content": message.text}


def _written(message: Said, contents: dict[int, bytes]) -> Message:
    """Write a message for the engine, as OpenAI does; without pictures it is a plain text."""
    pictures = [contents[number] for number in message.pictures if contents.get(number)]
    text = _unseen(len(message.pictures) - len(pictures)) + message.text  # erased meanwhile
    if not pictures:
        return {"role": message.role, "content": text}
    parts: list[dict[str, object]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{packed}"}}
        for packed in (base64.b64encode(picture).decode() for picture in pictures)
    ]
    if text:
        parts.append({"type": "text", "text": text})
    return {"role": message.role, "content": parts}
