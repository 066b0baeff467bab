"""Keeps to Telegram's budgets: about one message a second in a chat, thirty a second in all.

Telegram publishes the limits only roughly (https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this)
and says the rest by "retry after N seconds", which is obeyed in full. Edits count like messages.
"""

import asyncio
from dataclasses import dataclass, field

CHAT_BURST = 3.0
CHAT_PER_SECOND = 0.95
TOTAL_BURST = 20.0
TOTAL_PER_SECOND = 25.0
RESERVED = 1.0
"""Kept in each chat's budget for what must not wait: placeholders and final texts."""


@dataclass
class _Budget:
    burst: float
    per_second: float
    left: float
    at: float
    blocked_until: float = 0.0

    def refill(self, now: float) -> None:
        self.left = min(self.burst, self.left + (now - self.at) * self.per_second)
        self.at = now

    def wait_seconds(self, now: float, needed: float) -> float:
        self.refill(now)
        missing = max(0.0, needed - self.left) / self.per_second
        return max(missing, self.blocked_until - now)


@dataclass
class Pacing:
    """The budget of all chats, and of each."""

    chats: dict[int, _Budget] = field(default_factory=dict)
    total: _Budget | None = None

    async def turn(self, chat_id: int, *, urgent: bool) -> None:
        """Wait until one more call is within the budgets, and take it from them."""
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            chat = self._chat(chat_id, now)
            total = self._total(now)
            seconds = max(
                chat.wait_seconds(now, 1.0 if urgent else 1.0 + RESERVED),
                total.wait_seconds(now, 1.0),
            )
            if seconds <= 0:
                chat.left -= 1
                total.left -= 1
                return
            await asyncio.sleep(seconds)

    def obey(self, chat_id: int, retry_after_seconds: float) -> None:
        """Telegram has said when it will listen again."""
        now = asyncio.get_running_loop().time()
        self._chat(chat_id, now).blocked_until = now + retry_after_seconds

    def _chat(self, chat_id: int, now: float) -> _Budget:
        budget = self.chats.get(chat_id)
        if not budget:
            if len(self.chats) > 2000:
                self._forget_rested(now)
            budget = self.chats[chat_id] = _Budget(CHAT_BURST, CHAT_PER_SECOND, CHAT_BURST, now)
        return budget

    def _total(self, now: float) -> _Budget:
        self.total = self.total or _Budget(TOTAL_BURST, TOTAL_PER_SECOND, TOTAL_BURST, now)
        return self.total

    def _forget_rested(self, now: float) -> None:
        for chat_id, budget in list(self.chats.items()):
            budget.refill(now)
            if budget.left >= budget.burst and budget.blocked_until <= now:
                del self.chats[chat_id]
