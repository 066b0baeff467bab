"""Says why a user cannot ask now: too much waits, or too much was asked today or this minute.

All of it in the store's thread, within a batch's transaction.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.gateway.store import Store
from services.gateway.texts import Language, say
from services.wire import Update

DAY_SECONDS = 86_400
MINUTE_SECONDS = 60


@dataclass(frozen=True)
class Limits:
    """How much may wait, how long one ask may be, and how much one user may have; 0: no limit."""

    user_asks: int
    total_asks: int
    ask_tokens: int
    asks_of: Mapping[int, int] = field(default_factory=dict)
    """Users with another limit than `user_asks`."""
    daily_asks: int = 0
    daily_tokens: int = 0
    """Read and written, as the meter counts them. The ask that passes the limit is answered."""
    minute_asks: int = 0


class Allowance:
    """What each user may still ask."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._sent: dict[int, dict[tuple[int, int], int]] = {}

    def refusal(self, user_id: int, language: Language) -> str:
        """Say why this user cannot have another answer now; nothing if they can."""
        limits = self._limits
        of_user, of_all = self._store.count_asks(user_id)
        if of_user >= limits.asks_of.get(user_id, limits.user_asks):
            return say("too many", language, count=of_user)
        if of_all >= limits.total_asks:
            return say("busy", language)
        if not limits.daily_asks and not limits.daily_tokens:
            return ""
        asked, spent = self._store.used_today(user_id)
        if limits.daily_asks and asked + of_user >= limits.daily_asks:
            return say("daily asks", language, count=limits.daily_asks, **_renewal())
        if limits.daily_tokens and spent >= limits.daily_tokens:
            return say("daily tokens", language, count=limits.daily_tokens, **_renewal())
        return ""

    @property
    def ask_tokens(self) -> int:
        """How long one ask may be."""
        return self._limits.ask_tokens

    def left(self, user_id: int, language: Language) -> str:
        """Say what this user may still have today; nothing where nothing is limited."""
        limits = self._limits
        asked, spent = self._store.used_today(user_id)
        left = [
            say(f"{what} left", language, count=max(0, most - used))
            for what, most, used in (
                ("asks", limits.daily_asks, asked),
                ("tokens", limits.daily_tokens, spent),
            )
            if most
        ]
        return say("left", language, what=", ".join(left), **_renewal()) if left else ""

    def haste(self, update: Update, language: Language) -> str:
        """Say that a user writes too fast, by Telegram's clock; nothing if they do not.

        What piled up while this node was away was not written at once. A message that comes twice,
        because the disk did not take it at first, counts once.
        """
        if not (most := self._limits.minute_asks):
            return ""
        sent = self._sent.setdefault(update.user_id, {})
        message = (update.chat_id, update.message_id)
        since = update.sent_at - MINUTE_SECONDS
        recent = {key: at for key, at in sent.items() if at > since}
        if message not in recent and len(recent) >= most:
            return say("too fast", language, count=most)
        self._sent[update.user_id] = recent | {message: update.sent_at}
        return ""


def _renewal() -> dict[str, int]:
    """Time until the next day begins, in UTC as the meter's days."""
    minutes = -(-(DAY_SECONDS - int(time.time()) % DAY_SECONDS) // 60)
    return {"hours": minutes // 60, "minutes": minutes % 60}
