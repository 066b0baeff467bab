"""Keeps to Telegram's budgets: a message a second in a chat, 20 a minute in a group, 30/s in all.

Telegram publishes the limits only roughly (https://core.telegram.org/bots/faq, "My bot is hitting
limits") and says the rest by "retry after N seconds", which is obeyed in full. Edits count like
messages. Whoever asks first goes first, and streaming leaves room for what is urgent.
"""

import asyncio
from dataclasses import dataclass, field

CHAT_BURST = 3
CHAT_PER_SECOND = 0.95
GROUP_BURST = 4
GROUP_PER_SECOND = 0.25
"""Burst and a minute's steady pace together stay below 20 in any minute."""
GROUP_GROWING_PER_SECOND = 0.15
TOTAL_BURST = 20
TOTAL_PER_SECOND = 25.0
TYPING_SECONDS = 4.0
GROWING_PER_SECOND = 20.0
"""What growing texts may take of the total: the rest is for placeholders and final texts."""


@dataclass
class _Budget:
    """A generic cell rate algorithm: each call books the next free moment, in order of arrival."""

    burst: int
    per_second: float
    next_free: float = 0.0

    def book(self, now: float) -> float:
        """Book a call; returns the seconds to wait for it."""
        self.next_free = max(self.next_free, now)
        wait = self.next_free - now - (self.burst - 1) / self.per_second
        self.next_free += 1 / self.per_second
        return max(0.0, wait)


@dataclass
class _Chat:
    every: _Budget = field(default_factory=lambda: _Budget(CHAT_BURST, CHAT_PER_SECOND))
    growing: _Budget = field(default_factory=lambda: _Budget(CHAT_BURST - 2, CHAT_PER_SECOND))
    """Growing texts pass this budget first, and so leave the burst to placeholders and finals."""
    blocked_until: float = 0.0
    typing_until: float = 0.0


def _group() -> _Chat:
    return _Chat(_Budget(GROUP_BURST, GROUP_PER_SECOND), _Budget(1, GROUP_GROWING_PER_SECOND))


@dataclass
class Pacing:
    """The budget of all chats, and of each."""

    chats: dict[int, _Chat] = field(default_factory=dict)
    every: _Budget = field(default_factory=lambda: _Budget(TOTAL_BURST, TOTAL_PER_SECOND))
    growing: _Budget = field(default_factory=lambda: _Budget(TOTAL_BURST, GROWING_PER_SECOND))

    async def turn(self, chat_id: int, *, urgent: bool) -> None:
        """Wait until one more call is within the budgets."""
        clock = asyncio.get_running_loop().time
        chat = self._chat(chat_id, clock())
        if not urgent:
            await asyncio.sleep(chat.growing.book(clock()))
        await asyncio.sleep(chat.every.book(clock()))
        await asyncio.sleep(chat.blocked_until - clock())
        if not urgent:
            await asyncio.sleep(self.growing.book(clock()))
        await asyncio.sleep(self.every.book(clock()))

    def obey(self, chat_id: int, retry_after_seconds: float) -> None:
        """Telegram has said when it will listen to this chat again."""
        now = asyncio.get_running_loop().time()
        self._chat(chat_id, now).blocked_until = now + retry_after_seconds

    def may_type(self, chat_id: int) -> bool:
        """Tell whether nobody is shown typing in this chat any more; if so, somebody is now.

        Telegram shows it for five seconds, whoever of a chat's replies asked for it.
        """
        now = asyncio.get_running_loop().time()
        chat = self._chat(chat_id, now)
        if now < chat.typing_until:
            return False
        chat.typing_until = now + TYPING_SECONDS
        return True

    def _chat(self, chat_id: int, now: float) -> _Chat:
        if chat_id not in self.chats:
            if len(self.chats) >= 2000:
                self.chats = {
                    known: chat
                    for known, chat in self.chats.items()
                    if max(chat.every.next_free, chat.blocked_until) > now
                }
            self.chats[chat_id] = _group() if chat_id < 0 else _Chat()
        return self.chats[chat_id]
