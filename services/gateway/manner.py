"""How an ask is put to the engine: as the operator has set it, or as its user has chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Style = Literal["", "precise", "creative"]
Length = Literal["", "short", "long"]

TEMPERATURES: dict[Style, float] = {"precise": 0.2, "creative": 1.0}

LENGTHS: dict[Length, str] = {
    "short": "Answer briefly, in a few sentences.",
    "long": "Answer at length and in detail.",
}


@dataclass(frozen=True)
class Preferences:
    """What one user has chosen; what is empty is left to the operator, or to Telegram."""

    language: str = ""
    persona: str = ""
    instruction: str = ""
    """The user's own words to the model."""
    style: Style = ""
    length: Length = ""
    streaming: bool = True
    """Whether an answer is shown while it grows."""
    reasoning: bool = False
    """Whether what a model thinks before it answers is shown above the answer."""
    steering: bool = False
    """Whether a new question ends the answer that is being written, instead of waiting for it."""
    model: str = ""
    """By its name for users."""


@dataclass(frozen=True)
class Manner:
    """How one ask is put to the engine, and whether its answer is shown while it grows."""

    system_prompt: str
    answer_tokens: int
    temperature: float
    streaming: bool = True
    reasoning: bool = False
    model: str = ""
    """By the engine's own name for it; "": the first one that it serves."""


@dataclass(frozen=True)
class House:
    """What the operator has set for everybody."""

    answer_tokens: int
    temperature: float = 0.7
    system_prompt: str = ""
    personas: Mapping[str, str] = field(default_factory=dict)
    """Instructions that a user can choose instead of `system_prompt`, by their names."""
    models: Mapping[str, str] = field(default_factory=dict)
    """The engine's own names of the models that users can choose, by their names for users.

    The first is for all who have chosen none, or one that is offered no longer.
    """

    def manner(self, chosen: Preferences) -> Manner:
        """Put together what the operator wants and what the user has chosen.

        The user's own words come after the operator's, and never instead of them.
        """
        words = (
            self.personas.get(chosen.persona, self.system_prompt),
            chosen.instruction,
            LENGTHS.get(chosen.length, ""),
        )
        return Manner(
            "\n\n".join(word for word in words if word),
            self.answer_tokens,
            TEMPERATURES.get(chosen.style, self.temperature),
            chosen.streaming,
            chosen.reasoning,
            self.models.get(chosen.model, self._first_model),
        )

    def without_model(self, manner: Manner) -> Manner:
        """Put the ask to another model: the first one offered, then whatever the engine serves."""
        is_first = manner.model == self._first_model
        return replace(manner, model="" if is_first else self._first_model)

    @property
    def _first_model(self) -> str:
        return next(iter(self.models.values()), "")
