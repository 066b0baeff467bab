"""Owns the doing: keep what is there, arm the way back, write, check, reload, set, and wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scripts.harden import rollback
from scripts.harden.host import Failed, Host, Refused
from scripts.harden.part import File
from scripts.harden.plan import Change
from scripts.harden.settings import Settings, as_text
from scripts.harden.snapshot import ORIGINAL, PENDING, Snapshot, write
from scripts.harden.states import put

DOING_SECONDS = 1800
"""How long the doing itself may take; then the way back is gone in any case."""

Say = Callable[[str], None]


def carry_out(
    host: Host, changes: Sequence[Change], settings: Settings, seconds: int, say: Say
) -> str:
    """Do it, and let it wait for its confirmation; returns the id by which it waits.

    Raises Failed: then all is as before, or the message says what is not. The lock is the caller's.
    """
    pending = Snapshot(host, PENDING)
    try:
        keep(pending, changes, settings)
        rollback.arm(host, DOING_SECONDS + seconds)
        do(host, changes, say)
        rollback.arm(host, seconds)
        pending.remember(applied=rollback.now(host), boot=rollback.boot_id(host))
    except (Refused, Failed, OSError, KeyboardInterrupt) as why:
        problems = rollback.take_back(host)
        what = str(why) or "interrupted"
        if problems:
            raise Failed(f"{what}; and not all is as before: {'; '.join(problems)}") from None
        raise Failed(f"{what}; all is as before") from None
    return str(pending.note("id"))


def keep(pending: Snapshot, changes: Sequence[Change], settings: Settings) -> None:
    """Everything that will be touched, as it is. Raises Refused, OSError."""
    pending.take(
        [file.path for change in changes for file in change.files]
        + [entry.path for change in changes for entry in change.back],
        [(it.kind, it.name, now) for change in changes for it, now in change.states],
        [
            command
            for change in changes
            if change.files or change.back
            for command in change.part.reloads
        ],
        settings=as_text(settings),
    )


def do(host: Host, changes: Sequence[Change], say: Say) -> None:
    original = Snapshot(host, ORIGINAL)
    for change in changes:
        for file in change.files:
            say(f"writing {file.path}")
            place(host, file)
        for entry in change.back:
            say(f"restoring {entry.path}")
            original.restore_file(entry)
    for change in changes:
        say(f"checking {change.part.name}")
        change.part.check(host)
    host.do("systemctl", "daemon-reload")
    for change in changes:
        if change.files or change.back:
            for command in change.part.reloads:
                is_script = "\n" in command[-1]
                say(f"waiting for {change.part.name}" if is_script else " ".join(command))
                host.do(*command)
    for change in changes:
        for state, _ in change.states:
            say(f"setting {state}")
            put(host, state.kind, state.name, state.wanted)


def place(host: Host, file: File) -> None:
    """Put a file in its place; one that is amended keeps its mode and owner. Raises OSError."""
    path = host.path(file.path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    mode, owner = file.mode, None
    if mode is None:
        mode = 0o644
        if path.exists():
            status = path.stat()
            mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
    write(path, file.content.encode(), mode, owner)
