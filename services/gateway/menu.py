"""/settings: one message with buttons, which is edited into the page that a press asks for.

What a press brings back names a page, and what was chosen there.
All of it in the store's thread, within a batch's transaction.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.gateway.effects import Effect, Opened
from services.gateway.manner import Preferences
from services.gateway.store import Store
from services.gateway.texts import LANGUAGES, Language, language_of, say
from services.wire import Button, Update

CHOICES: dict[str, tuple[str, ...]] = {
    "language": ("", *LANGUAGES),
    "style": ("", "precise", "creative"),
    "length": ("", "short", "long"),
    "streaming": ("on", "off"),
    "reasoning": ("on", "off"),
    "steering": ("on", "off"),
}
"""What can be chosen of each preference, by the names of the preferences; "" is the default."""

SWITCHES = ("streaming", "reasoning", "steering")

MOST_SHOWN = 200
"""Characters of the user's own words to the model: the menu must stay one message."""


def language_for(update: Update, chosen: Preferences) -> Language:
    """Choose the language for a user: theirs, or that of their client."""
    return language_of(chosen.language or update.language)


class Menu:
    """What each user can choose, and what they have chosen."""

    def __init__(
        self, store: Store, personas: Sequence[str] = (), models: Sequence[str] = ()
    ) -> None:
        """`personas`, `models`: the names of those that users can choose.

        The first model is the default; one alone is no choice.
        """
        self._store = store
        self._choices = CHOICES | ({"persona": ("", *personas)} if personas else {})
        if len(models) > 1:
            self._choices = {**self._choices, "model": tuple(models)}

    def open(self, update: Update, language: Language, effects: list[Effect]) -> None:
        """Send the menu."""
        text, buttons = self._page("", update.user_id, language)
        reply = self._store.add_menu((update.chat_id, update.thread_id), update.user_id, text)
        effects.append(Opened(self._store.set_buttons(reply, *buttons)))

    def press(self, data: str, update: Update, language: Language) -> tuple[str, str, list[Button]]:
        """Carry a press out: what its user is told, and the page that is to be shown now.

        No page: what was pressed is not offered any more.
        """
        page, *choice = data.split(":", 2)[1:] or [""]
        user_id, notice = update.user_id, ""
        if page == "instruction":
            self.instruct(user_id, "")
            notice, page = say("saved", language), ""
        elif choice:
            if choice[0] not in self._choices.get(page, ()):
                return say("too late", language), "", []
            self._choose(user_id, page, choice[0])
            language = language_for(update, self._store.preferences(user_id))
            notice, page = say("saved", language), ""
        text, buttons = self._page(page, user_id, language)
        return notice, text, [] if page == "close" else buttons

    def instruct(self, user_id: int, instruction: str) -> None:
        """Keep a user's own words to the model."""
        self._save(user_id, instruction=instruction)

    def _choose(self, user_id: int, page: str, choice: str) -> None:
        self._save(user_id, **{page: choice == "on" if page in SWITCHES else choice})

    def _save(self, user_id: int, **changes: Any) -> None:
        chosen = replace(self._store.preferences(user_id), **changes)
        self._store.save_preferences(user_id, chosen)

    def _page(self, page: str, user_id: int, language: Language) -> tuple[str, list[Button]]:
        chosen = self._store.preferences(user_id)
        if page in self._choices:
            current = self._current(chosen, page)
            buttons = [
                _button(
                    ("✓ " if choice == current else "") + _label(page, choice, language),
                    page, choice,
                )
                for choice in self._choices[page]
            ]  # fmt: skip
            return say(f"choose {page}", language), [
                *buttons,
                _button(say("back", language), ""),
            ]
        lines = [
            f"{say(page, language)}: {_label(page, self._current(chosen, page), language)}"
            for page in self._choices
        ]
        buttons = [_button(say(page, language), page) for page in self._choices]
        if chosen.instruction:
            words = " ".join(chosen.instruction.split())
            shown = words[:MOST_SHOWN] + ("…" if len(words) > MOST_SHOWN else "")
            lines.append(say("instruction", language, text=shown))
            buttons.append(_button(say("no instruction", language), "instruction"))
        buttons.append(_button(say("done", language), "close"))
        return say("settings", language) + "\n\n" + "\n".join(lines), buttons

    def _current(self, chosen: Preferences, page: str) -> str:
        value = getattr(chosen, page)
        if page == "model" and value not in self._choices[page]:
            return self._choices[page][0]
        return value if isinstance(value, str) else "on" if value else "off"


def _label(page: str, choice: str, language: Language) -> str:
    if page in ("persona", "model") and choice:
        return choice  # in the operator's words
    if page == "language" and choice:
        return say("own name", choice)
    return say(f"{page} {choice}".strip() if choice else f"{page} default", language)


def _button(label: str, page: str, *choice: str) -> Button:
    return Button(label=label, data=":".join(("set", page, *choice)))
