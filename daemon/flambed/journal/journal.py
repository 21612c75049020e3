"""Appending in memory, committing in groups, reading back.

A fact gets its number at once and is durable when the next `commit` returns; commits are made in groups by a thread of
their own, so that the loop never waits for the disk. The number (`seq`) is never given twice and is what the log calls
`fact` and `cause`.

While the disk refuses, its `health` says so; as soon as it takes it, all that was appended is written, in its order.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from flambed.codec import encode
from flambed.journal import compaction
from flambed.journal.file import JournalError, open_file, read_file, refused, told
from flambed.journal.health import Health
from flambed.journal.records import (
    KNOWN,
    AuditLine,
    Checkpoint,
    Entry,
    Page,
    read_audit,
    read_checkpoints,
    read_entries,
)
from flambed.observed.facts import Fact

T = TypeVar("T")

_INSERT: Final = "INSERT INTO entry (seq, cluster, at, cause, kind, fact) VALUES (?, ?, ?, ?, ?, ?)"
_CLAIM: Final = "INSERT INTO creator (name, uid) VALUES (?, ?)"

_Work = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True, slots=True)
class _Write:
    """Something that is yet to be written; of a fact also its cluster and kind."""

    work: _Work
    fact: tuple[str, str] | None = None


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
        health: whether it can be written.
        new: whether there was none before.
        daemon_id: random, made with the file; tells the instances of this service from another one's.
        commits: how many groups were written since it was opened.
        memory: what is to be known after a restart and is no fact.
        unknown: how many entries of which kinds this version does not know; they are kept, and left out when reading.
        tell_lost: is called at the end with the facts that could not be written, counted by cluster id and kind.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, resources: ExitStack) -> None:
        self.path = path
        self.new = False
        self.tell_lost: Callable[[Mapping[str, Counter[str]]], None] = lambda _lost: None
        self.health = Health(self.commit)
        self.commits = 0
        self._connection = connection
        self._resources = resources
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: list[_Write] = []
        self._appended = self._durable = 0  # counts of writes
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
                connection.execute(f"SELECT kind, count(*) FROM entry WHERE kind NOT IN {KNOWN} GROUP BY kind")  # noqa: S608 - class names
            )
        )

    @classmethod
    def open(cls, path: Path, *, daemon_id: str | None = None) -> Journal:
        """Open the journal at `path`; make it where there is none, and bring it up to date.

        Args:
            path: its file.
            daemon_id: the id that a journal gets which is made here; without it, or in one that exists: its own.

        Raises:
            JournalError: it cannot be opened, or must not be; see `open_file`.
        """
        new = not path.exists() or not path.stat().st_size
        with ExitStack() as resources:
            connection = resources.enter_context(open_file(path))
            with told(path, "cannot be opened"):
                if new and daemon_id is not None:
                    connection.execute("UPDATE meta SET value = ? WHERE name = 'daemon_id'", (daemon_id,))
                journal = cls(path, connection, resources.pop_all())
        journal.new = new
        return journal

    async def close(self) -> None:
        """Commit what is left, and release the file.

        Raises:
            JournalError: what is left could not be written, and is lost; the file is released all the same.
        """
        await self.health.close()
        try:
            await self.commit()
        except JournalError:
            self.tell_lost(self._unwritten())
            raise
        finally:
            self._writer.shutdown()
            self._resources.close()

    def append(self, cluster: str, facts: Iterable[Fact], *, cause: int | None = None) -> tuple[Entry, ...]:
        """Give these facts of a cluster their numbers. They are durable after the next `commit`."""
        entries = []
        for fact in facts:
            kind, text = encode(fact)
            self._seq += 1
            self._put(_INSERT, self._seq, cluster, fact.at, cause, kind, text, fact=(cluster, kind))
            entries.append(Entry(self._seq, cluster, cause, fact))
        return tuple(entries)

    async def commit(self) -> None:
        """Make everything durable that was appended so far. Who comes during a write shares the next one.

        Raises:
            JournalError: it could not be written. Nothing is lost: it is tried again, in the same order, until it can be
                (see `health`), and by the next commit.
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
        """Keep nothing of a cluster but its audit lines, with the next `commit`. Its creator's owner stays."""
        self._later(lambda connection: compaction.forget(self.path, connection, cluster))

    def checkpoints(self) -> Sequence[Checkpoint]:
        """Return the worlds with which replay begins.

        Raises:
            JournalError: they cannot be read.
        """
        with read_file(self.path) as connection:
            return list(read_checkpoints(self.path, connection))

    def load(self) -> Iterator[Entry]:
        """Return all committed entries in their order; those of a cluster follow upon its checkpoint, if it has one.

        Raises:
            JournalError: an entry cannot be read.
        """
        with read_file(self.path) as connection:
            yield from read_entries(self.path, connection)

    async def page(self, *, cluster: str | None = None, after: int = 0, limit: int = 1000) -> Page:
        """Return the first `limit` entries and audit lines beyond a number, of one cluster or all.

        Raises:
            JournalError: one of them cannot be read.
        """
        return await asyncio.to_thread(self._page, cluster, after, limit)

    async def compact(self, now: float) -> int:
        """Fold what is old into checkpoints, drop what nobody needs any more, and give the space back (see `compaction`).

        It lets commits in between, and can end anywhere.

        Args:
            now: UNIX seconds.

        Returns:
            the number of clusters that were compacted.

        Raises:
            JournalError: an entry cannot be read or folded, or it could not be written; the journal is whole all the same.
        """
        due = await asyncio.to_thread(self._due, now)
        for cluster, upto in due.items():
            while await self._run(partial(compaction.compact, self.path, cluster=cluster, upto=upto)):
                pass
        await self._run(partial(compaction.prune, now=now))
        while await self._run(compaction.give_back):
            pass
        return len(due)

    def _page(self, cluster: str | None, after: int, limit: int) -> Page:
        with read_file(self.path) as connection:
            connection.execute("BEGIN")  # one view of the three tables
            entries = list(read_entries(self.path, connection, cluster=cluster, after=after, limit=limit))
            lines = list(read_audit(connection, cluster=cluster, after=after, limit=limit))
            starts = read_checkpoints(self.path, connection, cluster=cluster, after=after)
            found: list[Entry | AuditLine] = [*entries, *lines]
            found.sort(key=lambda item: item.seq)
            return Page(tuple(found[:limit]), {start.cluster: start for start in starts})

    def _due(self, now: float) -> dict[str, int]:
        with read_file(self.path) as connection:
            return compaction.due(connection, now)

    def _put(self, statement: str, *values: object, fact: tuple[str, str] | None = None) -> None:
        self._later(lambda connection: connection.execute(statement, values), fact)

    def _later(self, work: _Work, fact: tuple[str, str] | None = None) -> None:
        self._pending.append(_Write(work, fact))
        self._appended += 1

    def _unwritten(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        for cluster, kind in (write.fact for write in self._pending if write.fact is not None):
            found.setdefault(cluster, Counter())[kind] += 1
        return found

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in a transaction of its own, where the journal is written."""
        with told(self.path, "cannot be made smaller"):
            return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection.in_transaction:  # a commit failed, and its rollback with it
            self._connection.rollback()
        with self._connection:  # commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            return work(self._connection)

    def _write_group(self, group: Sequence[_Write]) -> int:
        # What a commit that failed has left in the write-ahead log ends without a commit's mark, or is written over by
        # the next try, which begins at the same place with the same rows: it can be read once, or not at all.
        def write(connection: sqlite3.Connection) -> int:
            for one in group:
                one.work(connection)
            return len(group)

        return self._transact(write)

    async def _write_pending(self) -> None:
        # All is accounted for before this task is done: who looks at it then finds no write under way, and cannot be
        # made to wait for one that has ended.
        try:
            group = tuple(self._pending)
            written = await asyncio.get_running_loop().run_in_executor(self._writer, self._write_group, group)
        except (sqlite3.Error, JournalError) as error:
            known = error if isinstance(error, JournalError) else refused(self.path, "cannot be written", error)
            self.health.failed(known)
            raise
        else:
            self.commits += 1
            self._durable += written
            del self._pending[:written]
            self.health.wrote()
        finally:
            self._write = None
