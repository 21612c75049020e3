"""What a line of the log is, and the events of the control API that are the same document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flambed.catalogue import CATALOGUE, event_of, ids_of
from flambed.eventkind import EventKind, Shape, rfc3339
from flambed.journal import AuditLine, Entry

_NULL_TEXT: Final = {"type": ["string", "null"]}
_NULL_SEQ: Final = {"type": ["integer", "null"]}
COMMON: Final[Mapping[str, tuple[Mapping[str, object], str]]] = {
    "timestamp": ({"type": "string", "format": "date-time"}, "When it became known: RFC 3339, UTC, milliseconds."),
    "level": ({"enum": ["debug", "info", "warning", "error"]}, "How much an operator should care."),
    "event": ({"type": "string"}, "What happened: a name out of this catalogue."),
    "cluster": (_NULL_TEXT, "The cluster that it is about."),
    "instance": (_NULL_TEXT, "The id of the instance that it is about."),
    "action": (_NULL_TEXT, "The kind of action that it is about."),
    "cause": (_NULL_SEQ, "The number of the fact that led to it."),
    "fact": (_NULL_SEQ, "The number of the fact that this tells; null where the service says it by itself."),
}
"""What every line has, in this order: its JSON Schema, and what it says."""

REPEATED: Final = "repeated"
"""The one field that a line has beside these and its event's own, where it stands for several: how many (see `repeats`)."""


def to_event(entry: Entry, *, cluster: str | int | None = None) -> dict[str, Any]:
    """Return a journaled fact as its line of the log, for the control API; `cluster` is shown in place of its id."""
    name, fields = event_of(entry.fact)
    cleaned, _ = CATALOGUE[name].clean(fields)
    ids = {**ids_of(entry.fact), "cluster": cluster or entry.cluster, "cause": entry.cause, "fact": entry.seq}
    return line_of(CATALOGUE[name], cleaned, entry.at, ids)


def of_audit(line: AuditLine, *, cluster: str) -> dict[str, Any]:
    """Return what is left of a journaled fact as its line of the log, for the control API."""
    fields = dict(line.told)
    about = {name: fields.pop(name, None) for name in ("instance", "action")}
    ids = {**about, "cluster": cluster, "cause": line.cause, "fact": line.seq}
    return line_of(CATALOGUE[line.event], fields, line.at, ids)


def to_line(
    event: str, *, at: float, cluster: str, instance: str, cause: int, fields: Mapping[str, object]
) -> dict[str, Any]:
    """Return an event that follows from a journaled fact as its line of the log, for the control API."""
    kind = CATALOGUE[event]
    cleaned, _ = kind.clean(fields)
    return line_of(kind, cleaned, at, {"cluster": cluster, "instance": instance, "cause": cause})


def line_of(kind: EventKind, cleaned: Mapping[str, Any], at: float, ids: Mapping[str, object]) -> dict[str, Any]:
    texts = {name: Shape.TEXT.clean(ids[name]) if ids.get(name) else None for name in ("cluster", "instance", "action")}
    numbers = {name: ids.get(name) for name in ("cause", "fact")}
    return {"timestamp": rfc3339(at), "level": kind.level, "event": kind.name, **texts, **numbers, **cleaned}
