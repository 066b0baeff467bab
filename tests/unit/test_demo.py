"""The demonstration tells the truth about what it shows."""

import io
from typing import Any

import pytest

from scripts.check import shell_files
from scripts.demo import hop_lines, hop_times
from scripts.screen import Screen, columns
from scripts.telegram_user import BotMessage, Said

SAID = Said(update_id=7, message_id=1, seq=0)


def entry(kind: str, time: float, **details: Any) -> dict[str, Any]:
    return {"kind": kind, "time": time, **details}


def call(method: str, time: float, text: str = "", ok: bool = True) -> dict[str, Any]:
    return entry("call", time, method=method, params={"text": text}, outcome={"ok": ok})


RECORD = [
    entry("say", 100.0, update_id=7),
    entry("delivered", 100.1, update_id=7),
    entry("delivered", 100.15, update_id=8),
    entry("confirmed", 100.2, update_id=7),
    call("sendchataction", 100.25),
    call("sendmessage", 100.3, "…"),
    call("editmessagetext", 100.35, "…"),
    call("editmessagetext", 100.4, "Pa", ok=False),
    call("editmessagetext", 100.5, "Par"),
    call("editmessagetext", 102.0, "Paris"),
]


def test_hops_stand_in_the_order_of_the_path() -> None:
    """Only what succeeded counts, and only what belongs to this question."""
    times = hop_times(SAID, RECORD)

    assert [(hop.split(":")[0], at) for hop, at in times.items()] == [
        ("sent", 100.0),
        ("update handed to the relay", 100.1),
        ("update confirmed", 100.2),
        ("placeholder in the chat", 100.3),
        ("first words in the chat", 100.5),
        ("final answer in the chat", 102.0),
    ]


def test_hops_are_told_with_the_engines_figures() -> None:
    """Every line has the time since the question and since the hop before."""
    answered = {"queue_ms": 3, "first_token_ms": 150, "engine_ms": 1000, "tokens": 30}

    lines = list(hop_lines(SAID, RECORD, answered))

    assert "     2000 ms  final answer in the chat (+1500)" in lines
    assert "     1000 ms  until its last (30 tokens, 30 tokens/s)" in lines


@pytest.mark.parametrize(
    ("text", "buttons", "is_final", "why"),
    [
        ("…", (), False, "a placeholder"),
        ("Par", ("stop:1",), False, "still written: it has a stop button"),
        ("Paris", (), True, "nothing left to stop"),
        ("Paris", ("again:1", "more:1"), True, "what is offered now is another answer"),
    ],
)
def test_answer_is_final_when_it_cannot_be_stopped(
    text: str, buttons: tuple[str, ...], is_final: bool, why: str
) -> None:
    """The demonstration ends with the whole answer, not with a part of it."""
    assert BotMessage(1, text, buttons).is_final is is_final, why


def test_terminal_names_what_it_cannot_show() -> None:
    """A file, a photo, and buttons, once the answer stands."""
    asked = BotMessage(1, "Erase?", ("forget", "keep"), ("Erase it", "Keep it"))
    growing = BotMessage(1, "It is", ("stop:7",), ("Stop",))

    assert asked.described == "Erase?\nbuttons: [Erase it] [Keep it]"
    assert growing.described == "It is"
    assert BotMessage(1, "Here.", attachment="file a.md").described == "[file a.md]\nHere."


class Terminal(io.StringIO):
    """Remembers what was written, and claims to be a terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


def test_growing_answer_is_continued_and_not_repeated() -> None:
    """What stands on the screen already is not written again."""
    out = Terminal()
    screen = Screen(out)

    for text, is_final in [("Pa", False), ("Paris", False), ("Paris.", True)]:
        screen.show([(text, is_final)])

    assert out.getvalue() == "bot> Paris.\n"


def test_changed_answer_is_drawn_anew_in_place() -> None:
    """A status gives way to the text."""
    out = Terminal()
    screen = Screen(out)

    screen.show([("…", False)])
    screen.show([("Paris", True), ("Second", True)])

    assert out.getvalue() == "bot> …\r\x1b[Jbot> Paris\nbot> Second\n"


def test_without_a_terminal_only_finished_messages_are_written() -> None:
    """A pipe gets each message once."""
    out = io.StringIO()
    screen = Screen(out)

    screen.show([("Pa", False)])
    screen.show([("Paris", True), ("an", False)])
    screen.show([("Paris", True), ("another", True)])

    assert out.getvalue() == "bot> Paris\nbot> another\n"


def test_wide_characters_take_two_columns() -> None:
    """Erasing depends on how many rows a text took."""
    assert columns("héllo") == 5
    assert columns("日本") == 4
    assert columns("e\u0301") == 1


def test_shell_files_are_found_by_their_first_line() -> None:
    """Scripts without an ending are checked as well."""
    files = shell_files()

    assert {"scripts/demo", "scripts/test", "wireguard/sidecar"} <= set(files)
    assert not any(name.endswith((".py", ".yml")) for name in files)
