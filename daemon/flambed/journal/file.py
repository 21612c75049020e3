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
)
"""What leads from each schema version to the next, beginning with the empty file; only ever added to."""

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
        self.path = path
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
    with told(path, "cannot be read"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        with closing(connection):
            yield connection


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        advice = _ADVICE.get(primary, "see to its disk, its folder and their permissions")
        raise JournalError(path, f"{what} ({error})", advice) from error


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


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Check that this is a journal that this version can use, and bring it to the newest schema."""
    [(mark,)] = connection.execute("PRAGMA application_id")
    [(version,)] = connection.execute("PRAGMA user_version")
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_schema")
    if mark != APPLICATION_ID and (mark or version or tables):
        raise JournalError(path, "is a database of another program", "name another state folder")
    if version > len(MIGRATIONS):
        what = f"was written by a newer flambed (schema {version}; this version knows {len(MIGRATIONS)})"
        raise JournalError(path, what, "run that version, or restore the journal from before the upgrade")
    [(found,)] = connection.execute("PRAGMA quick_check(1)")
    if found != "ok":
        raise JournalError(path, f"is damaged ({found})", _DAMAGED)
    [(mode,)] = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise JournalError(path, f"is kept in SQLite's mode {mode!r}, not WAL", "put the state folder on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
