"""The checker of the fault suite catches each offence that is put into a good run."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.checker import Verdict, judge
from tests.faults.evidence import Evidence
from tests.stubs.engine.essay import essay

USER, STRANGER = 1001, 6661
HELP = "Write to me.\n\n/help — this text"


class Telegram:
    """Records as the stub makes them, for one user and one stranger."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.chats: dict[int, dict[str, Any]] = {
            number: {"messages": [], "deleted": []} for number in (USER, STRANGER)
        }
        self._ids = itertools.count(1)

    def judge(self) -> Verdict:
        return judge(Evidence(copy.deepcopy(self.entries), self.chats), {USER})

    def say(self, text: str, user_id: int = USER) -> int:
        number = self._add(user_id, text, is_bots=False)
        self._enter("say", user_id, message_id=number, text=text)
        return number

    def edit(self, number: int, text: str) -> None:
        self.message(number)["text"] = text
        self._enter("edit", USER, message_id=number, text=text)

    def press(self, number: int) -> None:
        self._enter("press", USER, message_id=number, data="stop:1", callback_query_id="77")

    def send(self, text: str = "…", reply_to: int | None = None, chat_id: int = USER) -> int:
        """A call of the bot that sends a message."""
        number = self._add(chat_id, text, is_bots=True, reply_to=reply_to)
        self._call("sendmessage", chat_id, {"message_id": number, "text": text})
        return number

    def show(self, number: int, text: str, *, grows: bool = False) -> None:
        """A call of the bot that edits a message."""
        buttons = [[{"text": "Stop", "callback_data": "stop:1"}]]
        markup = {"inline_keyboard": buttons} if grows else None
        self.message(number).update(text=text, reply_markup=markup)
        result = {"message_id": number, "text": text, "reply_markup": markup}
        self._call("editmessagetext", USER, result)

    def answer(self, question: int, text: str) -> int:
        number = self.send(reply_to=question)
        self.show(number, " ".join(text.split()[:3]), grows=True)
        self.show(number, text)
        return number

    def message(self, number: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = self.chats[USER]["messages"]
        return next(message for message in messages if message["message_id"] == number)

    def call(self, method: str, chat_id: int | str, **params: Any) -> None:
        self._call(method, chat_id, True, **params)

    def _add(self, chat_id: int, text: str, *, is_bots: bool, reply_to: int | None = None) -> int:
        number = next(self._ids)
        self.chats[chat_id]["messages"].append(
            {
                "message_id": number,
                "from_bot": is_bots,
                "text": text,
                "reply_to_message_id": reply_to,
                "reply_markup": None,
                "reactions": [],
            }
        )
        return number

    def _call(self, method: str, chat_id: int | str, result: Any, **params: Any) -> None:
        self._enter(
            "call", chat_id, method=method, params=params, outcome={"ok": True, "result": result}
        )

    def _enter(self, kind: str, chat_id: int | str, **details: Any) -> None:
        seq = len(self.entries) + 1
        entry = {"seq": seq, "kind": kind, "chat_id": str(chat_id), "user_id": chat_id}
        self.entries.append({**entry, "update_id": 1000 + seq, **details})


def question(number: int, words: int = 30) -> str:
    return f"ask 1001-{number}, {words} words please"


def answer_to(number: int, words: int = 30) -> str:
    return essay(question(number, words), 40)


def good_run() -> Telegram:
    """Three questions and their answers, one of them in two messages, and one call for help."""
    telegram = Telegram()
    asked = [telegram.say(question(n)) for n in (1, 2)]
    for n, number in enumerate(asked, start=1):
        telegram.answer(number, answer_to(n))
    long = telegram.say(question(3, 60))
    words = answer_to(3, 60).split()
    number = telegram.send(reply_to=long)
    telegram.show(number, " ".join(words[:35]))
    telegram.show(telegram.send(), " ".join(words[35:]))
    telegram.say("/help")
    telegram.show(telegram.send(), HELP)
    telegram.say("let me in", STRANGER)
    return telegram


def offences(verdict: Verdict) -> dict[str, int]:
    return {kind: len(found) for kind, found in verdict.offences().items() if found}


def test_good_run_has_no_offence() -> None:
    """What is as it should be is not blamed, and is counted."""
    verdict = good_run().judge()

    assert offences(verdict) == {}
    assert (verdict.asks, verdict.answers, verdict.commands, verdict.orphans) == (3, 3, 1, 0)


def lose_answer(telegram: Telegram) -> None:
    telegram.say(question(9))


def leave_placeholder_only(telegram: Telegram) -> None:
    telegram.send(reply_to=telegram.say(question(9)))


def leave_growing(telegram: Telegram) -> None:
    number = telegram.send(reply_to=telegram.say(question(9)))
    telegram.show(number, answer_to(9)[:40], grows=True)


def truncate(telegram: Telegram) -> None:
    telegram.answer(telegram.say(question(9)), answer_to(9).rpartition(" ")[0])


def lose_beginning(telegram: Telegram) -> None:
    telegram.answer(telegram.say(question(9)), answer_to(9).partition(" ")[2])


def lose_middle_part(telegram: Telegram) -> None:
    words = answer_to(9).split()
    number = telegram.send(reply_to=telegram.say(question(9)))
    telegram.show(number, " ".join(words[:10]))
    telegram.show(telegram.send(), " ".join(words[20:]))


def garble(telegram: Telegram) -> None:
    words = answer_to(9).split()
    words[12], words[13] = words[13], words[12]
    telegram.answer(telegram.say(question(9)), " ".join(words))


def lose_help(telegram: Telegram) -> None:
    telegram.say("/help")


def lose_reworded(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.edit(number, question(10))
    telegram.answer(number, answer_to(9))


def double_answer(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.answer(number, answer_to(9))
    telegram.answer(number, answer_to(9))


def double_part(telegram: Telegram) -> None:
    words = answer_to(9).split()
    number = telegram.send(reply_to=telegram.say(question(9)))
    telegram.show(number, " ".join(words[:15]))
    telegram.show(telegram.send(), " ".join(words[10:]))


def double_help(telegram: Telegram) -> None:
    telegram.show(telegram.send(), HELP)


def double_stop(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.say("/stop")
    telegram.answer(number, "(stopped)")
    telegram.answer(number, "(stopped)")


def swap_answers(telegram: Telegram) -> None:
    first, second = telegram.say(question(8)), telegram.say(question(9))
    telegram.answer(second, answer_to(9))
    telegram.answer(first, answer_to(8))


def help_out_of_turn(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.say("/help")
    telegram.show(telegram.send(), HELP)
    telegram.answer(number, answer_to(9))


def stale_edit(telegram: Telegram) -> None:
    number = telegram.answer(telegram.say(question(9)), answer_to(9))
    telegram.show(number, answer_to(9)[:60], grows=True)


def stale_empty_edit(telegram: Telegram) -> None:
    number = telegram.answer(telegram.say(question(9)), answer_to(9))
    telegram.show(number, "…", grows=True)


def stale_edit_of_the_last_part(telegram: Telegram) -> None:
    telegram.say("/stop")
    words = answer_to(9).split()
    number = telegram.send(reply_to=telegram.say(question(9)))
    telegram.show(number, " ".join(words[:20]))
    last = telegram.send()
    telegram.show(last, " ".join(words[20:]))
    telegram.show(last, " ".join(words[20:25]), grows=True)


def say_what_nobody_asked(telegram: Telegram) -> None:
    telegram.answer(telegram.say(question(9)), answer_to(9))
    telegram.show(telegram.send(), "By the way, buy more graphics cards.")


def answer_of_another_chat(telegram: Telegram) -> None:
    telegram.show(telegram.send(), answer_to(4711))


def stop_unasked(telegram: Telegram) -> None:
    telegram.say("/stop")
    number = telegram.say(question(9))
    telegram.answer(number, " ".join(answer_to(9).split()[:10]) + "\n\n(stopped)")


def answer_stranger(telegram: Telegram) -> None:
    telegram.send("Go away.", chat_id=STRANGER)


def type_to_stranger(telegram: Telegram) -> None:
    telegram.call("sendchataction", STRANGER, action="typing")


def react_to_stranger(telegram: Telegram) -> None:
    telegram.call("setmessagereaction", STRANGER, message_id=1)


def answer_press_of_stranger(telegram: Telegram) -> None:
    telegram._enter("press", STRANGER, message_id=1, data="stop:1", callback_query_id="78")
    telegram.call("answercallbackquery", "", callback_query_id="78")


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (lose_answer, {"lost"}),
        (leave_placeholder_only, {"lost"}),
        (leave_growing, {"lost"}),
        (truncate, {"lost"}),
        (lose_beginning, {"lost"}),
        (lose_middle_part, {"lost"}),
        (garble, {"lost"}),
        (lose_help, {"lost"}),
        (lose_reworded, {"lost"}),
        (double_answer, {"doubled"}),
        (double_part, {"doubled"}),
        (double_help, {"doubled"}),
        (double_stop, {"doubled"}),
        (swap_answers, {"out of order"}),
        (help_out_of_turn, {"out of order"}),
        (stale_edit, {"stale"}),
        (stale_empty_edit, {"stale"}),
        (stale_edit_of_the_last_part, {"stale"}),
        (say_what_nobody_asked, {"unasked"}),
        (answer_of_another_chat, {"unasked"}),
        (stop_unasked, {"unasked"}),
        (answer_stranger, {"unasked"}),
        (type_to_stranger, {"unasked"}),
        (react_to_stranger, {"unasked"}),
        (answer_press_of_stranger, {"unasked"}),
    ],
)
def test_offence_is_caught(spoil: Callable[[Telegram], None], kinds: set[str]) -> None:
    """One offence in a good run is found, and called what it is."""
    telegram = good_run()

    spoil(telegram)

    assert kinds <= set(offences(telegram.judge()))


def stop_by_command(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.say("/stop")
    telegram.answer(number, " ".join(answer_to(9).split()[:10]) + "\n\n(stopped)")


def stop_by_button(telegram: Telegram) -> None:
    number = telegram.send(reply_to=telegram.say(question(9)))
    telegram.press(number)
    telegram.show(number, "(stopped)")


def stop_too_late(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.say("/stop")
    telegram.answer(number, answer_to(9))
    telegram.say("/stop")
    telegram.show(telegram.send(), "There is nothing to stop.")


def reword_while_waiting(telegram: Telegram) -> None:
    first = telegram.say(question(8))
    second = telegram.say(question(9))
    telegram.edit(first, question(10))
    telegram.answer(first, answer_to(10))
    telegram.answer(second, answer_to(9))


def reword_while_running(telegram: Telegram) -> None:
    first = telegram.say(question(8))
    second = telegram.say(question(9))
    telegram.edit(first, question(10))
    telegram.answer(first, answer_to(8))
    telegram.answer(second, answer_to(9))
    telegram.answer(first, answer_to(10))


def orphan(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.send(reply_to=number)
    telegram.answer(number, answer_to(9))


def fail_honestly(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.answer(number, "I could not finish this answer. Please send the message again.")


def tell_that_it_sleeps(telegram: Telegram) -> None:
    number = telegram.say(question(9))
    telegram.send("I am asleep right now.", reply_to=number)
    telegram.call("setmessagereaction", USER, message_id=number)
    telegram.answer(number, answer_to(9))


@pytest.mark.parametrize(
    ("happen", "counted"),
    [
        (stop_by_command, {"stopped": 1}),
        (stop_by_button, {"stopped": 1}),
        (stop_too_late, {"stopped": 0, "answers": 4}),
        (reword_while_waiting, {"reworded": 1, "answers": 5}),
        (reword_while_running, {"reworded": 0, "answers": 6}),
        (orphan, {"orphans": 1}),
        (fail_honestly, {"answers": 3}),
        (tell_that_it_sleeps, {"notices": 1, "reactions": 1, "answers": 4}),
    ],
)
def test_what_may_be_is_counted(
    happen: Callable[[Telegram], None], counted: dict[str, int]
) -> None:
    """What the product may do is no offence, and has a figure of its own."""
    telegram = good_run()

    happen(telegram)

    verdict = telegram.judge()
    assert offences(verdict) == {}
    assert {name: getattr(verdict, name) for name in counted} == counted


def test_honest_failure_is_no_answer() -> None:
    """A failure that the user was told is reported with its question."""
    telegram = good_run()
    fail_honestly(telegram)

    assert telegram.judge().failures == [f"1001: {question(9)!r}"]


def test_reordered_updates_excuse_only_their_own_order() -> None:
    """Telegram gave these two out in any order: their answers may stand in any order."""
    telegram = good_run()
    swap_answers(telegram)
    for entry in [e for e in telegram.entries if e["kind"] == "say"][-2:]:
        telegram._enter("delivered", USER, update_id=entry["update_id"], shuffled=True)

    assert offences(telegram.judge()) == {}


def test_long_answer_with_another_between_its_messages_is_counted() -> None:
    """All of it is there, in order, but not in one piece."""
    telegram = good_run()
    long, short = telegram.say(question(8)), telegram.say(question(9))
    words = answer_to(8).split()
    telegram.show(telegram.send(reply_to=long), " ".join(words[:15]))
    telegram.answer(short, answer_to(9))
    telegram.show(telegram.send(), " ".join(words[15:]))

    verdict = telegram.judge()
    assert offences(verdict) == {}
    assert len(verdict.interleaved) == 1
