"""One encrypted SQLite file: opening it, its single thread, transactions, and erasing for good.

WAL mode with full synchronisation: a transaction that has returned survives a power failure. What
waits for the thread at one moment is committed together (group commit): the disk is waited for
once, and each piece of work hears of its result only then.
Encrypted at rest by SQLite3 Multiple Ciphers (ChaCha20-Poly1305), so that neither the file nor its
journal shows any text. What is deleted is overwritten (`secure_delete`), and what the journal
still holds of it goes with `truncate_journal`.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw

T = TypeVar("T")

JOURNAL_PAGES = 1000
"""So many pages of the journal are brought into the file; SQLite's own default."""

MOST_JOURNAL_PAGES = 10 * JOURNAL_PAGES
"""A journal that has grown so long, because it never was at rest, is waited for: 40 MB."""


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""


Order = Literal["first", "as it came", "not overtaken"]


@dataclass(eq=False)
class _Job:
    """Work for the database's thread, and where its result goes."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    order: Order
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None

    def is_wanted(self) -> bool:
        """Tell whether somebody still waits for it; from then on it cannot be cancelled."""
        return self.future.set_running_or_notify_cancel()

    def do(self, surroundings: AbstractContextManager[None]) -> None:
        """Do it, and keep what comes of it."""
        try:
            with surroundings:
                self.result = self.work(*self.arguments)
        except BaseException as error:
            # Whatever it is, it belongs to whoever has handed the work over.
            self.error = error

    def settle(self, lost: BaseException | None = None) -> None:
        """Let whoever waits go on; `lost`: why the disk did not take what was done."""
        if error := self.error or lost:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.result)


class Database:
    """An open database; its methods belong into its own thread: `await db.run(db.method)`."""

    def __init__(self, file: Path, key: str, migrations: tuple[str, ...]) -> None:
        """Open or create the file, and bring it to the newest version.

        Raises StoreError if it cannot be opened with this key. `key` is 64 hex digits.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._lock = threading.Lock()
        """Of the jobs that wait."""
        self._jobs: list[_Job] = []
        self._is_group = False
        self._db = self._thread.submit(_open, file, key, migrations).result()
        self._journal = self._thread.submit(_Journal, self._db, file, key).result()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do work in the database's thread; when this returns, what it wrote is on the disk.

        Work is done in the order in which it was handed over. Raises StoreError if the disk does
        not take it, then nothing of it was written; any other error of the work undoes it alone.
        """
        return await self._hand_over("as it came", work, *arguments)

    async def run_in_order(self, work: Callable[..., T], *arguments: Any) -> T:
        """As `run`, but what is urgent does not overtake this: it is to see what this writes."""
        return await self._hand_over("not overtaken", work, *arguments)

    async def run_first(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do urgent work before what waits, and without waiting for the disk.

        It is for what is read, and for what a power failure may take back. Raises StoreError.
        """
        return await self._hand_over("first", work, *arguments)

    async def _hand_over(self, order: Order, work: Callable[..., T], *arguments: Any) -> T:
        job = _Job(work, arguments, order)
        with self._lock:
            self._jobs.append(job)
            is_first = len(self._jobs) == 1
        if is_first:
            self._thread.submit(self._serve)
        try:
            return await asyncio.wrap_future(job.future)
        except apsw.Error as error:
            raise StoreError(_remedy(error)) from None

    def close(self) -> None:
        """Close the database; whoever calls has stopped all work."""
        self._journal.close()
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it ends, or when the group ends that it is in."""
        if self._is_group:
            with self._savepoint():
                yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A commit that failed leaves the transaction open; a full disk may have ended it.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # From here on: in the database's thread.

    def _serve(self) -> None:
        """Do all that waits."""
        with self._lock:
            jobs, self._jobs = self._jobs, []
        try:
            group: list[_Job] = []
            for job in _arrange(jobs):
                is_apart = job.work == self.truncate_journal  # it cannot be within a transaction
                if job.order != "first" and not is_apart:
                    group.append(job)
                    continue
                self._run_group(group)
                group = []
                if is_apart:
                    self._run_alone(job)
                else:
                    self._run_unsynchronised(job)
            self._run_group(group)
        except BaseException as error:
            # Whatever it is: nobody may wait for ever.
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            raise

    def _run_unsynchronised(self, job: _Job) -> None:
        """What is committed so is synchronised with the next commit that is."""
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            self._run_alone(job)
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def _run_alone(self, job: _Job) -> None:
        if job.is_wanted():
            job.do(nullcontext())
            job.settle()

    def _run_group(self, jobs: Sequence[_Job]) -> None:
        """Do each within a savepoint of one transaction; none is settled before its commit."""
        if len(jobs) <= 1:
            for job in jobs:
                self._run_alone(job)
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except apsw.Error:
            # The disk takes nothing at all: what only reads is done, the others say why.
            for job in jobs:
                self._run_alone(job)
            return
        before = self._db.total_changes()
        done: list[_Job] = []
        lost: BaseException | None = None
        left = deque(jobs)
        self._is_group = True
        while left and not lost:
            job = left.popleft()
            if not job.is_wanted():
                continue
            job.do(self._savepoint())
            if not self._db.in_transaction:  # a full disk has ended it
                lost = job.error or apsw.AbortError("the transaction is gone")
            if not lost and self._db.total_changes() == before:
                job.settle()  # it has neither seen nor written anything that may be lost
            else:
                done.append(job)
        self._is_group = False
        lost = lost or self._commit()
        for job in done:
            job.settle(lost)
        self._run_group([*left])

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._db.execute("SAVEPOINT job")
        try:
            yield
            self._db.execute("RELEASE job")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO job")
                self._db.execute("RELEASE job")
            raise

    def _commit(self) -> apsw.Error | None:
        """Commit; returns the error if the disk does not take it."""
        try:
            self._db.execute("COMMIT")
        except apsw.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return error
        return None

    def truncate_journal(self) -> bool:
        """Bring the journal into the file and empty it; False while a reader holds it.

        Deleted texts stand in the journal as they were until then.
        """
        with self._journal.lock, suppress(apsw.BusyError, apsw.LockedError):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return True
        return False

    def bytes(self) -> int:
        """Count what all pages of the file take."""
        (size,) = self._row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        )
        return int(size)

    def copy_to(self, file: Path) -> None:
        """Write what is committed into a new file, encrypted with the same key, without free pages.

        Others may write meanwhile: the copy is of the moment when it began. Raises StoreError.
        """
        try:
            self._db.execute("VACUUM INTO ?", (str(file),))
        except apsw.Error as error:
            raise StoreError(f"copying the store: {_remedy(error)}") from None

    def check(self) -> int:
        """Read every page and every index. Returns the version. Raises StoreError."""
        try:
            found = [row[0] for row in self._db.execute("PRAGMA integrity_check(1)")]
            if found != ["ok"]:
                raise apsw.CorruptError
            return int(self._db.pragma("user_version"))
        except apsw.Error as error:
            raise StoreError(f"checking the store: {_remedy(error)}") from None

    def _row(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        return next(iter(self._db.execute(sql, values)))


def _arrange(jobs: Sequence[_Job]) -> list[_Job]:
    """Let what is urgent overtake the others, but for those that it may not."""
    order: list[_Job] = []
    overtaken: list[_Job] = []
    for job in jobs:
        match job.order:
            case "first":
                order.append(job)
            case "as it came":
                overtaken.append(job)
            case "not overtaken":
                order += [*overtaken, job]
                overtaken = []
    return order + overtaken


class _Journal:
    """Brings what is committed from the journal into the file, while the thread goes on.

    SQLite would do so within a commit, now and then, which then takes tens of milliseconds.
    """

    def __init__(self, db: apsw.Connection, file: Path, key: str) -> None:
        try:
            self._db = _connect(file, key)
        except apsw.Error as error:
            raise StoreError(f"opening the store {file}: {_remedy(error)}") from None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self.lock = threading.Lock()
        """Two cannot do this at once: SQLite refuses the second, and does not wait."""
        self._is_called = False
        db.set_wal_hook(self._note)

    def close(self) -> None:
        """End what goes on."""
        self._thread.shutdown()
        self._db.close()

    def _note(self, db: apsw.Connection, _name: str, pages: int) -> int:
        """After each commit, in the database's thread."""
        if pages >= MOST_JOURNAL_PAGES:
            self._copy(db)
        elif pages >= JOURNAL_PAGES and not self._is_called:
            self._is_called = True
            self._thread.submit(self._copy, self._db)
        return apsw.SQLITE_OK

    def _copy(self, db: apsw.Connection) -> None:
        self._is_called = False
        # What cannot be copied now stays in the journal, and the next commit tries again.
        with self.lock, suppress(apsw.Error):
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def _connect(file: Path, key: str) -> apsw.Connection:
    db = apsw.Connection(str(file))
    db.set_busy_timeout(5000)  # a backup, or the operator's report, may be reading
    db.pragma("cipher", "chacha20")
    db.execute(f"PRAGMA key = 'raw:{key}'")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


def _open(file: Path, key: str, migrations: tuple[str, ...]) -> apsw.Connection:
    try:
        db = _connect(file, key)
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA temp_store = MEMORY")
        if [row[0] for row in db.execute("PRAGMA quick_check(1)")] != ["ok"]:
            raise apsw.CorruptError  # found now rather than in the middle of an answer
        _migrate(db, migrations)
    except apsw.Error as error:
        raise StoreError(f"opening the store {file}: {_remedy(error)}") from None
    return db


def _migrate(db: apsw.Connection, migrations: tuple[str, ...]) -> None:
    version = int(db.pragma("user_version"))
    if version > len(migrations):
        raise StoreError(
            f"the store has version {version}, newer than this gateway's {len(migrations)}: "
            "start the newer gateway, or restore an older backup"
        )
    for number, migration in enumerate(migrations[version:], start=version + 1):
        with db:
            db.execute(migration)
            db.execute(f"PRAGMA user_version = {number}")


def _remedy(error: apsw.Error) -> str:
    match error:
        case apsw.NotADBError():
            return "the key does not fit or the file is damaged: check the secret store_key"
        case apsw.CorruptError():
            return "the file is damaged: restore a backup"
        case apsw.FullError():
            return "the disk is full: make room"
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return "it cannot be written: check that the volume belongs to user 10003"
        case apsw.CantOpenError():
            return "it cannot be opened: check that its directory exists and belongs to user 10003"
        case _:
            return f"{type(error).__name__}: check the disk"
