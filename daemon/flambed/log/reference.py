"""The catalogue for its readers: as JSON Schema, and as docs/events.md."""

from __future__ import annotations

from typing import Any, Final

from flambed.catalogue import CATALOGUE
from flambed.eventkind import EventKind
from flambed.log.line import COMMON, REPEATED
from flambed.log.repeats import AT_ONCE


def schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of the log, and of one event of the control API."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of flambed's log",
        "oneOf": [_schema_of(kind) for kind in CATALOGUE.values()],
    }


def _schema_of(kind: EventKind) -> dict[str, Any]:
    properties = {name: {**schema, "description": doc} for name, (schema, doc) in COMMON.items()}
    properties["level"] = {"const": kind.level}
    properties["event"] = {"const": kind.name}
    for name, declared in kind.fields.items():
        own = declared.shape.schema
        types = {"type": [own["type"], "null"]} if declared.optional else {}
        properties[name] = {**own, **types, "description": f"{declared.doc[0].upper()}{declared.doc[1:]}."}
    required = list(properties)
    if kind.level != "error" and kind.fact is None:
        properties[REPEATED] = {"type": "integer", "description": _REPEATED}
    return {
        "title": kind.name,
        "description": kind.doc,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_REPEATED: Final = (
    "How many lines it stands for: the same but for their time, left out in the minute before, the last one this."
)

_HEAD: Final = """# Events

Everything that the log and `GET /v1/events` can say. This page is made from `daemon/flambed/catalogue.py`: change it
there. `flambed schema events` prints the same as JSON Schema.

Every line has these, null where they do not apply:
"""


_AFTER_COMMON: Final = f"""
A line that comes again and again, the same but for its time, is written {AT_ONCE} times in a minute. When the minute is over the
last of those that were left out is written, with one more field, `{REPEATED}`: how many there were, itself included. Errors
are never left out, nor what tells a fact or follows from one (`fact`, `cause`). The metrics count every line.
"""


def markdown() -> str:
    """Return the catalogue as docs/events.md."""
    rows = [f"| `{name}` | {doc} |" for name, (_, doc) in COMMON.items()]
    parts = [_HEAD, "| field | what it says |", "|---|---|", *rows, _AFTER_COMMON.rstrip()]
    areas = dict.fromkeys(name.partition(".")[0] for name in CATALOGUE)
    for area in areas:
        kinds = [kind for name, kind in CATALOGUE.items() if name.partition(".")[0] == area]
        rows = [f"| `{kind.name}` | {kind.level} | {kind.doc} | {_fields_of(kind)} |" for kind in kinds]
        parts += [f"\n## {area}\n", "| event | level | what happened | its own fields |", "|---|---|---|---|", *rows]
    return "\n".join(parts) + "\n"


def _fields_of(kind: EventKind) -> str:
    return "<br>".join(
        f"`{name}`{'?' if declared.optional else ''}: {declared.doc} ({declared.shape})"
        for name, declared in kind.fields.items()
    )
