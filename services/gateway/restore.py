"""Puts a backup in the store's place, in steps that can each be repeated, and undone.

`stage` reads a line of JSON (`Order`) and the backup from stdin, writes it beside the store, checks
it, and makes it fit to go on from; the gateway may run meanwhile. For the others it must not:
`commit` puts it in the store's place, `undo` takes that back, `done` removes the store that was
replaced. Keys come by stdin alone.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from services.gateway.backup import PIECE_BYTES, check_room, kept_beside
from services.gateway.buttons import retry_button
from services.gateway.database import StoreError
from services.gateway.settings import check_key
from services.gateway.store import NOTHING, Store
from services.gateway.texts import say

STORE_FILE = Path("/var/lib/gateway/store.db")

MOST_ORDER_BYTES = 4096


@dataclass(frozen=True)
class Order:
    """What is to be restored, and how."""

    key: str
    """The backup's."""
    bytes: int
    sha256: str
    final: bool
    """Whether nothing was answered since: the gateway was stopped before the backup."""
    replace: bool
    """Whether another store may be replaced."""
    present_key: str = ""
    """That of the store that is there, as far as anybody knows."""


def main() -> int:
    """Do one step; `stage` prints what it found as JSON. Returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="restore", description=__doc__)
    parser.add_argument("step", choices=["stage", "commit", "undo", "done"])
    step = parser.parse_args().step
    os.umask(0o077)
    try:
        if step == "stage":
            line = sys.stdin.buffer.readline(MOST_ORDER_BYTES)
            print(json.dumps(stage(STORE_FILE, read_order(line), sys.stdin.buffer)))
        else:
            {"commit": commit, "undo": undo, "done": finish}[step](STORE_FILE)
    except (StoreError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def read_order(line: bytes) -> Order:
    """Read the first line of stdin. Raises StoreError."""
    try:
        order = Order(**json.loads(line))
        check_key(order.key)
    except (TypeError, ValueError):
        raise StoreError("no order came before the backup: call this by its command") from None
    return order


def stage(file: Path, order: Order, source: IO[bytes]) -> Mapping[str, Any]:
    """Write, check and prepare the backup beside the store.

    Returns `schema`, how many `asks` go on, how many are `put` to their users again, and how many
    replies were `left_out`; or `already`: the store that is there began as this very backup.
    Raises StoreError.
    """
    mark = int(order.sha256[:15], 16)
    if _judge_present(file, order, mark):
        return {"already": True}
    incoming = _incoming(file)
    _remove(incoming)
    try:
        _receive(source, order, incoming)
        store = Store(incoming, order.key)
        try:
            schema = store.check()
            counted = _prepare(store, mark, is_final=order.final)
        finally:
            store.close()
    except BaseException:
        _remove(incoming)
        raise
    return {"already": False, "schema": schema, **counted}


def commit(file: Path) -> None:
    """Put what was staged in the store's place, which is kept. Raises StoreError."""
    incoming, kept = _incoming(file), kept_beside(file)
    if not incoming.exists():
        raise StoreError("nothing is staged: begin again")
    if file.exists() and not kept.exists():
        kept.hardlink_to(file)
    if kept.exists() and kept.samefile(file):
        # Its journal is a part of it, and must not be taken for that of its successor.
        _move(_journal(file), _journal(kept))
    _remove_journal(file)
    incoming.replace(file)
    _sync(file.parent)


def undo(file: Path) -> None:
    """Put the store that was kept back into its place; without one, nothing has happened."""
    kept = kept_beside(file)
    if kept.exists() and kept.samefile(file):
        _move(_journal(kept), _journal(file))  # interrupted before anything took its place
        kept.unlink()
    elif kept.exists():
        _remove_journal(file)
        kept.replace(file)
    if not _journal(file).exists():
        _move(_journal(kept), _journal(file))  # also where an earlier call was interrupted here
    _sync(file.parent)
    _remove(_incoming(file))


def finish(file: Path) -> None:
    """Remove what was kept and what was staged."""
    _remove(kept_beside(file))
    _remove(_incoming(file))


def _judge_present(file: Path, order: Order, mark: int) -> bool:
    """Tell whether the store that is there began as this backup.

    Raises StoreError if it is another one, which is not to be replaced.
    """
    if not file.exists():
        return False
    is_known = False
    if order.present_key:
        try:
            store = Store(file, order.present_key)
        except StoreError:
            pass  # not ours to open: another one, then
        else:
            try:
                if store.restored_from() == mark and not order.replace:
                    return True
                is_known = store.is_unused()
            finally:
                store.close()
    if not is_known and not order.replace:
        raise StoreError(
            "there is a store already, and it is not this backup: give --replace to lose what it "
            "has and the backup has not"
        )
    return False


def _receive(source: IO[bytes], order: Order, incoming: Path) -> None:
    check_room(incoming.parent, 2 * order.bytes)
    digest, left = hashlib.sha256(), order.bytes
    with incoming.open("xb") as out:
        while left and (piece := source.read(min(left, PIECE_BYTES))):
            out.write(piece)
            digest.update(piece)
            left -= len(piece)
        os.fsync(out.fileno())
    if left or source.read(1) or digest.hexdigest() != order.sha256:
        raise StoreError("the backup came damaged: nothing was changed; take another copy of it")


def _prepare(store: Store, mark: int, *, is_final: bool) -> dict[str, int]:
    """Let the store go on where nobody knows what was said since.

    An ask whose placeholder is known is answered in it, whatever stands there by now. One without
    may have been answered since: its user is asked whether to try again. A complete reply without
    a placeholder may have been sent since: it is left out.
    """
    store.skip_numbers(mark)
    put = left_out = 0
    asks = {ask.reply_id: ask for ask in store.asks()}
    for reply in [] if is_final else store.undelivered_replies():
        if reply.parts:
            continue
        if ask := asks.get(reply.id):
            language = ask.language
            store.fail_ask(ask, say("failed", language), retry_button(ask, language), NOTHING)
            put += 1
        else:
            store.drop_reply(reply.id, is_shown=False)
            left_out += 1
    return {"asks": len(asks) - put, "put": put, "left_out": left_out}


def _incoming(file: Path) -> Path:
    return file.with_name(f"{file.name}.incoming")


def _journal(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _remove(file: Path) -> None:
    _remove_journal(file)
    file.unlink(missing_ok=True)


def _remove_journal(file: Path) -> None:
    _journal(file).unlink(missing_ok=True)
    file.with_name(f"{file.name}-shm").unlink(missing_ok=True)


def _move(file: Path, to: Path) -> None:
    if file.exists():
        file.replace(to)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
