"""What the stub engine is told to do: speed, content and faults, checked when they are set."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tests.stubs.engine.essay import essay

FaultKind = Literal[
    "status",  # an HTTP error instead of an answer
    "refuse",  # the connection is closed without an answer
    "hang",  # after `after_tokens` nothing more comes, and the connection stays open
    "cut",  # after `after_tokens` the connection breaks
    "garbage",  # after `after_tokens` comes a line that is no JSON; then the answer goes on
    "error",  # after `after_tokens` comes vLLM's error event, then the end of the stream
    "slow",  # after `after_tokens` every further token takes `seconds`
    "context_overflow",  # vLLM's answer to a question that does not fit
]


class BadScript(Exception):
    """The script is wrong: correct what the sentence names."""


@dataclass(frozen=True)
class Fault:
    kind: FaultKind
    after_tokens: int = 0
    status: int = 500
    seconds: float = 1.0
    count: int | None = None
    """How many requests it befalls, the next ones; None: all."""


@dataclass(frozen=True)
class Content:
    """Exactly one of the four."""

    text: str | None = None
    words: int | None = None
    essay: int | None = None
    echo: bool = False

    def answer(self, question: str) -> str:
        if self.text is not None:
            return self.text
        if self.words is not None:
            return " ".join(f"word{n}" for n in range(1, self.words + 1))
        if self.essay is not None:
            return essay(question, self.essay)
        return question


@dataclass(frozen=True)
class Rule:
    """Content for questions that contain a substring; the first rule that fits counts."""

    contains: str
    content: Content


@dataclass(frozen=True)
class Script:
    speed: float | None = None
    """Tokens per second of each answer; None: as fast as possible."""
    jitter: float = 0.0
    """0 to 1: how much of the time between two tokens is random; the mean stays."""
    first_token_seconds: float = 0.0
    content: Content = field(default_factory=lambda: Content(echo=True))
    rules: Sequence[Rule] = ()
    fault: Fault | None = None

    def answer(self, question: str) -> str:
        for rule in self.rules:
            if rule.contains in question:
                return rule.content.answer(question)
        return self.content.answer(question)


def parse_script(body: Any) -> Script:
    """Read the JSON of POST /control/script; what is left out has its default."""
    values = _pick(Script, body)
    script = dataclasses.replace(
        Script(),
        **values
        | {
            "content": _parse_content(values.get("content", "echo")),
            "rules": [
                Rule(rule["contains"], _parse_content(rule["content"]))
                for rule in (_pick(Rule, rule) for rule in values.get("rules", []))
            ],
            "fault": _parse_fault(values.get("fault")),
        },
    )
    if script.speed is not None and script.speed <= 0:
        raise BadScript("speed: give tokens per second above 0, or null")
    if not 0 <= script.jitter <= 1:
        raise BadScript("jitter: give 0 to 1")
    return script


def _parse_content(body: Any) -> Content:
    if body == "echo":
        return Content(echo=True)
    if isinstance(body, dict) and len(body) == 1:
        return Content(**_pick(Content, body))
    raise BadScript('content: give "echo", {"text": TEXT}, {"words": NUMBER} or {"essay": NUMBER}')


def _parse_fault(body: Any) -> Fault | None:
    if body is None:
        return None
    fault = Fault(**_pick(Fault, body))
    if fault.kind not in get_args(FaultKind):
        raise BadScript(f"fault: its kind is one of {', '.join(get_args(FaultKind))}")
    return fault


def _pick(kind: type[Any], body: Any) -> dict[str, Any]:
    known = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(body, Mapping) or not set(body) <= known:
        raise BadScript(f"{kind.__name__}: give an object with some of {', '.join(sorted(known))}")
    return dict(body)


def split_tokens(text: str) -> list[str]:
    """Cut a text into the stub's tokens: words with the white space before them. None is lost."""
    return re.findall(r"\s*\S+|\s+$", text)
