"""The log is the monitor: one JSON object a line, every event out of the catalogue, never a secret.

What is not declared in `catalogue` cannot be logged. Lines and the events of the control API are one document: a line
that tells a fact has its number under `fact`, so the `cause` of a line can be looked up in either.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from flambed import journald
from flambed.catalogue import CATALOGUE, event_of, ids_of
from flambed.eventkind import EventKind, Level, Shape, rfc3339
from flambed.journal import AuditLine, Entry

Format = Literal["json", "console"]

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

_LEVELS: Final = logging.getLevelNamesMapping()


class Threshold:
    """The least level that is written. A log and all that are bound from it share one, so it can change while they live."""

    def __init__(self, level: Level) -> None:
        self.level = level

    def passes(self, level: Level) -> bool:
        """Return whether a line of this level is written."""
        return _LEVELS[level.upper()] >= _LEVELS[self.level.upper()]


class Log:
    """Writes events. `bind` gives one that knows what it is about.

    A strict log raises a ValueError for what the catalogue does not declare; a lenient one leaves it out and notes
    `log.undeclared`. The service's own, which `configure` returns, is lenient; one made by itself, as in tests, is strict
    and goes where structlog was last configured to (`structlog.testing.capture_logs` sees it).

    Attributes:
        counts: how often each event came, whatever level is written; shared with all that are bound to it.
    """

    def __init__(
        self,
        logger: FilteringBoundLogger | None = None,
        *,
        strict: bool = True,
        threshold: Threshold | None = None,
    ) -> None:
        self._logger: FilteringBoundLogger = structlog.get_logger() if logger is None else logger
        self._strict = strict
        self._threshold = Threshold("debug") if threshold is None else threshold
        self._bound: dict[str, str | int | None] = {}
        self.counts: Counter[str] = Counter()

    def bind(
        self,
        *,
        cluster: str | None = None,
        instance: str | None = None,
        action: str | None = None,
        cause: int | None = None,
    ) -> Log:
        """Return a log whose events are about these, unless they say otherwise."""
        log = Log(self._logger, strict=self._strict, threshold=self._threshold)
        log.counts = self.counts
        log._bound = self._bound | _given(cluster=cluster, instance=instance, action=action, cause=cause)
        return log

    def emit(
        self,
        event: str,
        /,
        *,
        cluster: str | None = None,
        instance: str | None = None,
        action: str | None = None,
        cause: int | None = None,
        **fields: object,
    ) -> None:
        """Write an event of the service's own, with all fields that its kind declares.

        Raises:
            ValueError: the log is strict, and the event or a field is not declared, is missing or of another shape.
        """
        ids = self._bound | _given(cluster=cluster, instance=instance, action=action, cause=cause)
        kind = CATALOGUE.get(event)
        if kind is None:
            self._note(event, ["the event is not declared"], ids)
            return
        self.counts[event] += 1
        if not self._strict and not self._threshold.passes(kind.level):
            return
        cleaned, problems = kind.clean(fields)
        if problems:
            self._note(event, problems, ids)
        self._write(_line(kind, cleaned, time.time(), ids))

    def set_level(self, level: Level) -> None:
        """Write what has at least this level, from now on; so do all logs that come of this one."""
        self._threshold.level = level

    def tell(self, entry: Entry) -> None:
        """Write the event of a journaled fact."""
        line = to_event(entry, cluster=self._bound.get("cluster"))
        self.counts[line["event"]] += 1
        self._write(line)

    def _note(self, event: str, problems: list[str], ids: Mapping[str, object]) -> None:
        if self._strict:
            raise ValueError(f"the log cannot take {event!r}: {'; '.join(problems)}. See flambed/catalogue.py")
        kind = CATALOGUE["log.undeclared"]
        self.counts[kind.name] += 1
        self._write(_line(kind, kind.clean({"of": event, "problems": problems})[0], time.time(), ids))

    def _write(self, line: dict[str, Any]) -> None:
        if self._threshold.passes(line["level"]):
            getattr(self._logger, line["level"])(**line)


def _given(**ids: str | int | None) -> dict[str, str | int | None]:
    return {name: value for name, value in ids.items() if value is not None}


def to_event(entry: Entry, *, cluster: str | int | None = None) -> dict[str, Any]:
    """Return a journaled fact as its line of the log, for the control API; `cluster` is shown in place of its id."""
    name, fields = event_of(entry.fact)
    cleaned, _ = CATALOGUE[name].clean(fields)
    ids = {**ids_of(entry.fact), "cluster": cluster or entry.cluster, "cause": entry.cause, "fact": entry.seq}
    return _line(CATALOGUE[name], cleaned, entry.at, ids)


def of_audit(line: AuditLine, *, cluster: str) -> dict[str, Any]:
    """Return what is left of a journaled fact as its line of the log, for the control API."""
    fields = dict(line.told)
    about = {name: fields.pop(name, None) for name in ("instance", "action")}
    ids = {**about, "cluster": cluster, "cause": line.cause, "fact": line.seq}
    return _line(CATALOGUE[line.event], fields, line.at, ids)


def to_line(
    event: str, *, at: float, cluster: str, instance: str, cause: int, fields: Mapping[str, object]
) -> dict[str, Any]:
    """Return an event that follows from a journaled fact as its line of the log, for the control API."""
    kind = CATALOGUE[event]
    cleaned, _ = kind.clean(fields)
    return _line(kind, cleaned, at, {"cluster": cluster, "instance": instance, "cause": cause})


def _line(kind: EventKind, cleaned: Mapping[str, Any], at: float, ids: Mapping[str, object]) -> dict[str, Any]:
    texts = {name: Shape.TEXT.clean(ids[name]) if ids.get(name) else None for name in ("cluster", "instance", "action")}
    numbers = {name: ids.get(name) for name in ("cause", "fact")}
    return {"timestamp": rfc3339(at), "level": kind.level, "event": kind.name, **texts, **numbers, **cleaned}


def configure(
    format: Format | None = None,  # noqa: A002 - the setting's name
    level: Level = "info",
    stream: TextIO | None = None,
    *,
    strict: bool = False,
) -> Log:
    """Set structlog up, send the warnings of libraries the same way, and return the service's log.

    Args:
        format: None: `console` where `stream` is a terminal, else `json`; that goes with its fields to systemd's journal
            where `stream` leads there.
        level: what is less than that is not written.
        stream: None: stdout.
        strict: raise for what the catalogue does not declare.
    """
    stream = sys.stdout if stream is None else stream
    is_terminal = stream.isatty()
    render = _console(colors=is_terminal) if format == "console" or (format is None and is_terminal) else _json
    to_journal = render is _json and journald.takes(stream, os.environ)
    lines = _Entries(stream) if to_journal else _Lines(stream)
    structlog.configure(
        processors=_entries if to_journal else render,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    log = Log(structlog.get_logger().bind(), strict=strict, threshold=Threshold(level))
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Forward)] + [_Forward(log)]
    root.setLevel(logging.WARNING)
    return log


def _in_order(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: line[name] for name in (*COMMON, *(name for name in line if name not in COMMON))}


_json: Final[list[Any]] = [_in_order, structlog.processors.JSONRenderer()]


def _with_fields(
    _logger: object, _method: str, line: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Render a line as JSON, and hand its fields on beside."""
    return (structlog.processors.JSONRenderer()(_logger, _method, dict(line)), line), {}


_entries: Final[list[Any]] = [_in_order, _with_fields]


def _console(*, colors: bool) -> list[Any]:
    colors = colors and not os.environ.get("NO_COLOR")
    return [
        _for_people,
        structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, pad_event_to=30, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _for_people(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out what is null, and let no quoted message move the cursor or forge a line."""
    shown = {name: _safe(value) for name, value in line.items() if value is not None}
    if shown.pop("traceback", None):
        parts = line["traceback"].splitlines()
        shown["exception"] = "\n".join(part if part.isprintable() else repr(part) for part in parts)
    return shown


def _safe(value: Any) -> Any:
    return _Escaped(value) if isinstance(value, str) and not value.isprintable() else value


class _Escaped:
    """A text that the console shows as Python would write it; by itself it escapes only those with a blank in them."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


class _Lines:
    """Writes lines to a stream. That nobody can read them any more is no reason to leave clusters alone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        with suppress(OSError):
            self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()

    debug = info = warning = error = write


class _Entries(_Lines):
    """Writes lines to systemd's journal, and to a stream what that does not take."""

    def entry(self, text: str, line: Mapping[str, Any]) -> None:
        try:
            journald.send(text, line)
        except OSError:
            self.write(text)

    debug = info = warning = error = entry  # type: ignore[assignment]


class _Forward(logging.Handler):
    """Makes events of what libraries say through the standard library's logging, from warnings on."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as `library.message`."""
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        self._log.emit("library.message", logger=record.name, message=_message(record), traceback=trace)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # its arguments do not fit: that is the library's bug, not ours
        return str(record.msg)


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
    return {
        "title": kind.name,
        "description": kind.doc,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_HEAD: Final = """# Events

Everything that the log and `GET /v1/events` can say. This page is made from `daemon/flambed/catalogue.py`: change it
there. `flambed schema events` prints the same as JSON Schema.

Every line has these, null where they do not apply:
"""


def markdown() -> str:
    """Return the catalogue as docs/events.md."""
    rows = [f"| `{name}` | {doc} |" for name, (_, doc) in COMMON.items()]
    parts = [_HEAD, "| field | what it says |", "|---|---|", *rows]
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
