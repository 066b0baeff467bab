"""The buttons under a reply. What a press brings back is a verb, and the number of an ask."""

from services.gateway.store import Ask
from services.gateway.texts import Language, say
from services.wire import Button


def stop_button(ask: Ask, language: Language) -> Button:
    """Under an answer that is being written."""
    return Button(label=say("stop", language), data=f"stop:{ask.id}")


def retry_button(ask: Ask, language: Language) -> Button:
    """Under an answer that failed."""
    return Button(label=say("retry", language), data=f"retry:{ask.id}")


def again_button(ask: Ask, language: Language) -> Button:
    """Under an answer that could be another one."""
    return Button(label=say("again", language), data=f"again:{ask.id}")


def more_button(ask: Ask, language: Language) -> Button:
    """Under an answer that has come to the limit of its length."""
    return Button(label=say("more", language), data=f"more:{ask.id}")


def forget_buttons(language: Language) -> tuple[Button, Button]:
    """Under the question whether a conversation shall be erased."""
    return (
        Button(label=say("erase", language), data="forget"),
        Button(label=say("keep", language), data="keep"),
    )


def read_press(data: str) -> tuple[str, int]:
    """Take apart what a press brings back; ask 0 where it names none."""
    verb, _, number = data.partition(":")
    is_number = number.isascii() and number.isdigit() and len(number) < 19
    return verb, int(number) if is_number else 0
