"""Keeping the journal small: what is old is folded into a checkpoint, and of that only audit lines are left.

A compacted cluster begins with its checkpoint, the world after all entries that are no more, so no open intent can be
lost with them. Each step is a transaction of its own that leaves a whole journal: a crash between two of them costs
nothing. They run where the journal is written, between two commits.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from flambed.catalogue import CATALOGUE, event_of, ids_of
from flambed.codec import encode_world
from flambed.journal.file import JournalError
from flambed.journal.records import KNOWN, Entry, read_checkpoints, read_entries
from flambed.observed import facts
from flambed.observed.facts import FACTS, Fact
from flambed.observed.fold import fold
from flambed.observed.instance import IllegalTransitionError
from flambed.observed.world import World

DAY: Final = 86_400.0

KEPT_FOR: Final = 7 * DAY
"""Seconds for which entries are kept as they are, so that a fresh incident can be studied."""

KEPT_MOST: Final = 5_000
"""Entries of one cluster that are kept as they are at most, however fresh they are."""

WORTH_IT: Final = 1_000
"""Entries of one cluster beyond those for which it is compacted."""

AUDIT_FOR: Final = 366 * DAY
"""Seconds for which the audit lines of a cluster outlive it."""

AUDIT_MOST: Final = 200_000
"""Audit lines of clusters that are no more which are kept at most: the latest, some 60 MB."""

STEP: Final = 500
"""Entries that one transaction folds."""

_SLACK: Final = 256
"""Free pages that the file keeps, to grow into; more are given back, as many at a time."""

AUDIT: Final[frozenset[type[Fact]]] = frozenset({
    facts.UpRequested, facts.DownRequested, facts.RetryRequested, facts.HoldPlaced, facts.HoldReleased,
    facts.ClusterFound, facts.LaunchIntended, facts.LaunchAnswered, facts.LaunchAbandoned, facts.LaunchRolledBack,
    facts.StartAccepted,
    facts.TerminationAccepted, facts.TerminationOverdue, facts.VolumesRemoved, facts.PhaseChanged, facts.HostGivenUp,
    facts.HostKeyRefused, facts.HostKeyTrusted,
})  # fmt: skip
"""What is never dropped while its cluster is known: what people asked for, and what was launched, ended, given up and refused."""

_AUDITED: Final = f"({', '.join(repr(name) for name, kind in FACTS.items() if kind in AUDIT)})"


def due(connection: sqlite3.Connection, now: float) -> dict[str, int]:
    """Return the clusters that are worth compacting, each with the number of the last entry to be folded.

    An entry of a kind that this version does not know stays, with all that came after it, for the version that does.
    """
    found = {}
    crowded = connection.execute(
        "SELECT cluster, count(*) FROM entry GROUP BY cluster HAVING count(*) >= ?", (WORTH_IT,)
    )
    for cluster, count in crowded.fetchall():
        [(old, unknown)] = connection.execute(
            f"SELECT count(*) FILTER (WHERE at < ?), min(seq) FILTER (WHERE kind NOT IN {KNOWN}) "  # noqa: S608 - constants
            "FROM entry WHERE cluster = ?",
            (now - KEPT_FOR, cluster),
        )
        spare = max(old, count - KEPT_MOST)
        if spare < WORTH_IT:
            continue
        [(last,)] = connection.execute(
            "SELECT seq FROM entry WHERE cluster = ? ORDER BY seq LIMIT 1 OFFSET ?", (cluster, spare - 1)
        )
        found[cluster] = last if unknown is None else min(last, unknown - 1)
    return found


def compact(path: Path, connection: sqlite3.Connection, cluster: str, upto: int) -> bool:
    """Fold some of a cluster's entries up to a number into its checkpoint; return whether any is left.

    Raises:
        JournalError: an entry cannot be read or folded; nothing is changed.
    """
    entries = list(read_entries(path, connection, cluster=cluster, upto=upto, limit=STEP))
    if not entries:
        return False
    [world] = [one.world for one in read_checkpoints(path, connection, cluster=cluster)] or [World()]
    for entry in entries:
        world = folded(path, world, entry)
    last = entries[-1]
    _keep_audit(connection, entries)
    connection.execute("DELETE FROM entry WHERE cluster = ? AND seq <= ?", (cluster, last.seq))
    connection.execute(
        "INSERT OR REPLACE INTO checkpoint (cluster, seq, at, world) VALUES (?, ?, ?, ?)",
        (cluster, last.seq, last.at, encode_world(world)),
    )
    return last.seq < upto and len(entries) == STEP


def folded(path: Path, world: World, entry: Entry) -> World:
    """Return the world after an entry.

    Raises:
        JournalError: an instance would have to go where it cannot go. No service writes that down: it is a bug, or the
            journal of a version that saw it otherwise.
    """
    try:
        return fold(world, entry.fact)
    except IllegalTransitionError as error:
        what = f"has an entry that cannot be folded ({entry.seq}, {type(entry.fact).__name__} of cluster {entry.cluster}: {error})"
        raise JournalError(path, what, "run the version of flambed that wrote it, and report this") from error


def forget(path: Path, connection: sqlite3.Connection, cluster: str) -> None:
    """Keep nothing of a cluster but its audit lines."""
    _keep_audit(connection, read_entries(path, connection, kinds=_AUDITED, cluster=cluster))
    connection.execute("DELETE FROM entry WHERE cluster = ?", (cluster,))
    connection.execute("DELETE FROM checkpoint WHERE cluster = ?", (cluster,))


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Drop the audit lines of clusters that are no more: those that are too old, and the oldest of too many."""
    over = "cluster NOT IN (SELECT cluster FROM checkpoint UNION SELECT cluster FROM entry)"
    connection.execute(f"DELETE FROM audit WHERE at < ? AND {over}", (now - AUDIT_FOR,))  # noqa: S608 - constants
    connection.execute(
        "DELETE FROM audit WHERE seq IN "  # noqa: S608 - constants
        f"(SELECT seq FROM audit WHERE {over} ORDER BY seq DESC LIMIT -1 OFFSET ?)",
        (AUDIT_MOST,),
    )


def give_back(connection: sqlite3.Connection) -> bool:
    """Give some of the file's free pages back to the disk; return whether there are more of them."""
    [(free,)] = connection.execute("PRAGMA freelist_count")
    if free <= _SLACK:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({_SLACK})").fetchall()  # it works while it is read
    return True


def _keep_audit(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    connection.executemany(
        "INSERT INTO audit (seq, cluster, at, cause, event, told) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (entry.seq, entry.cluster, entry.at, entry.cause, *_told(entry.fact))
            for entry in entries
            if type(entry.fact) in AUDIT
        ],
    )


def _told(fact: Fact) -> tuple[str, str]:
    """Return the event of a fact and what the log tells of it: no user data, no command, no key is part of that."""
    event, fields = event_of(fact)
    cleaned, _ = CATALOGUE[event].clean(fields)
    about = {name: value for name, value in ids_of(fact).items() if value is not None}
    return event, json.dumps({**about, **cleaned}, ensure_ascii=False)
