"""What a journal holds, and how it is read: entries, checkpoints, audit lines."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from flambed.codec import decode, decode_world
from flambed.journal.file import JournalError
from flambed.observed.facts import FACTS, Fact
from flambed.observed.world import World

KNOWN: Final = f"({', '.join(repr(name) for name in FACTS)})"
"""The kinds of facts of this version, for SQL. Entries of other kinds are kept, and left out when reading."""


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


@dataclass(frozen=True)
class Checkpoint:
    """The world of a cluster (by id) after all entries up to `seq`, which are no more."""

    seq: int
    cluster: str
    at: float
    text: str = field(repr=False)
    path: Path

    @cached_property
    def world(self) -> World:
        """The world.

        Raises:
            JournalError: it cannot be read. Without it nobody knows what was launched, so that is for a person to see to.
        """
        try:
            return decode_world(self.text)
        except ValidationError as error:
            what = f"the checkpoint of cluster {self.cluster} at {self.seq}: {_wrong(error)}"
            raise _unreadable(self.path, what) from None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What is left of an entry that is no more: what the log told of it, which is no secret.

    Attributes:
        event: the name of its event in the catalogue.
        told: the event's own fields, and the `instance` and `action` that it is about, where there are any.
    """

    seq: int
    cluster: str
    at: float
    cause: int | None
    event: str
    told: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str] | None:
        """The creator and the name of the cluster, where the line tells them: the first one of each cluster does."""
        told = self.told
        return (told["creator"], told["name"]) if {"creator", "name"} <= told.keys() else None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a journal, in the order of the numbers.

    An entry follows upon its cluster's checkpoint, which stands here if it is beyond where the page begins.
    """

    items: tuple[Entry | AuditLine, ...]
    checkpoints: Mapping[str, Checkpoint]


def read_checkpoints(path: Path, connection: sqlite3.Connection, **where: object) -> Iterator[Checkpoint]:
    """Return checkpoints, the clusters' ids in order; `where` as in `read_entries`."""
    query = f"SELECT seq, cluster, at, world FROM checkpoint {_conditions(where)} ORDER BY cluster"  # noqa: S608 - constants
    for seq, about, at, world in connection.execute(query, where):
        yield Checkpoint(seq, about, at, world, path)


def read_entries(
    path: Path, connection: sqlite3.Connection, *, kinds: str = KNOWN, limit: int = -1, **where: object
) -> Iterator[Entry]:
    """Return entries in their order.

    Args:
        path: of the journal, for errors.
        connection: to it.
        kinds: of which kinds, as SQL.
        limit: of how many; -1: of all.
        where: of one `cluster`; `after` a number; `upto` a number; `since` a time. None: wherever.

    Raises:
        JournalError: an entry cannot be read.
    """
    query = (
        "SELECT seq, cluster, cause, kind, fact FROM entry "  # noqa: S608 - constants
        f"{_conditions(where, f'kind IN {kinds}')} ORDER BY seq LIMIT :limit"
    )
    for seq, cluster, cause, kind, text in connection.execute(query, {**where, "limit": limit}):
        try:
            yield Entry(seq, cluster, cause, decode(kind, text))
        except ValidationError as error:
            raise _unreadable(path, f"an entry: {seq}, {kind} of cluster {cluster}: {_wrong(error)}") from None


def read_audit(connection: sqlite3.Connection, *, limit: int = -1, **where: object) -> Iterator[AuditLine]:
    """Return audit lines in their order; arguments as in `read_entries`."""
    query = f"SELECT seq, cluster, at, cause, event, told FROM audit {_conditions(where)} ORDER BY seq LIMIT :limit"  # noqa: S608 - constants
    for seq, cluster, at, cause, event, told in connection.execute(query, {**where, "limit": limit}):
        yield AuditLine(seq, cluster, at, cause, event, json.loads(told))


_WHERE: Final = {
    "cluster": "cluster = :cluster",
    "after": "seq > :after",
    "upto": "seq <= :upto",
    "since": "at >= :since",
}


def _conditions(where: Mapping[str, object], *more: str) -> str:
    conditions = [*more, *(_WHERE[name] for name, value in where.items() if value is not None)]
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _unreadable(path: Path, what: str) -> JournalError:
    advice = "run the version of flambed that wrote it, or restore the file from a backup"
    return JournalError(path, f"has something that cannot be read ({what})", advice)


def _wrong(error: ValidationError) -> str:
    # Without the values: a cluster's user data is none of a log's business.
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in error.errors(include_input=False, include_url=False)
    )
