"""Checks that the engine serves: by its container's health check, which asks it over its socket."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, ok, warning
from scripts.doctor.states import last_words, moment
from scripts.node.node import Node

SERVICE = "engine"

DOWN = failure(
    "engine-down",
    "The engine does not run. It said last: {words}",
    "Mend what it says (WEIGHTS must name a folder in the volume of weights); asks "
    "wait meanwhile, or go to another machine's.",
)
ILL = failure(
    "engine-ill",
    "The engine runs and does not answer on its socket.",
    "Restart it: `docker restart {name}`; if it comes again, its log says why (memory, usually: "
    "lower CONTEXT_TOKENS or ENGINE_SLOTS).",
)
LOADING = warning(
    "engine-loading",
    "The engine has been loading for {age} s.",
    "Wait: large weights take minutes; `docker logs -f {name}` shows how far it is.",
)


def look(node: Node) -> Iterator[Finding]:
    engine = node.containers.get(SERVICE)
    if engine is None or not engine.is_running:
        yield DOWN.found(words=last_words(node, engine) if engine else "nothing.")
    elif engine.health == "unhealthy":
        yield ILL.found(name=engine.name)
    elif engine.health == "starting":
        age = node.tools.now() - moment(str(engine.raw["State"]["StartedAt"]))
        yield LOADING.found(age=round(age), name=engine.name)
    else:
        yield ok("The engine answers on its socket.")


CHECK = Check(
    "engine",
    "On the model node and on workers: whether the engine answers, by its container's own health "
    "check.",
    (DOWN, ILL, LOADING),
    look,
)
