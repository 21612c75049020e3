"""How a line of the log looks, and where it goes: JSON or text for people, to a stream or to systemd's journal."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, TextIO

import structlog

from flambed import journald
from flambed.log.line import COMMON


def write_to(stream: TextIO, *, console: bool) -> None:
    """Have structlog write lines to a stream, or with their fields to systemd's journal where the stream leads there.

    Args:
        stream: where to.
        console: as text for people, in colours where the stream is a terminal; else as JSON.
    """
    to_journal = not console and journald.takes(stream, os.environ)
    lines = _Entries(stream) if to_journal else _Lines(stream)
    structlog.configure(
        processors=_console(colors=stream.isatty()) if console else _entries if to_journal else _json,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )


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
