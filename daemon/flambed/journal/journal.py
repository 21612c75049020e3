"""Appending in memory, committing in groups, reading back.

A fact gets its number at once and is durable when the next `commit` returns; commits are made in groups by a thread of
their own, so that the loop never waits for the disk. The number (`seq`) is never given twice and is what the log calls
`fact` and `cause`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from flambed.codec import decode, encode
from flambed.journal.file import JournalError, open_file, read_file, told
from flambed.observed.facts import FACTS, Fact

_KNOWN: Final = f"({', '.join(repr(name) for name in FACTS)})"

_INSERT: Final = "INSERT INTO entry (seq, cluster, at, cause, kind, fact) VALUES (?, ?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM entry WHERE cluster = ?"
_CLAIM: Final = "INSERT INTO creator (name, uid) VALUES (?, ?)"

_Statement = tuple[str, tuple[object, ...]]


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
        self._write: asyncio.Task[None] | None = None
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
        """Open the journal at `path`; make it where there is none, and bring it up to date.

        Raises:
            JournalError: it cannot be opened, or must not be; see `open_file`.
        """
        with ExitStack() as resources:
            connection = resources.enter_context(open_file(path))
            with told(path, "cannot be opened"):
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
                self._write = asyncio.create_task(self._write_pending(), name="journal")
                # Its error is every waiter's; where all of them were cancelled, the next commit meets it again.
                self._write.add_done_callback(lambda write: write.cancelled() or write.exception())
            with told(self.path, "cannot be written"):
                # A waiter that is cancelled must not take the others' write with it.
                await asyncio.shield(self._write)

    def claim(self, creator: str, uid: int) -> int:
        """Return the uid that this creator belongs to: the first one that used it. Durable after the next `commit`."""
        if creator not in self._creators:
            self._creators[creator] = uid
            self._put(_CLAIM, creator, uid)
        return self._creators[creator]

    def claims(self) -> dict[str, int]:
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
        with read_file(self.path) as connection:
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

    async def _write_pending(self) -> None:
        # All is accounted for before this task is done: who looks at it then finds no write under way, and cannot be
        # made to wait for one that has ended.
        try:
            group = tuple(self._pending)
            written = await asyncio.get_running_loop().run_in_executor(self._writer, self._write_group, group)
            self.commits += 1
            self._durable += written
            del self._pending[:written]
        finally:
            self._write = None

    def _select(self, where: Mapping[str, object], limit: int) -> Iterator[Entry]:
        conditions = " AND ".join((f"kind IN {_KNOWN}", *where))
        query = f"SELECT seq, cluster, cause, kind, fact FROM entry WHERE {conditions} ORDER BY seq LIMIT ?"  # noqa: S608 - constants
        with read_file(self.path) as connection:
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
