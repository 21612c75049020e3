"""The log itself: takes events, holds them against the catalogue, counts them, and writes their lines."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from flambed.catalogue import CATALOGUE
from flambed.eventkind import Level
from flambed.journal import Entry
from flambed.log import libraries, rendering
from flambed.log.line import line_of, to_event
from flambed.log.repeats import Repeats

Format = Literal["json", "console"]

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
        repeats: Repeats | None = None,
    ) -> None:
        self._logger: FilteringBoundLogger = structlog.get_logger() if logger is None else logger
        self._strict = strict
        self._threshold = Threshold("debug") if threshold is None else threshold
        self._repeats = repeats  # None: every line is written
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
        log = Log(self._logger, strict=self._strict, threshold=self._threshold, repeats=self._repeats)
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
        self._write(line_of(kind, cleaned, time.time(), ids))

    def set_level(self, level: Level) -> None:
        """Write what has at least this level, from now on; so do all logs that come of this one."""
        self._threshold.level = level

    async def count(self) -> None:
        """Write the counts of lines that came again and again, each when its minute is over, until cancelled."""
        while self._repeats:
            await asyncio.sleep(self._repeats.pause())
            self._put(*self._repeats.due())

    def flush(self) -> None:
        """Write the counts of all lines that came again and again: the service is about to end."""
        if self._repeats:
            self._put(*self._repeats.all())

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
        self._write(line_of(kind, kind.clean({"of": event, "problems": problems})[0], time.time(), ids))

    def _write(self, line: dict[str, Any]) -> None:
        if self._threshold.passes(line["level"]):
            self._put(*(self._repeats.take(line) if self._repeats else [line]))

    def _put(self, *lines: dict[str, Any]) -> None:
        for line in lines:
            getattr(self._logger, line["level"])(**line)


def _given(**ids: str | int | None) -> dict[str, str | int | None]:
    return {name: value for name, value in ids.items() if value is not None}


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
    rendering.write_to(stream, console=format == "console" or (format is None and stream.isatty()))
    log = Log(structlog.get_logger().bind(), strict=strict, threshold=Threshold(level), repeats=Repeats())
    libraries.forward_to(log.emit)
    return log
