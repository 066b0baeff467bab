"""A backup is whole, encrypted, and of one moment; what is restored goes on without repeating."""

import asyncio
import contextlib
import hashlib
import io
import json
import shutil
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import apsw
import pytest

from services.gateway import backup, restore
from services.gateway.database import Database
from services.gateway.restore import Order
from services.gateway.schema import MIGRATIONS
from services.gateway.store import Piece, Store, StoreError
from tests.unit.fakes import KEY, USER, open_store

CHAT = (USER, 0)
CANARY = "quetzalcoatlus"
OTHER_KEY = "f" * 64


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as store:
        yield store


def take(folder: Path) -> tuple[dict[str, Any], bytes]:
    """A backup of the store in this folder: its description, and the copy."""
    out = io.BytesIO()
    backup.write(folder / "store.db", KEY, out)
    line, _, copy = out.getvalue().partition(b"\n")
    return json.loads(line), copy


def order(description: dict[str, Any], **changed: Any) -> Order:
    fields = {name: description[name] for name in ("bytes", "sha256")}
    defaults = {"key": KEY, "final": False, "replace": False, "present_key": KEY}
    return Order(**{**fields, **defaults, **changed})


async def ask(store: Store, text: str = CANARY, part: int = 0, message_id: int = 5) -> int:
    """One ask; `part`: its placeholder's message, if that is known. Returns its reply."""
    reply = await store.run(store.add_reply, CHAT, message_id)
    await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(message_id, text, 0)])
    if part:
        await store.run(store.record_part, reply.id, 0, part)
    return int(reply.id)


def fill(store: Store, turns: int) -> None:
    """A conversation of this many turns, in one transaction."""
    with store.transaction():
        for number in range(turns):
            store._db.execute(
                "INSERT INTO turns(chat_id, thread_id, role, text, created_at)"
                " VALUES(?, ?, 'user', ?, 0)",
                (*CHAT, f"{CANARY} {number} " + "x" * 5000),
            )


def restored(folder: Path, description: dict[str, Any], copy: bytes, **changed: Any) -> Any:
    """Stage and commit into a folder; what staging has said."""
    folder.mkdir(exist_ok=True)
    said = restore.stage(folder / "store.db", order(description, **changed), io.BytesIO(copy))
    if not said["already"]:
        restore.commit(folder / "store.db")
    return said


async def test_backup_under_writes_is_whole_and_of_one_moment(store: Store, tmp_path: Path) -> None:
    """It has all that was committed before it began, opens with the key, and not without."""
    await store.run(fill, store, 200)
    begun, ended = threading.Event(), threading.Event()

    def write_on() -> int:
        """As another process does: in a connection of its own, until the backup has ended."""
        other = Store(tmp_path / "store.db", KEY)
        written = 0
        while not ended.is_set() or written < 3:
            other.add_guest(10_000 + written)
            written += 1
            begun.set()
        other.close()
        return written

    writing = asyncio.get_running_loop().run_in_executor(None, write_on)
    await asyncio.to_thread(begun.wait)
    description, copy = await asyncio.to_thread(take, tmp_path)
    ended.set()
    assert await writing > 2

    assert CANARY.encode() not in copy
    assert not copy.startswith(b"SQLite format 3")
    (tmp_path / "copy.db").write_bytes(copy)
    with pytest.raises(StoreError, match="key does not fit"):
        Store(tmp_path / "copy.db", OTHER_KEY)
    with pytest.raises(apsw.NotADBError):
        apsw.Connection(str(tmp_path / "copy.db")).execute("SELECT * FROM asks")
    copied = Store(tmp_path / "copy.db", KEY)
    assert copied.check() == description["schema"] == len(MIGRATIONS)
    assert len(copied.latest_turns(CHAT, 999)) == 200
    guests = copied.guests()
    assert list(guests) == list(range(10_000, 10_000 + len(guests))), "without a gap"
    copied.close()
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"store.db", "store.db-wal", "store.db-shm", "copy.db", "backup.lock"}


async def test_backup_holds_nothing_that_was_deleted(store: Store, tmp_path: Path) -> None:
    """Neither pages that are free, nor the journal, go with it."""
    await store.run(fill, store, 100)
    _, full = take(tmp_path)
    await store.run(store.forget_chat, CHAT)

    _, emptied = take(tmp_path)

    assert len(emptied) < len(full) / 4


def test_one_backup_at_a_time(tmp_path: Path) -> None:
    """A second one says so; a copy that a killed one has left is no obstacle."""
    Store(tmp_path / "store.db", KEY).close()
    (tmp_path / "store.db.copy").write_bytes(b"of a process that was killed")
    with (
        backup._only_one(tmp_path / "store.db"),
        pytest.raises(StoreError, match="another backup"),
    ):
        take(tmp_path)

    assert take(tmp_path)[0]["bytes"] > 0


def test_backup_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store, the key that fits, room: one sentence each, and nothing is left."""
    with pytest.raises(StoreError, match="start the gateway first"):
        take(tmp_path)
    Store(tmp_path / "store.db", KEY).close()
    with pytest.raises(StoreError, match="key does not fit"):
        backup.write(tmp_path / "store.db", OTHER_KEY, io.BytesIO())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1))
    with pytest.raises(StoreError, match="make room"):
        take(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"store.db", "backup.lock"}


async def test_restored_store_goes_on(store: Store, tmp_path: Path) -> None:
    """Into an empty place: asks whose placeholder is known are answered in it."""
    known = await ask(store, part=70)
    description, copy = take(tmp_path)

    said = restored(tmp_path / "new", description, copy)

    assert (said["asks"], said["put"], said["left_out"]) == (1, 0, 0)
    async with open_store(tmp_path / "new") as again:
        (waiting,) = await again.run(again.asks)
        assert (waiting.reply_id, waiting.text) == (known, CANARY)
        (reply,) = await again.run(again.undelivered_replies)
        assert reply.parts == (70,)


async def test_nothing_is_answered_twice(store: Store, tmp_path: Path) -> None:
    """What may have been sent since without its message being known is not sent again by itself.

    The user of such an ask may have it tried again; a complete reply is left out.
    """
    unknown = await ask(store)
    closed = await store.run(store.add_reply, CHAT, 6)
    await store.run(store.close_reply, closed.id, "Welcome.")
    description, copy = take(tmp_path)

    said = restored(tmp_path / "new", description, copy)

    assert (said["asks"], said["put"], said["left_out"]) == (0, 1, 1)
    async with open_store(tmp_path / "new") as again:
        (reply,) = await again.run(again.undelivered_replies)
        assert (reply.id, reply.closed) == (unknown, True)
        assert reply.buttons[0].data.startswith("retry:")
        failed = await again.run(again.failed_ask, None, USER, CHAT)
        assert failed
        assert failed.text == CANARY


async def test_final_backup_goes_on_with_all(store: Store, tmp_path: Path) -> None:
    """The gateway was stopped before it, so nothing was said since."""
    await ask(store)
    description, copy = take(tmp_path)

    said = restored(tmp_path / "new", description, copy, final=True)

    assert (said["asks"], said["put"], said["left_out"]) == (1, 0, 0)


async def test_no_number_is_given_twice(store: Store, tmp_path: Path) -> None:
    """Neither of asks, replies nor streams: the relay may still know those that were lost."""
    await ask(store, part=70)
    epoch = await store.run(store.next_epoch)
    description, copy = take(tmp_path)
    lost = [await ask(store, message_id=number) for number in range(6, 16)]
    lost_epochs = [await store.run(store.next_epoch) for _ in range(10)]

    restored(tmp_path / "new", description, copy)

    async with open_store(tmp_path / "new") as again:
        assert await ask(again, message_id=99) > max(lost)
        assert await again.run(again.next_epoch) > max(lost_epochs) > epoch
        newest = (await again.run(again.asks))[-1]
        assert newest.id > len(lost) + 1


async def test_first_numbers_of_a_fresh_store_are_skipped_too(tmp_path: Path) -> None:
    """A backup that was taken before the first ask knows no numbers yet."""
    Store(tmp_path / "store.db", KEY).close()
    description, copy = take(tmp_path)

    restored(tmp_path / "new", description, copy)

    async with open_store(tmp_path / "new") as again:
        assert await ask(again) > 1000


async def test_another_store_is_not_replaced_by_itself(store: Store, tmp_path: Path) -> None:
    """Only when told to; it is kept until all is done, and comes back by `undo`."""
    await ask(store, part=70)
    description, copy = take(tmp_path)
    place = tmp_path / "new"
    place.mkdir()
    async with open_store(place) as present:
        await ask(present, "present")
    for key in (KEY, OTHER_KEY, ""):
        with pytest.raises(StoreError, match="--replace"):
            restored(place, description, copy, present_key=key)
    assert {path.name for path in place.iterdir()} == {"store.db"}

    restored(place, description, copy, replace=True)

    async with open_store(place) as again:
        assert [it.text for it in await again.run(again.asks)] == [CANARY]
    restore.undo(place / "store.db")
    async with open_store(place) as back:
        assert [it.text for it in await back.run(back.asks)] == ["present"]
    restored(place, description, copy, replace=True)
    restore.finish(place / "store.db")
    assert {path.name for path in place.iterdir()} == {"store.db"}


async def test_journal_of_a_replaced_store_goes_with_it(store: Store, tmp_path: Path) -> None:
    """A gateway that was killed has left one: its successor must not read it, `undo` must."""
    await ask(store, part=70)
    description, copy = take(tmp_path)
    place = tmp_path / "new"
    place.mkdir()
    alive = Store(place / "store.db", KEY)
    alive.add_guest(77)
    killed = {path.name: path.read_bytes() for path in place.iterdir()}
    alive.close()
    for name, content in killed.items():
        (place / name).write_bytes(content)
    assert (place / "store.db-wal").stat().st_size > 0

    restored(place, description, copy, replace=True, present_key="")

    async with open_store(place) as again:
        assert again.guests() == ()
    restore.undo(place / "store.db")
    async with open_store(place) as back:
        assert back.guests() == (77,)


class PowerLost(BaseException):
    """The machine is off."""


def power_lasts(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many changes to folders happen, and none after them."""
    left = [steps]
    for name in ("replace", "unlink", "hardlink_to"):
        original = getattr(Path, name)

        def change(path: Path, *given: Any, original: Any = original, **more: Any) -> Any:
            if not left[0]:
                raise PowerLost
            left[0] -= 1
            return original(path, *given, **more)

        monkeypatch.setattr(Path, name, change)


@pytest.mark.parametrize("step", ["commit", "undo"])
@pytest.mark.parametrize("steps", range(5))
async def test_store_and_its_journal_come_back_wherever_it_was_interrupted(
    store: Store, tmp_path: Path, step: str, steps: int
) -> None:
    """A machine that loses its power in the middle, and a gateway that was killed before."""
    description, copy = take(tmp_path)
    place = tmp_path / "new"
    place.mkdir()
    file = place / "store.db"
    alive = Store(file, KEY)
    alive.add_guest(77)
    killed = {path.name: path.read_bytes() for path in place.iterdir()}
    alive.close()
    for name, content in killed.items():
        (place / name).write_bytes(content)
    (place / "store.db-shm").unlink()
    said = order(description, replace=True, present_key="")
    restore.stage(file, said, io.BytesIO(copy))
    if step == "undo":
        restore.commit(file)

    with pytest.MonkeyPatch.context() as patched:
        power_lasts(steps, patched)
        with contextlib.suppress(PowerLost):
            {"commit": restore.commit, "undo": restore.undo}[step](file)
    restore.undo(file)

    assert {path.name for path in place.iterdir()} == {"store.db", "store.db-wal"}
    async with open_store(place) as back:
        assert back.guests() == (77,)


async def test_restoring_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    """What has been said since stays."""
    await ask(store, part=70)
    description, copy = take(tmp_path)
    place = tmp_path / "new"
    restored(place, description, copy)
    restore.finish(place / "store.db")
    async with open_store(place) as again:
        await ask(again, "since")

    assert restored(place, description, copy) == {"already": True}

    async with open_store(place) as again:
        assert [it.text for it in await again.run(again.asks)] == [CANARY, "since"]


async def test_store_that_nobody_used_is_replaced(store: Store, tmp_path: Path) -> None:
    """A gateway that was started once on a new machine is no obstacle."""
    await ask(store, part=70)
    description, copy = take(tmp_path)
    place = tmp_path / "new"
    place.mkdir()
    async with open_store(place) as fresh:
        await fresh.run(fresh.next_epoch)

    assert restored(place, description, copy)["asks"] == 1


@pytest.mark.parametrize("damage", ["short", "long", "bit"])
async def test_damaged_backup_changes_nothing(store: Store, tmp_path: Path, damage: str) -> None:
    """Neither store nor staged file is left of it."""
    await ask(store)
    description, copy = take(tmp_path)
    damaged = {"short": copy[:-1], "long": copy + b"x", "bit": copy[:-1] + b"\xff"}[damage]
    damaged = damaged if damaged != copy else copy[:-1] + b"\x00"

    with pytest.raises(StoreError, match="damaged"):
        restored(tmp_path / "new", description, damaged)

    assert list((tmp_path / "new").iterdir()) == []


async def test_backup_that_the_key_does_not_open_changes_nothing(
    store: Store, tmp_path: Path
) -> None:
    """The archive's key is not that of its store: said before anything is replaced."""
    description, copy = take(tmp_path)

    with pytest.raises(StoreError, match="key does not fit"):
        restored(tmp_path / "new", description, copy, key=OTHER_KEY)

    assert list((tmp_path / "new").iterdir()) == []


def test_newer_backup_is_refused(tmp_path: Path) -> None:
    """An older gateway says which one is wanted."""
    newer = (*MIGRATIONS, "CREATE TABLE tomorrow(x);")
    Database(tmp_path / "newer.db", KEY, newer).close()
    copy = (tmp_path / "newer.db").read_bytes()
    description = {"bytes": len(copy), "sha256": hashlib.sha256(copy).hexdigest()}

    with pytest.raises(StoreError, match="start the newer gateway"):
        restored(tmp_path / "new", description, copy)

    assert list((tmp_path / "new").iterdir()) == []


async def test_steps_can_be_repeated(store: Store, tmp_path: Path) -> None:
    """Whoever was interrupted calls them again."""
    await ask(store, part=70)
    description, copy = take(tmp_path)
    file = tmp_path / "new" / "store.db"
    file.parent.mkdir()
    with pytest.raises(StoreError, match="nothing is staged"):
        restore.commit(file)
    restore.undo(file)
    for _ in range(2):
        restore.stage(file, order(description), io.BytesIO(copy))
    restore.commit(file)
    for _ in range(2):
        restore.undo(file)  # there was no store before: the restored one stays
        restore.finish(file)

    assert {path.name for path in file.parent.iterdir()} == {"store.db"}


async def test_copy_is_kept_before_an_upgrade(store: Store, tmp_path: Path) -> None:
    """`undo` brings back what was there then; what an interrupted call has kept is not replaced."""
    await ask(store, "before")
    backup.keep(tmp_path / "store.db", KEY)
    await ask(store, "after")
    with pytest.raises(StoreError, match="call again what was interrupted"):
        backup.keep(tmp_path / "store.db", KEY)
    await store.run(store.truncate_journal)

    (tmp_path / "new").mkdir()
    for name in ("store.db", "store.db.kept"):
        shutil.copy(tmp_path / name, tmp_path / "new" / name)
    restore.undo(tmp_path / "new" / "store.db")

    async with open_store(tmp_path / "new") as back:
        assert [it.text for it in await back.run(back.asks)] == ["before"]


def test_order_that_is_none_is_refused() -> None:
    """Whoever calls the step by hand is told how it is called."""
    for line in (b"", b"{}\n", b"[]\n", b'{"key": "00"}\n'):
        with pytest.raises(StoreError, match="by its command"):
            restore.read_order(line)
