"""The file of the journal: opening it, keeping others out, its schema, and what SQLite's errors mean."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flambed.errors import FlambedError

APPLICATION_ID: Final = int.from_bytes(b"flbd")
"""What marks an SQLite file as a journal of flambed's."""

MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """CREATE TABLE entry (
               seq     INTEGER PRIMARY KEY AUTOINCREMENT,  -- a forgotten cluster's numbers are not given again
               cluster TEXT NOT NULL,
               at      REAL NOT NULL,                      -- UNIX seconds
               cause   INTEGER,                            -- the seq of the fact that led to this one
               kind    TEXT NOT NULL,
               fact    TEXT NOT NULL                       -- JSON
           ) STRICT""",
        "CREATE INDEX entry_of_cluster ON entry (cluster, seq)",
        "CREATE TABLE creator (name TEXT PRIMARY KEY, uid INTEGER NOT NULL) STRICT",
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
        "INSERT INTO meta VALUES ('daemon_id', lower(hex(randomblob(8))))",
    ),
    (
        """CREATE TABLE checkpoint (
               cluster TEXT PRIMARY KEY,
               seq     INTEGER NOT NULL,                   -- the last entry that is folded into it
               at      REAL NOT NULL,                      -- when that became known, UNIX seconds
               world   TEXT NOT NULL                       -- JSON
           ) STRICT""",
        """CREATE TABLE audit (                            -- what is left of entries that are no more
               seq     INTEGER PRIMARY KEY,
               cluster TEXT NOT NULL,
               at      REAL NOT NULL,
               cause   INTEGER,
               event   TEXT NOT NULL,                      -- its name in the catalogue
               told    TEXT NOT NULL                       -- JSON: what the log tells of it
           ) STRICT""",
        "CREATE INDEX audit_of_cluster ON audit (cluster, seq)",
    ),
)
"""What leads from each schema version to the next, beginning with the empty file; only ever added to."""

_MOST_LOG: Final = 4 << 20
"""Bytes that the write-ahead log keeps of the disk at rest; one large transaction can make it longer for a while."""

_INCREMENTAL: Final = 2
"""SQLite's word for an auto_vacuum that gives free pages back to the disk when it is told to."""

_DAMAGED: Final = (
    "restore it from a backup, or move it away: clusters that run go on, and are found by their tags at their next `up`"
)
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_BUSY: "another program keeps it locked: end that one",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


class JournalError(FlambedError):
    """The journal cannot be used, or could not be written."""

    def __init__(self, path: Path, what: str, advice: str) -> None:
        self.path, self.what, self.advice = path, what, advice
        super().__init__(f"the journal {path} {what}: {advice}")


@contextmanager
def open_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the journal at `path`, for this process alone, and yield the connection that writes to it.

    It is made (0600), and so is its folder (0700), where they are not there; and brought to the newest schema.

    Raises:
        JournalError: another service has it open, others may write to its folder, a newer version wrote it, it is
            something else or damaged, or the disk refuses.
    """
    with ExitStack() as resources:
        try:
            _make_folder(path)
            resources.callback(os.close, _lock(path))
            # SQLite's own locks would be lost if this file were closed while a connection stands: so, before.
            os.close(_open_private(path))
        except OSError as error:
            raise JournalError(path, f"cannot be opened ({error.strerror})", "see to its folder") from error
        with told(path, "cannot be opened"):
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            resources.callback(connection.close)
            _prepare(path, connection)
        yield connection


@contextmanager
def read_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that sees what is committed: readers and the writer do not wait for each other."""
    with told(path, "cannot be read"), closing(_reader(path)) as connection:
        yield connection


@contextmanager
def examine_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a journal that may be anybody's: nothing is written, and a service may go on writing.

    One of an older schema is copied into memory, and brought to the newest one there.

    Raises:
        JournalError: there is none, or it is none that this version can use; see `open_file`.
    """
    if path.is_dir():
        raise JournalError(path, "is a folder", f"name the file in it, such as {path / 'journal.sqlite'}")
    if not path.is_file():
        raise JournalError(path, "is not there", "name the file, or the service's --state-dir or --config")
    with told(path, "cannot be read"), ExitStack() as resources:
        connection = resources.enter_context(closing(_reader(path)))
        version = _check(path, connection)
        if version == 0:
            what = "is empty, or was copied from a running service without its -wal"
            raise JournalError(path, what, "name another file, or copy it with sqlite3's .backup")
        if version < len(MIGRATIONS):
            copy = resources.enter_context(closing(sqlite3.connect(":memory:", isolation_level=None)))
            connection.backup(copy)
            _migrate(copy, version)
            connection = copy
        connection.execute("BEGIN")  # one view of it all, however long it takes
        yield connection


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise refused(path, what, error) from error


def refused(path: Path, what: str, error: sqlite3.Error) -> JournalError:
    """Return SQLite's error as ours."""
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    advice = _ADVICE.get(primary, "see to its disk, its folder and their permissions")
    return JournalError(path, f"{what} ({error})", advice)


def _make_folder(path: Path) -> None:
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o022:
        raise JournalError(path, "lies in a folder that others may write to", f"`chmod 700 {folder}`, or name another")


def _open_private(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)  # SQLite gives the files beside it the same mode
    return descriptor


def _lock(path: Path) -> int:
    """Take the lock that ends with this process, however it ends; the file says who holds it."""
    descriptor = _open_private(path.with_suffix(".lock"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        os.close(descriptor)
        advice = "stop that one, or name another state folder for this one"
        raise JournalError(path, f"is in use by another flambed, {holder}", advice) from None
    started = datetime.now(UTC).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {started}".encode(), 0)
    return descriptor


def _reader(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError as error:
        connection.close()
        # A copy in a folder that cannot be written to: SQLite cannot make its -shm there. Without a -wal none is needed.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Check that this is a journal that this version can use, and bring it to the newest schema."""
    version = _check(path, connection)
    [(found,)] = connection.execute("PRAGMA quick_check(1)")
    if found != "ok":
        raise JournalError(path, f"is damaged ({found})", _DAMAGED)
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")  # of a new file; another one has to be written anew
    [(mode,)] = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise JournalError(path, f"is kept in SQLite's mode {mode!r}, not WAL", "put the state folder on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_MOST_LOG}")
    _migrate(connection, version)
    [(vacuum,)] = connection.execute("PRAGMA auto_vacuum")
    if vacuum != _INCREMENTAL:
        connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
        connection.execute("VACUUM")


def _check(path: Path, connection: sqlite3.Connection) -> int:
    """Return the schema version of what should be a journal: 0 for an empty file.

    Raises:
        JournalError: it is none, or a newer one.
    """
    [(mark,)] = connection.execute("PRAGMA application_id")
    [(version,)] = connection.execute("PRAGMA user_version")
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_schema")
    if mark != APPLICATION_ID and (mark or version or tables):
        raise JournalError(path, "is a database of another program", "name another file or state folder")
    if version > len(MIGRATIONS):
        what = f"was written by a newer flambed (schema {version}; this version knows {len(MIGRATIONS)})"
        raise JournalError(path, what, "run that version, or restore the journal from before the upgrade")
    return int(version)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a journal from this schema version to the newest, each step of it wholly or not at all."""
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
