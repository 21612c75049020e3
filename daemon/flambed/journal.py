"""The journal: facts and intents, written to disk before they are acted on, and read back at the start.

One SQLite file, and the only module that knows so. A fact is appended in memory, where it gets its number at once, and
is durable when the next `commit` returns; commits are made in groups by a thread of their own, so that the loop never
waits for the disk. The number (`seq`) is never given twice and is what the log calls `fact` and `cause`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from flambed.codec import decode, encode
from flambed.errors import FlambedError
from flambed.observed.facts import FACTS, Fact

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

_KNOWN: Final = f"({', '.join(repr(name) for name in FACTS)})"

_INSERT: Final = "INSERT INTO entry (seq, cluster, at, cause, kind, fact) VALUES (?, ?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM entry WHERE cluster = ?"
_CLAIM: Final = "INSERT INTO creator (name, uid) VALUES (?, ?)"

_Statement = tuple[str, tuple[object, ...]]


class JournalError(FlambedError):
    """The journal cannot be used, or could not be written."""

    def __init__(self, path: Path, what: str, advice: str) -> None:
        self.path = path
        super().__init__(f"the journal {path} {what}: {advice}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact in its place: its number, the cluster it is about (by id), and the number of the fact that led to it."""

    seq: int
    cluster: str
    cause: int | None
    fact: Fact

    @property
    def at(self) -> float:
        """When the fact became known, UNIX seconds."""
        return self.fact.at


class Memory(MutableMapping[str, str]):
    """What is to be known after a restart and is no fact: small texts by name. Durable after the journal's next commit."""

    def __init__(self, kept: dict[str, str], put: Callable[[str, str], None], drop: Callable[[str], None]) -> None:
        self._kept, self._put, self._drop = kept, put, drop

    def __getitem__(self, name: str) -> str:
        return self._kept[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._kept[name] = value
        self._put(name, value)

    def __delitem__(self, name: str) -> None:
        del self._kept[name]
        self._drop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class Journal:
    """The journal of one service. One service at a time may have it open; others can read the file meanwhile.

    Attributes:
        daemon_id: random, made with the file; tells the instances of this service from another one's.
        commits: how many groups were written since it was opened.
        memory: what is to be known after a restart and is no fact.
        unknown: how many entries of which kinds this version does not know; they are kept, and left out when reading.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, resources: ExitStack) -> None:
        self.path = path
        self.commits = 0
        self._connection = connection
        self._resources = resources
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: list[_Statement] = []
        self._appended = self._durable = 0  # counts of statements
        self._write: asyncio.Future[int] | None = None
        rows = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entry'").fetchall()
        self._seq: int = rows[0][0] if rows else 0
        self._creators: dict[str, int] = dict(connection.execute("SELECT name, uid FROM creator"))
        self.memory = Memory(
            dict(connection.execute("SELECT name, value FROM meta WHERE name <> 'daemon_id'")),
            lambda name, value: self._put("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, value),
            lambda name: self._put("DELETE FROM meta WHERE name = ?", name),
        )
        [(self.daemon_id,)] = connection.execute("SELECT value FROM meta WHERE name = 'daemon_id'")
        self.unknown: Counter[str] = Counter(
            dict(
                connection.execute(f"SELECT kind, count(*) FROM entry WHERE kind NOT IN {_KNOWN} GROUP BY kind")  # noqa: S608 - class names
            )
        )

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open the journal at `path`; make it (0600) and its folder (0700) where they are not there; migrate it.

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
            with _told(path, "cannot be opened"):
                connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                resources.callback(connection.close)
                _prepare(path, connection)
                return cls(path, connection, resources.pop_all())

    async def close(self) -> None:
        """Commit what is left, and release the file.

        Raises:
            JournalError: what is left could not be written; the file is released all the same.
        """
        try:
            await self.commit()
        finally:
            self._writer.shutdown()
            self._resources.close()

    def append(self, cluster: str, facts: Iterable[Fact], *, cause: int | None = None) -> tuple[Entry, ...]:
        """Give these facts of a cluster their numbers. They are durable after the next `commit`."""
        entries = []
        for fact in facts:
            kind, text = encode(fact)
            self._seq += 1
            self._put(_INSERT, self._seq, cluster, fact.at, cause, kind, text)
            entries.append(Entry(self._seq, cluster, cause, fact))
        return tuple(entries)

    async def commit(self) -> None:
        """Make everything durable that was appended so far. Who comes during a write shares the next one.

        Raises:
            JournalError: it could not be written. Nothing is lost: the next commit tries it again, in the same order.
        """
        target = self._appended
        while self._durable < target:
            if self._write is None:
                loop = asyncio.get_running_loop()
                self._write = loop.run_in_executor(self._writer, self._write_group, tuple(self._pending))
                self._write.add_done_callback(self._written)
            with _told(self.path, "cannot be written"):
                # A waiter that is cancelled must not take the others' write with it.
                await asyncio.shield(self._write)

    def claim(self, creator: str, uid: int) -> int:
        """Return the uid that this creator belongs to: the first one that used it. Durable after the next `commit`."""
        if creator not in self._creators:
            self._creators[creator] = uid
            self._put(_CLAIM, creator, uid)
        return self._creators[creator]

    def claims(self) -> Mapping[str, int]:
        """Return the uid that each creator belongs to."""
        return dict(self._creators)

    def owner(self, creator: str) -> int | None:
        """Return the uid that this creator belongs to, or None where nobody used it yet."""
        return self._creators.get(creator)

    def forget(self, cluster: str) -> None:
        """Remove all entries of a cluster, with the next `commit`. Its creator's owner stays."""
        self._put(_FORGET, cluster)

    def load(self) -> Iterator[Entry]:
        """Return all committed entries in their order.

        Raises:
            JournalError: an entry cannot be read.
        """
        return self._select({}, limit=-1)

    def clusters(self) -> list[str]:
        """Return the ids of the clusters with committed entries, the oldest first."""
        with self._reading() as connection:
            return [
                row[0] for row in connection.execute("SELECT cluster FROM entry GROUP BY cluster ORDER BY min(seq)")
            ]

    async def entries(
        self, *, cluster: str | None = None, since: float | None = None, after_seq: int = 0, limit: int = 1000
    ) -> list[Entry]:
        """Return the first `limit` committed entries after a number, of one cluster or all, from `since` (UNIX s) on.

        Raises:
            JournalError: an entry cannot be read.
        """
        where = {"seq > ?": after_seq, "cluster = ?": cluster, "at >= ?": since}
        wanted = {condition: value for condition, value in where.items() if value is not None}
        return await asyncio.to_thread(lambda: list(self._select(wanted, limit=limit)))

    def _put(self, statement: str, *values: object) -> None:
        self._pending.append((statement, values))
        self._appended += 1

    def _write_group(self, group: Sequence[_Statement]) -> int:
        with self._connection:  # commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, values in group:
                self._connection.execute(statement, values)
        return len(group)

    def _written(self, write: asyncio.Future[int]) -> None:
        # Called before any waiter goes on: they find what is durable by now, and no write under way.
        self._write = None
        if write.exception() is None:
            self.commits += 1
            self._durable += write.result()
            del self._pending[: write.result()]

    def _select(self, where: Mapping[str, object], limit: int) -> Iterator[Entry]:
        conditions = " AND ".join((f"kind IN {_KNOWN}", *where))
        query = f"SELECT seq, cluster, cause, kind, fact FROM entry WHERE {conditions} ORDER BY seq LIMIT ?"  # noqa: S608 - constants
        with self._reading() as connection:
            for seq, cluster, cause, kind, text in connection.execute(query, (*where.values(), limit)):
                try:
                    yield Entry(seq, cluster, cause, decode(kind, text))
                except ValidationError as error:
                    # Without the values: a cluster's user data is none of a log's business.
                    wrong = "; ".join(
                        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                        for problem in error.errors(include_input=False, include_url=False)
                    )
                    raise JournalError(
                        self.path,
                        f"has an entry that cannot be read ({seq}, {kind} of cluster {cluster}: {wrong})",
                        "run the version of flambed that wrote it, or restore the file from a backup",
                    ) from None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own that sees what is committed: readers and the writer do not wait for each other."""
        with _told(self.path, "cannot be read"):
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            with closing(connection):
                yield connection


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        advice = _ADVICE.get(primary, "see to its disk, its folder and their permissions")
        raise JournalError(path, f"{what} ({error})", advice) from error


_DAMAGED: Final = (
    "restore it from a backup, or move it away: clusters that run go on, and are found by their tags at their next `up`"
)
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_BUSY: "another program keeps it locked: end that one",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


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
