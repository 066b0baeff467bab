"""Checks that logs are sealed, where that was set up, and reach no disk in plain text."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.doctor.finding import (
    AS_ROOT,
    Check,
    Finding,
    could_not_look,
    failure,
    not_applicable,
    ok,
)
from scripts.journal import chain, setup
from scripts.journal.recipient import fingerprint_of
from scripts.lifecycle import CannotDo
from scripts.node.node import Node

LATE_SECONDS = 3600

KEY = failure(
    "logs-not-sealed",
    "Logs are not sealed: {why}.",
    "Until then they stay in memory, and the oldest are lost when it is full.",
)
LATE = failure(
    "logs-late",
    "Nothing was sealed for {minutes} minutes.",
    "See why: `systemctl status node-seal@{project}.service`; `scripts/node-admin logs once` tries "
    "again.",
)
ON_DISK = failure(
    "logs-on-disk",
    "What {service} says is written to the disk in plain text ({driver}).",
    "Call `scripts/node-admin logs seal --recipient FILE` again; bundles keep its setting "
    "where they were made with `init --logs journal`.",
)
JOURNAL = failure(
    "journal-on-disk",
    "The journal may be written to the disk: {file} is not as `logs seal` wrote it.",
    "Call `scripts/node-admin logs seal --recipient FILE` again.",
)


def look(node: Node) -> Iterator[Finding]:
    if not (node.root / setup.OWN).is_dir():
        yield not_applicable("Logs are not set up to be sealed (`logs seal`).")
        return
    for service, container in node.running.items():
        driver = str(container.raw["HostConfig"]["LogConfig"]["Type"])
        if driver not in ("journald", "none"):
            yield ON_DISK.found(service=service, driver=driver)
    if not node.tools.is_root:
        yield could_not_look("Only root sees whether the journal is sealed.", AS_ROOT)
        return
    yield from of_journal(node)


def of_journal(node: Node) -> Iterator[Finding]:
    file = setup.SYSTEM / setup.JOURNALD
    if not setup.is_written(file, setup.JOURNALD_TEXT.encode()):
        yield JOURNAL.found(file=file)
    try:
        setup.limits_of(node.root)
        fingerprint = fingerprint_of(node.root / setup.KEY, node.tools.memory)
        head = chain.read_head(chain.FOLDER / chain.HEAD)
    except CannotDo as why:
        yield KEY.found(why=why)
        return
    looked = chain.FOLDER / chain.LOOKED
    since = node.tools.now() - (looked.stat().st_mtime if looked.exists() else 0)
    if since > LATE_SECONDS:
        yield LATE.found(minutes=int(since // 60), project=node.project)
    else:
        yield ok(f"{head.sequence if head else 0} segments were sealed for the key {fingerprint}.")


CHECK = Check(
    "logs",
    "Where `logs seal` was called: whether the key is good, the last sealing is not long ago, and "
    "neither the journal nor a container's output goes to the disk.",
    (KEY, LATE, ON_DISK, JOURNAL),
    look,
)
