"""What happens, while it happens: a calm block on a terminal, a line a change elsewhere, documents with --json."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flambed.cli import show, times
from flambed.cli.client import Client, cluster_path
from flambed.cli.console import Block, Console
from flambed.cli.failure import Exit, FailureError

Status = Mapping[str, Any]

REDRAW_SECONDS: Final = 1.0  # so that the elapsed time goes on
_TOLD_AFTERWARDS: Final = frozenset({"degraded", "failed"})  # by `up` (see `outcome`), which has more to say of it


def follow(
    console: Console, client: Client, ref: str, until: Callable[[Status], bool], *, in_full: bool = False
) -> Status:
    """Show a cluster until a status fits, and return that one.

    Args:
        console: where to show it.
        client: whom to ask.
        ref: which cluster.
        until: tells whether a status is the last one.
        in_full: whether each host has its line, and the reason of a bad end is shown; else it is told afterwards.

    Raises:
        FailureError: the service refuses or goes away.
    """
    began = time.monotonic()
    view = _view(console, in_full=in_full)
    last: Status | None = None
    status: Status | None
    for status in _ticking(client.stream(cluster_path(ref), [("follow", "1")])):
        last = status or last
        if last is not None:
            view(last, time.monotonic() - began)
            if until(last):
                return last
    raise FailureError(
        Exit.UNREACHABLE, "the service stopped; the cluster goes on", [f"Once it is back: flambectl watch {ref}"]
    )


def _view(console: Console, *, in_full: bool) -> Callable[[Status, float], None]:
    if console.as_json:
        return _Documents(console).update
    if console.can_redraw:
        block = Block(console)
        lines = _full if in_full else _brief
        return lambda status, elapsed: block.draw(lines(console, status, elapsed))
    return _Lines(console, in_full=in_full).update


def _brief(console: Console, status: Status, elapsed: float) -> list[str]:
    return [
        f"{show.headline(status, console, with_reason=status['phase'] not in _TOLD_AFTERWARDS)}  {console.paint(times.span(elapsed), 'dim')}",
        f"  {show.counts(status)}",
        *(f"  {console.paint('failed', 'red')}  {line}" for line in _failures(status, in_full=False)),
    ]


def _failures(status: Status, *, in_full: bool) -> list[str]:
    """Return what failed, as long as that matters and is not told afterwards."""
    left_out = {"stopping", "gone"} | (set() if in_full else _TOLD_AFTERWARDS)
    return [] if status["phase"] in left_out else show.failures(status)


def _full(console: Console, status: Status, _elapsed: float) -> list[str]:
    return show.status(status, console)


class _Documents:
    """One status document a line, whenever it is another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: Status | None = None

    def update(self, status: Status, _elapsed: float) -> None:
        if status != self._last:
            self._console.document(status, one_line=True)
            self._last = status


class _Lines:
    """One line a change of the phase, of the counts or of the failures."""

    def __init__(self, console: Console, *, in_full: bool) -> None:
        self._console = console
        self._in_full = in_full
        self._last = ""
        self._told: set[str] = set()

    def update(self, status: Status, elapsed: float) -> None:
        with_reason = self._in_full or status["phase"] not in _TOLD_AFTERWARDS
        text = (
            f"{show.headline(status, self._console, with_reason=with_reason)} ({show.counts(status) or 'no instances'})"
        )
        if text != self._last:
            self._console.line(f"{times.span(elapsed):>8}  {text}")
            self._last = text
        for line in _failures(status, in_full=self._in_full):
            if line not in self._told and len(self._told) < show.SHOWN_FAILURES:
                self._told.add(line)
                self._console.line(f"{'':>8}  failed: {line}")


_END: Final = object()


def _ticking(documents: Iterator[Any]) -> Iterator[Any]:
    """Yield what comes, and None whenever nothing came for a while: reading is left to a thread."""
    coming: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        end: Any = _END
        try:
            for document in documents:
                coming.put(document)
        except FailureError as error:
            end = error
        finally:
            coming.put(end)

    threading.Thread(target=read, name="stream", daemon=True).start()
    while True:
        try:
            item = coming.get(timeout=REDRAW_SECONDS)
        except queue.Empty:
            item = None
        if item is _END:
            return
        if isinstance(item, FailureError):
            raise item
        yield item
