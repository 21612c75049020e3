"""A journal to be looked into, whoever may be writing it: one view of all of it, and nothing is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flambed.journal.file import examine_file
from flambed.journal.records import (
    KNOWN,
    AuditLine,
    Checkpoint,
    Entry,
    read_audit,
    read_checkpoints,
    read_entries,
)

_TABLES: Final = ("audit", "checkpoint", "entry")


class Reader:
    """Reads a journal.

    Attributes:
        daemon_id: tells the instances of its service from another one's.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        [(self.daemon_id,)] = connection.execute("SELECT value FROM meta WHERE name = 'daemon_id'")

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Reader]:
        """Look into the journal at `path`.

        Raises:
            JournalError: there is none, it is none that this version can use, or it cannot be read.
        """
        with examine_file(path) as connection:
            yield cls(path, connection)

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        found = [text for (text,) in self._connection.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def clusters(self) -> list[str]:
        """Return the ids of all clusters that it knows something of, the oldest first."""
        tables = " UNION ALL ".join(f"SELECT seq, cluster FROM {name}" for name in _TABLES)  # noqa: S608 - constants
        query = f"SELECT cluster FROM ({tables}) GROUP BY cluster ORDER BY min(seq)"  # noqa: S608 - constants
        return [cluster for (cluster,) in self._connection.execute(query)]

    def first(self, cluster: str) -> int:
        """Return the number of the first thing that it knows of a cluster (of `clusters`)."""
        tables = " UNION ALL ".join(f"SELECT min(seq) AS seq FROM {name} WHERE cluster = :cluster" for name in _TABLES)  # noqa: S608 - constants
        [(seq,)] = self._connection.execute(f"SELECT min(seq) FROM ({tables})", {"cluster": cluster})  # noqa: S608 - constants
        return int(seq)

    def unknown(self) -> dict[str, int]:
        """Return how many entries there are of each kind that this version does not know."""
        query = f"SELECT kind, count(*) FROM entry WHERE kind NOT IN {KNOWN} GROUP BY kind"  # noqa: S608 - class names
        return dict(self._connection.execute(query))

    def checkpoints(self, cluster: str | None = None) -> Iterator[Checkpoint]:
        """Return the checkpoints of one cluster or all."""
        return read_checkpoints(self.path, self._connection, cluster=cluster)

    def entries(self, cluster: str | None = None, *, upto: int | None = None) -> Iterator[Entry]:
        """Return entries in their order, of one cluster or all, up to a number.

        Raises:
            JournalError: one cannot be read.
        """
        return read_entries(self.path, self._connection, cluster=cluster, upto=upto)

    def audit(self, cluster: str | None = None, *, upto: int | None = None) -> Iterator[AuditLine]:
        """Return audit lines in their order, as `entries`."""
        return read_audit(self._connection, cluster=cluster, upto=upto)
