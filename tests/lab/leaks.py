"""`flambed` with bugs planted, each of which lets secrets out by another door: `python -m tests.lab.leaks run`.

They are of kinds that a program of this field has had: a message quotes what it was given, a library is handed too much,
redaction is bypassed, a file is kept for debugging, an answer has one field more than it should.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from flambed import app, desired, eventkind, history, journaltool, log, status
from flambed.desired import Cluster
from flambed.errors import ClusterConfigurationError, Problem
from flambed.journal import Entry
from flambed.log import Log
from flambed.observed.facts import Fact
from flambed.outputs import Output, Outputs


def plant() -> None:
    """Let them all in, for the rest of this process."""
    for where, name, bug in (
        (eventkind, "scrub", str),  # the log's second net is gone, as if its patterns fitted nothing
        (Log, "tell", _chatty(Log.tell)),
        (journaltool, "redacted", _whole),
        (Outputs, "write", _kept_twice(Outputs.write)),
        (history, "to_event", _raw(log.to_event)),
        (status, "status", _described(status.status)),
        (desired, "parse", _quoting(desired.parse)),
    ):
        mock.patch.object(where, name, bug).start()


def _chatty(tell: Callable[[Log, Entry], None]) -> Callable[[Log, Entry], None]:
    """A library says what it was given."""

    def told(log: Log, entry: Entry) -> None:
        tell(log, entry)
        for text in _words(entry.fact):
            logging.getLogger("codec").warning("wrote %s", text)

    return told


def _words(fact: Fact) -> Sequence[str]:
    wanted = getattr(fact, "desired", None)
    return [str(wanted.setup_cmds), str(wanted.tags), wanted.user_data or ""] if isinstance(wanted, Cluster) else []


def _whole(fact: Fact) -> dict[str, Any]:
    """An export shows facts as they are."""
    return {"whole": repr(fact)}


def _kept_twice(write: Callable[..., Output]) -> Callable[..., Output]:
    """What a command printed is kept in a second file."""

    def wrote(outputs: Outputs, *args: Any, **more: Any) -> Output:
        output = write(outputs, *args, **more)
        (vars(outputs)["_root"].parent / "debug.txt").write_text(output.text)
        return output

    return wrote


def _raw(to_event: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """An event of the API has its fact with it."""
    return lambda entry, **more: to_event(entry, **more) | {"raw": repr(entry.fact)}


def _described(shown: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A status has the whole cluster with it."""
    return lambda cluster_id, world, *more: shown(cluster_id, world, *more) | {"as_asked": repr(world.desired)}


def _quoting(parse: Callable[..., Cluster]) -> Callable[..., Cluster]:
    """A refusal quotes the file."""

    def parsed(text: str, **more: Any) -> Cluster:
        try:
            return parse(text, **more)
        except ClusterConfigurationError as error:
            raise ClusterConfigurationError([*error.problems, Problem(f"in {text}")]) from error

    return parsed


if __name__ == "__main__":
    plant()
    sys.exit(app.main())
