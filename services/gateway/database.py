"""One encrypted SQLite file: opening it, its single thread, transactions, and erasing for good.

WAL mode with full synchronisation: a transaction that has returned survives a power failure.
Encrypted at rest by SQLite3 Multiple Ciphers (ChaCha20-Poly1305), so that neither the file nor its
journal shows any text. What is deleted is overwritten (`secure_delete`), and what the journal
still holds of it goes with `truncate_journal`.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

T = TypeVar("T")


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""


class Database:
    """An open database; its methods belong into its own thread: `await db.run(db.method)`."""

    def __init__(self, file: Path, key: str, migrations: tuple[str, ...]) -> None:
        """Open or create the file, and bring it to the newest version.

        Raises StoreError if it cannot be opened with this key. `key` is 64 hex digits.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db = self._thread.submit(_open, file, key, migrations).result()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do work in the database's thread. Raises StoreError if the disk does not take it."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work, *arguments)
        except apsw.Error as error:
            raise StoreError(_remedy(error)) from None

    def close(self) -> None:
        """Close the database; whoever calls has stopped all work."""
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it ends."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A commit that failed leaves the transaction open; a full disk may have ended it.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def truncate_journal(self) -> bool:
        """Bring the journal into the file and empty it; False while a reader holds it.

        Deleted texts stand in the journal as they were until then.
        """
        with suppress(apsw.BusyError, apsw.LockedError):
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


def _open(file: Path, key: str, migrations: tuple[str, ...]) -> apsw.Connection:
    try:
        db = apsw.Connection(str(file))
        db.set_busy_timeout(5000)  # a backup, or the operator's report, may be reading
        db.pragma("cipher", "chacha20")
        db.execute(f"PRAGMA key = 'raw:{key}'")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
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
