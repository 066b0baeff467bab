"""Decides from the stub's records alone whether anything was lost, doubled or out of order.

It knows nothing of the product but what a user can see. Which answer belongs to which question it
tells by their texts: each question determines its answer (tests/stubs/engine/essay.py).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.faults.evidence import Evidence
from tests.stubs.engine.essay import essay

PLACEHOLDER = "…"
STOPPED = "(stopped)"
FAILED = re.compile(r"I could not finish this answer\..*$", re.DOTALL)
REFUSED = re.compile(r"You have \d+ messages waiting|Too many people are asking")
NOTICE = re.compile(r"I am (still )?asleep")
HELP = re.compile(r"/help — ")
NOTHING_TO_STOP = re.compile(r"There is nothing to stop")

WORDS = 40
"""Of an answer whose question names no number."""

SHINGLE = 3
"""So many words in a row are in no other answer."""


@dataclass
class Verdict:
    """What the records say. The lists hold one sentence for each offence."""

    lost: list[str] = field(default_factory=list)
    """A question, or a command, without an answer; an answer of which something is missing."""
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """A final text that an older one has replaced."""
    unasked: list[str] = field(default_factory=list)
    """Text that nobody has asked for, and anything at all that strangers got."""
    failures: list[str] = field(default_factory=list)
    """Answers of which the user was told that they failed."""
    refusals: int = 0
    asks: int = 0
    edits: int = 0
    commands: int = 0
    reworded: int = 0
    """Wordings that a later one replaced before they were answered."""
    answers: int = 0
    stopped: int = 0
    interleaved: list[str] = field(default_factory=list)
    """Long answers that stand in several messages with another answer's in between."""
    orphans: int = 0
    notices: int = 0
    reactions: int = 0

    def offences(self) -> dict[str, list[str]]:
        """Everything that must not be, by its kind."""
        return {
            "lost": self.lost,
            "doubled": self.doubled,
            "out of order": self.out_of_order,
            "stale": self.stale,
            "unasked": self.unasked,
        }


def judge(evidence: Evidence, allowed: Collection[int]) -> Verdict:
    """Judge a run that has come to rest."""
    verdict = Verdict()
    by_chat: dict[int, list[dict[str, Any]]] = defaultdict(list)
    shuffled: set[int] = set()
    presses: dict[str, int] = {}
    for entry in evidence.entries:
        if entry.get("shuffled"):
            shuffled.add(entry["update_id"])
        if entry["kind"] == "press":
            presses[str(entry["callback_query_id"])] = int(entry["user_id"])
        if entry["kind"] in ("say", "edit", "press"):
            by_chat[int(entry["chat_id"])].append(entry)
        elif entry["kind"] == "call":
            chat_id = _chat_of(entry, presses)
            by_chat[chat_id].append(entry)
            if chat_id and chat_id not in allowed:
                verdict.unasked.append(f"{entry['method']} for {chat_id}, who is a stranger")
            if entry["method"] == "setmessagereaction" and entry["outcome"].get("ok"):
                verdict.reactions += 1
    for chat_id, chat in evidence.chats.items():
        if chat_id in allowed:
            _Chat(chat_id, chat, by_chat[chat_id], shuffled, verdict).judge()
        else:
            for message in chat["messages"]:
                if message["from_bot"] or message["reactions"]:
                    verdict.unasked.append(f"stranger {chat_id} was answered")
    return verdict


def _chat_of(call: dict[str, Any], presses: dict[str, int]) -> int:
    press = str(call["params"].get("callback_query_id", ""))
    return presses.get(press, 0) or int(call["chat_id"] or 0)


@dataclass
class _Wording:
    """One wording of a question."""

    seq: int
    update_id: int
    message_id: int
    text: str
    words: list[str]
    parts: list["_Part"] = field(default_factory=list)
    outcome: str = ""
    """How it ended: `answered`, `stopped`, `failed` or `refused`; empty: it did not."""


@dataclass
class _Part:
    """A message that shows words of an answer, from a place in it on."""

    message_id: int
    start: int
    words: list[str]
    ending: str = ""
    """`stopped` or `failed`, if it says so."""


@dataclass
class _Command:
    seq: int
    update_id: int
    text: str


class _Chat:
    """One chat of a user whom the bot serves."""

    def __init__(
        self,
        chat_id: int,
        shown: dict[str, Any],
        entries: list[dict[str, Any]],
        shuffled: set[int],
        verdict: Verdict,
    ) -> None:
        self._id = chat_id
        self._verdict = verdict
        self._shuffled = shuffled
        deleted = set(shown["deleted"])
        self._messages = sorted(
            (m for m in shown["messages"] if m["from_bot"] and m["message_id"] not in deleted),
            key=lambda m: int(m["message_id"]),
        )
        self._calls = [e for e in entries if e["kind"] == "call" and e["outcome"].get("ok")]
        self._presses = [e for e in entries if e["kind"] == "press"]
        self._commands: list[_Command] = []
        self._wordings: list[_Wording] = []
        for entry in entries:
            if entry["kind"] not in ("say", "edit"):
                continue
            text = str(entry["text"]).strip()
            if text.startswith("/"):
                self._commands.append(_Command(entry["seq"], entry["update_id"], text))
                continue
            words = essay(text, WORDS).split()
            self._wordings.append(
                _Wording(entry["seq"], entry["update_id"], entry["message_id"], text, words)
            )
            verdict.asks += entry["kind"] == "say"
            verdict.edits += entry["kind"] == "edit"
        verdict.commands += len(self._commands)
        self._places = {
            tuple(wording.words[n : n + SHINGLE]): (wording, n)
            for wording in self._wordings
            for n in range(len(wording.words) - SHINGLE + 1)
        }
        self._helps: list[int] = []
        self._bare: dict[int, list[tuple[int, str]]] = defaultdict(list)
        """Endings without any word of the answer, by the message that they reply to."""

    def judge(self) -> None:
        for message in self._messages:
            self._read(message)
        for wording in self._wordings:
            self._close(wording)
        self._spread_bare_endings()
        self._judge_completeness()
        self._judge_commands()
        self._judge_order()

    # What each message is

    def _read(self, message: dict[str, Any]) -> None:
        text = str(message["text"]).strip()
        number = int(message["message_id"])
        if text == PLACEHOLDER and not _stop_button(message):
            self._verdict.orphans += 1
        elif _stop_button(message):
            if any(self._was_final(number)):
                self._verdict.stale.append(f"{self._id}/{number} was final, and grows again")
            else:
                self._verdict.lost.append(f"{self._id}/{number} has not come to its end")
        elif NOTICE.match(text):
            self._verdict.notices += 1
        elif HELP.search(text):
            self._helps.append(number)
        elif not NOTHING_TO_STOP.match(text):
            self._read_answer(message, text, number)

    def _was_final(self, number: int) -> Iterator[bool]:
        """Whether any earlier text of a message, known by its lack of a button, was an ending."""
        for call in self._calls:
            result = call["outcome"].get("result")
            if isinstance(result, dict) and result.get("message_id") == number:
                text = str(result.get("text", ""))
                yield not _stop_button(result) and text != PLACEHOLDER and self._is_end(text)

    def _is_end(self, text: str) -> bool:
        words = text.split()
        if STOPPED in words[-1:]:
            return True  # what failed is none: its user may try again in the same message
        return any(words[-SHINGLE:] == wording.words[-SHINGLE:] for wording in self._wordings)

    def _read_answer(self, message: dict[str, Any], text: str, number: int) -> None:
        ending = ""
        if text.endswith(STOPPED):
            text, ending = text.removesuffix(STOPPED).strip(), "stopped"
        elif FAILED.search(text):
            text, ending = FAILED.sub("", text).strip(), "failed"
        elif REFUSED.match(text):
            text, ending = "", "refused"
            self._verdict.refusals += 1
        words = text.split()
        reply_to = message["reply_to_message_id"]
        if not words:
            if ending and reply_to:
                self._bare[reply_to].append((number, ending))
            elif ending and self._extends_last(number, ending):
                pass
            else:
                self._verdict.unasked.append(f"{self._id}/{number} says {ending or 'nothing'!r}")
            return
        place = self._place(words, reply_to)
        if place is None:
            self._verdict.unasked.append(f"{self._id}/{number} says {' '.join(words[:4])!r}…")
            return
        wording, start = place
        wording.parts.append(_Part(number, start, words, ending))

    def _extends_last(self, number: int, ending: str) -> bool:
        """An ending that did not fit into the last message of its answer."""
        before = [part for w in self._wordings for part in w.parts if part.message_id < number]
        if not before:
            return False
        max(before, key=lambda part: part.message_id).ending = ending
        return True

    def _place(self, words: list[str], reply_to: int | None) -> tuple[_Wording, int] | None:
        found = self._places.get(tuple(words[:SHINGLE]))
        if found or len(words) >= SHINGLE:
            return found
        for wording in self._wordings:
            if reply_to in (None, wording.message_id):
                for n in range(len(wording.words)):
                    if wording.words[n : n + len(words)] == words:
                        return wording, n
        return None

    # What became of each wording

    def _close(self, wording: _Wording) -> None:
        """Put the parts of an answer together."""
        if not wording.parts:
            return
        name = f"{self._id}: {wording.text!r}"
        reached = 0
        ending = ""
        for part in wording.parts:
            if part.start < reached:
                self._verdict.doubled.append(f"{name}, message {part.message_id}")
                continue
            if part.start > reached:
                self._verdict.lost.append(f"{name}: words {reached} to {part.start} are missing")
            end = part.start + len(part.words)
            if part.words != wording.words[part.start : end]:
                self._verdict.lost.append(f"{name}: message {part.message_id} is garbled")
            reached = end
            ending = part.ending or ending
        if reached >= len(wording.words) and ending != "failed":
            wording.outcome = "answered"
        elif ending == "stopped":
            wording.outcome = "stopped"
            if not self._may_be_stopped(wording):
                self._verdict.unasked.append(f"{name} was stopped, and nobody had asked for it")
        elif ending == "failed":
            wording.outcome = "failed"
            self._verdict.failures.append(name)
        else:
            wording.outcome = "answered"  # that it is short is its one offence
            self._verdict.lost.append(f"{name}: ends after {reached} of {len(wording.words)} words")

    def _may_be_stopped(self, wording: _Wording) -> bool:
        numbers = {part.message_id for part in wording.parts}
        return any(c.seq > wording.seq and c.text == "/stop" for c in self._commands) or any(
            press["seq"] > wording.seq and press["message_id"] in numbers for press in self._presses
        )

    def _spread_bare_endings(self) -> None:
        """An ending alone belongs to a wording of the message that it replies to: the latest."""
        for message_id, endings in self._bare.items():
            open_ones = [w for w in self._wordings if w.message_id == message_id and not w.outcome]
            for number, ending in reversed(endings):
                if not open_ones:
                    self._verdict.doubled.append(f"{self._id}/{number} says {ending} once more")
                    continue
                wording = open_ones.pop()
                wording.outcome = ending
                wording.parts.append(_Part(number, 0, [], ending))
                name = f"{self._id}: {wording.text!r}"
                if ending == "failed":
                    self._verdict.failures.append(name)
                if ending == "stopped" and not self._may_be_stopped(wording):
                    self._verdict.unasked.append(f"{name} was stopped, and nobody had asked for it")

    def _judge_completeness(self) -> None:
        latest = {wording.message_id: wording for wording in self._wordings}
        for wording in self._wordings:
            self._verdict.answers += wording.outcome == "answered"
            self._verdict.stopped += wording.outcome == "stopped"
            if wording.outcome:
                continue
            if latest[wording.message_id] is wording:
                self._verdict.lost.append(f"{self._id}: {wording.text!r} has no answer")
            else:
                self._verdict.reworded += 1

    def _judge_commands(self) -> None:
        asked = sum(command.text == "/help" for command in self._commands)
        for _ in range(asked - len(self._helps)):
            self._verdict.lost.append(f"{self._id}: a /help without an answer")
        for _ in range(len(self._helps) - asked):
            self._verdict.doubled.append(f"{self._id}: more help than was asked for")

    def _judge_order(self) -> None:
        """Answers begin in the order of their questions.

        A wording that replaced earlier ones may stand in the place of any of them.
        """
        begun: list[tuple[int, list[int], str]] = []
        replaced: dict[int, list[int]] = defaultdict(list)
        for wording in self._wordings:
            places = replaced[wording.message_id]
            places.append(wording.seq)
            if wording.parts:
                first = wording.parts[0].message_id
                if wording.update_id not in self._shuffled:
                    begun.append((first, list(places), wording.text))
                places.clear()
        helps = [c for c in self._commands if c.text == "/help"]
        if not any(c.update_id in self._shuffled for c in helps):
            begun += [
                (number, [c.seq], c.text) for number, c in zip(self._helps, helps, strict=False)
            ]
        reached = 0
        for number, places, text in sorted(begun):
            later = [seq for seq in places if seq > reached]
            if later:
                reached = min(later)
            else:
                self._verdict.out_of_order.append(f"{self._id}/{number}: {text!r}")
        self._note_interleaved()

    def _note_interleaved(self) -> None:
        owner = {part.message_id: w for w in self._wordings for part in w.parts}
        for wording in self._wordings:
            if len(wording.parts) > 1:
                span = range(wording.parts[0].message_id, wording.parts[-1].message_id)
                if any(owner.get(number, wording) is not wording for number in span):
                    self._verdict.interleaved.append(f"{self._id}: {wording.text!r}")


def _stop_button(message: dict[str, Any]) -> bool:
    rows = (message.get("reply_markup") or {}).get("inline_keyboard", [])
    return any(str(b.get("callback_data", "")).startswith("stop:") for row in rows for b in row)
