"""Chooses what the engine is told: the instruction, what fits of the conversation, and the ask."""

from services.gateway.store import Ask, Store, Turn

Message = dict[str, str]

MESSAGE_OVERHEAD_TOKENS = 8
MOST_TURNS = 400


def estimate_tokens(text: str) -> int:
    """Estimate from above how many tokens a text takes, whatever the engine's tokenizer.

    Latin text takes about four bytes a token, Cyrillic about five: three is on the safe side.
    """
    return len(text.encode()) // 3 + MESSAGE_OVERHEAD_TOKENS


class History:
    """The conversation of each chat, within the token budget of a prompt."""

    def __init__(self, store: Store, system_prompt: str, prompt_tokens: int) -> None:
        self._store = store
        self._system_prompt = system_prompt
        self._prompt_tokens = prompt_tokens

    async def compose(self, ask: Ask, budget_share: float = 1.0) -> list[Message]:
        """List the messages for the engine; the oldest turns go first when it gets tight.

        `budget_share` below 1 leaves room after the engine has found the prompt too long.
        """
        turns = await self._store.run(
            self._store.latest_turns, (ask.chat_id, ask.thread_id), MOST_TURNS
        )
        budget = int(self._prompt_tokens * budget_share)
        budget -= estimate_tokens(self._system_prompt) + estimate_tokens(ask.text)
        return [
            *([_message("system", self._system_prompt)] if self._system_prompt else []),
            *(_message(turn.role, turn.text) for turn in _fitting(turns, budget)),
            _message("user", ask.text),
        ]


def _fitting(turns: list[Turn], budget: int) -> list[Turn]:
    """Keep the latest whole exchanges (a question and its answer) that fit."""
    start = len(turns)
    for first in range(len(turns) - 2, -1, -2):
        budget -= sum(estimate_tokens(turn.text) for turn in turns[first : first + 2])
        if budget < 0:
            break
        start = first
    return turns[start:]


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}
