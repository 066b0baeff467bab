"""A message to an admin that is renewed for as long as everything that carries it lives.

A relay that is cut off cannot say so; but the time in this message is then seen to grow old.
"""

import time

from services.gateway.texts import Language, say
from services.wire import Button

RENEWAL_SECONDS = 300.0


def heartbeat(state: str, at: float, language: Language) -> tuple[str, Button]:
    """Say how things stand at this moment (seconds since 1970), with the button that ends it."""
    minutes = round(RENEWAL_SECONDS / 60)
    now = time.strftime("%Y-%m-%d ", time.gmtime(at)) + moment(at)  # yesterday's is old, too
    text = say("heartbeat", language, now=now, minutes=minutes, state=state)
    return text, Button(label=say("end heartbeat", language), data="heartbeat")


def moment(at: float) -> str:
    """Write a time of the day, the same for all who read it."""
    return time.strftime("%H:%M UTC", time.gmtime(at))
