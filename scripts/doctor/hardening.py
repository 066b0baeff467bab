"""Checks that containers are as the Compose files want them, and processes as Docker says.

Compares every property that isolation rests on: what Compose resolves its files to, with what
Docker says of the container; then, for root, with what the kernel says of its first process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scripts.doctor.finding import AS_ROOT, Check, Finding, could_not_look, failure, ok, warning
from scripts.node.node import Container, Node
from scripts.node.properties import actual_properties, wanted_properties
from scripts.node.tools import CannotLook

DIFFERS = failure(
    "container-differs",
    "{service}: {property} is {actual}, and should be {wanted} by the Compose files.",
    "Make the container anew: `docker compose … up -d --force-recreate {service}`; if you changed "
    "the files on purpose, that takes the change over.",
)
MORE = failure(
    "process-may-more",
    "The first process of {service} has {property}.",
    "Make the container anew: `docker compose … up -d --force-recreate {service}`; if it comes "
    "again, look for settings of the daemon that weaken all containers.",
)
NO_SECCOMP = warning(
    "process-unfiltered",
    "The system calls of {service} are not filtered.",
    "Use a kernel and a Docker with seccomp: `docker info` lists it under Security Options.",
)

CAPABILITIES = {"SETGID": 6, "SETUID": 7, "SETPCAP": 8, "NET_ADMIN": 12, "NET_RAW": 13}
"""Bits of those that a Compose file of ours may name (capabilities(7))."""


def look(node: Node) -> Iterator[Finding]:
    files = ", ".join(f"{name} {digest[:12]}" for name, digest in node.digests.items())
    yield ok(f"Compared with {files}.")
    for service, container in node.running.items():
        found = list(of_container(node, service, container))
        yield from found
        if not found:
            count = len(wanted_properties(node, service, container))
            yield ok(f"{service} has all {count} properties as the Compose files want them.")
    if not node.tools.is_root:
        yield could_not_look("Only root sees what the processes really may.", AS_ROOT)


def of_container(node: Node, service: str, container: Container) -> Iterator[Finding]:
    actual = actual_properties(node, container)
    for name, wanted in wanted_properties(node, service, container).items():
        if actual[name] != wanted:
            yield DIFFERS.found(
                service=service, property=name, **told_apart(name, wanted, actual[name])
            )
    if node.tools.is_root:
        yield from of_process(node, service, container)


def told_apart(name: str, wanted: Any, actual: Any) -> dict[str, str]:
    """The two sides of a difference in words, without what they have in common."""
    if isinstance(wanted, Mapping) and isinstance(actual, Mapping):
        keys = sorted(key for key in {*wanted, *actual} if wanted.get(key) != actual.get(key))
        if name == "environment":  # values are settings, and no business of a report
            return {"actual": f"different in {', '.join(keys)}", "wanted": "as set"}
        wanted = {key: wanted.get(key) for key in keys}
        actual = {key: actual.get(key) for key in keys}
    elif isinstance(wanted, frozenset) and isinstance(actual, frozenset):
        wanted, actual = wanted - actual, actual - wanted
    return {"actual": in_words(actual), "wanted": in_words(wanted)}


def in_words(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(map(in_words, value))) or "nothing more"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {in_words(it)}" for key, it in value.items())
    return str(value) if value not in ("", None) else "nothing"


def of_process(node: Node, service: str, container: Container) -> Iterator[Finding]:
    status = process_status(node, container)
    may = 0
    for name in node.services[service].get("cap_add") or []:
        may |= 1 << CAPABILITIES[name.removeprefix("CAP_")]
    for field in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        extra = int(status[field], 16) & ~may
        if extra:
            yield MORE.found(service=service, property=f"capabilities {extra:#x} in {field}")
    if status["NoNewPrivs"] != "1":
        yield MORE.found(service=service, property="a way to gain privileges")
    if status.get("Seccomp", "0") == "0":
        yield NO_SECCOMP.found(service=service)


def process_status(node: Node, container: Container) -> dict[str, str]:
    path = node.tools.proc / str(container.pid) / "status"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise CannotLook(f"{container.name} ended meanwhile") from None
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


CHECK = Check(
    "hardening",
    "Whether capabilities, mounts, ports, networks, user, limits and the rest of each container "
    "are what `docker compose config` says (the files' digests are shown), and whether the kernel "
    "gives the container's first process no more than that.",
    (DIFFERS, MORE, NO_SECCOMP),
    look,
)
