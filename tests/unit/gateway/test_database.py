"""What waits for the store at one moment is committed together, and promised only then."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from services.gateway import database
from services.gateway.database import Database, StoreError
from tests.unit.fakes import KEY, until

TABLE = ("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL)",)


class Notes(Database):
    """A database of texts, that counts its commits."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, KEY, TABLE)
        self.commits = 0
        self.refuses = False
        self.at_commit: Callable[[], None] = lambda: None
        self._db.set_commit_hook(self._count)

    def _count(self) -> bool:
        self.commits += 1
        self.at_commit()
        return self.refuses  # SQLite makes a rollback of the commit

    def write(self, text: str, error: Exception | None = None) -> str:
        """A transaction of its own."""
        with self.transaction():
            self._db.execute("INSERT INTO notes(text) VALUES(?)", (text,))
            if error:
                raise error
        return text

    def read(self) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT text FROM notes ORDER BY id")]

    def synchronous(self) -> int:
        return int(self._db.pragma("synchronous"))


@pytest.fixture
async def notes(tmp_path: Path) -> AsyncGenerator[Notes]:
    notes = Notes(tmp_path / "store.db")
    yield notes
    notes.close()


class Held:
    """The thread is busy while the block lasts: what is handed over meanwhile waits together."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._gate = threading.Event()

    async def __aenter__(self) -> None:
        begun = threading.Event()

        def hold() -> None:
            begun.set()
            assert self._gate.wait(10)

        self._holding = asyncio.create_task(self._notes.run(hold))
        await asyncio.to_thread(begun.wait, 10)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # the tasks of the block hand their work over
        self._gate.set()
        await self._holding


async def test_what_waits_is_committed_at_once_and_in_order(notes: Notes) -> None:
    """Ten writers wait for the disk once; each gets its own result, and none overtakes another."""
    texts = [str(number) for number in range(10)]
    async with Held(notes):
        tasks = [asyncio.create_task(notes.run(notes.write, text)) for text in texts]

    assert await asyncio.gather(*tasks) == texts
    assert await notes.run(notes.read) == texts
    assert notes.commits == 1


async def test_work_that_fails_is_undone_alone(notes: Notes) -> None:
    """Its error goes to whoever handed it over; what came before and after it stays."""
    async with Held(notes):
        tasks = [
            asyncio.create_task(notes.run(notes.write, text, error))
            for text, error in (("a", None), ("b", ValueError("b")), ("c", None))
        ]

    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, third) == ("a", "c")
    assert isinstance(second, ValueError)
    assert await notes.run(notes.read) == ["a", "c"]


async def test_failing_work_without_a_transaction_is_undone_too(notes: Notes) -> None:
    """In a group all that work wrote goes, not only what its own transaction holds."""

    def write_and_break() -> None:
        notes._db.execute("INSERT INTO notes(text) VALUES('half')")
        notes._db.execute("INSERT INTO nowhere VALUES(1)")

    async with Held(notes):
        broken = asyncio.create_task(notes.run(write_and_break))
        whole = asyncio.create_task(notes.run(notes.write, "whole"))

    with pytest.raises(StoreError):
        await broken
    assert await whole == "whole"
    assert await notes.run(notes.read) == ["whole"]


async def test_commit_that_fails_fails_all_that_was_in_it(notes: Notes) -> None:
    """Nobody is told that a text is kept that is not; and the way is free for the next."""
    async with Held(notes):
        tasks = [asyncio.create_task(notes.run(notes.write, text)) for text in "abc"]
        notes.refuses = True
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    notes.refuses = False

    assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
    assert await notes.run(notes.read) == []
    assert await notes.run(notes.write, "later") == "later"
    assert await notes.run(notes.read) == ["later"]


async def test_nothing_is_acknowledged_before_the_commit(notes: Notes, tmp_path: Path) -> None:
    """When the commit begins, no writer has heard of it, nor has who read what they wrote."""
    told: list[str] = []
    seen: list[tuple[list[str], list[str]]] = []
    other = Notes(tmp_path / "store.db")

    def note(task: asyncio.Task[Any]) -> None:
        told.append(task.get_name())

    async def let_it_be_heard() -> None:
        for _ in range(10):  # a result takes some turns of the event loop to its task
            await asyncio.sleep(0)

    def look() -> None:
        asyncio.run_coroutine_threadsafe(let_it_be_heard(), loop).result(10)
        seen.append((told.copy(), other.read()))

    loop = asyncio.get_running_loop()
    async with Held(notes):
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(notes.run(notes.read), name="early reader"),
            asyncio.create_task(notes.run(notes.write, "a"), name="first writer"),
            asyncio.create_task(notes.run(notes.read), name="late reader"),
            asyncio.create_task(notes.run(notes.write, "b"), name="second writer"),
        ]
        for task in tasks:
            task.add_done_callback(note)
        notes.at_commit = look
    results = await asyncio.gather(*tasks)
    notes.at_commit = lambda: None
    other.close()

    assert seen == [(["early reader"], [])]
    assert results == [[], "a", ["a"], "b"]


async def test_full_disk_that_ends_the_transaction_loses_no_promise(notes: Notes) -> None:
    """What was in it fails with it; what had not begun is done after it."""

    def end() -> None:
        notes._db.execute("ROLLBACK")
        raise apsw.FullError

    async with Held(notes):
        before = asyncio.create_task(notes.run(notes.write, "before"))
        ending = asyncio.create_task(notes.run(end))
        after = [asyncio.create_task(notes.run(notes.write, text)) for text in "xy"]

    outcomes = await asyncio.gather(before, ending, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the disk is full: make room"] * 2
    assert await asyncio.gather(*after) == ["x", "y"]
    assert await notes.run(notes.read) == ["x", "y"]


WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.unit.gateway.test_database import Notes

async def main():
    notes = Notes(Path(sys.argv[1]))

    def die():
        if notes.commits == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    notes.at_commit = die

    async def write(writer):
        for number in range(1000):
            text = f"{writer}:{number}"
            await notes.run(notes.write, text)
            os.write(1, text.encode() + b"\\n")

    await asyncio.gather(*(write(writer) for writer in range(8)))

asyncio.run(main())
"""


async def test_crash_before_a_commit_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A process that is killed between a group's work and its commit has promised none of it."""
    file = tmp_path / "store.db"
    writer = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", WRITER, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    acknowledged = writer.stdout.split()

    notes = Notes(file)
    kept = await notes.run(notes.read)
    notes.close()
    assert writer.returncode == -signal.SIGKILL, writer.stderr
    assert len(acknowledged) >= 4
    assert set(acknowledged) <= set(kept)
    for number in range(8):
        of_writer = [text for text in kept if text.startswith(f"{number}:")]
        assert of_writer == [f"{number}:{position}" for position in range(len(of_writer))]


async def test_urgent_work_goes_first_and_waits_for_no_disk(notes: Notes) -> None:
    """It overtakes what waits, is not synchronised, and leaves the next as safe as ever."""
    order: list[str] = []

    def urge() -> int:
        order.append("urgent")
        notes.write("urgent")
        return notes.synchronous()

    def write() -> int:
        order.append("other")
        notes.write("other")
        return notes.synchronous()

    async with Held(notes):
        others = [asyncio.create_task(notes.run(write)) for _ in range(2)]
        urgent = asyncio.create_task(notes.run_first(urge))

    normal, full = 1, 2
    assert await urgent == normal
    assert await asyncio.gather(*others) == [full] * 2
    assert order == ["urgent", "other", "other"]
    assert await notes.run(notes.read) == order


async def test_urgent_work_overtakes_only_what_it_may(notes: Notes) -> None:
    """What came as "not overtaken" is before it, with all that was in line before that."""
    async with Held(notes):
        tasks = [
            asyncio.create_task(notes.run(notes.write, "1")),
            asyncio.create_task(notes.run_in_order(notes.write, "2")),
            asyncio.create_task(notes.run(notes.write, "3")),
            asyncio.create_task(notes.run_first(notes.write, "urgent")),
            asyncio.create_task(notes.run_in_order(notes.write, "4")),
            asyncio.create_task(notes.run_first(notes.write, "urgent, too")),
        ]
    await asyncio.gather(*tasks)

    assert await notes.run(notes.read) == ["1", "2", "urgent", "3", "4", "urgent, too"]


async def test_urgent_work_that_fails_leaves_full_synchronisation(notes: Notes) -> None:
    """However it ends, what comes after it survives a power failure."""
    with pytest.raises(ValueError, match="broken"):
        await notes.run_first(notes.write, "x", ValueError("broken"))

    assert await notes.run(notes.synchronous) == 2
    assert await notes.run(notes.read) == []


async def test_work_that_nobody_waits_for_any_more_is_left_out(notes: Notes) -> None:
    """Who is cancelled before their turn has changed nothing."""
    async with Held(notes):
        tasks = [asyncio.create_task(notes.run(notes.write, text)) for text in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert await notes.run(notes.read) == ["a", "c"]


async def test_journal_is_emptied_in_a_crowd(notes: Notes, tmp_path: Path) -> None:
    """It cannot be within a transaction, and is not; what came before it is out of the journal."""
    async with Held(notes):
        before = [asyncio.create_task(notes.run(notes.write, text)) for text in "ab"]
        emptied = asyncio.create_task(notes.run(notes.truncate_journal))
        after = [asyncio.create_task(notes.run(notes.read)) for _ in range(2)]

    assert await asyncio.gather(*before) == ["a", "b"]
    assert await emptied
    assert await asyncio.gather(*after) == [["a", "b"]] * 2
    assert (tmp_path / "store.db-wal").stat().st_size == 0


async def test_journal_is_copied_beside_the_work(
    notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long journal is brought into the file without a commit that waits for it."""
    monkeypatch.setattr(database, "JOURNAL_PAGES", 10)
    file = tmp_path / "store.db"
    before = file.stat().st_size

    for _ in range(10):
        await notes.run(notes.write, "x" * 10_000)

    await until(lambda: file.stat().st_size > before, "the file has what the journal had")
    assert len(await notes.run(notes.read)) == 10


async def test_journal_that_never_rests_stays_bounded(
    notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the copy beside the work does not come to an end, the work waits for one."""
    monkeypatch.setattr(database, "MOST_JOURNAL_PAGES", 20)

    for _ in range(40):
        await notes.run(notes.write, "x" * 10_000)

    pages = (tmp_path / "store.db-wal").stat().st_size / 4096
    assert pages < 30
