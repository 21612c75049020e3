"""What the keeper knows of a host beyond its cluster's world, as `why` shows it: the alarm's state, the last probe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flambed.eventkind import rfc3339
from flambed.keeper.guard import Guard, Listening
from flambed.observed.probes import Unknown

Signal = dict[str, Any]


def of(guard: Guard, alarm: str | None) -> list[Signal]:
    """Return the signals of one host: `signal`, `value` in words, `at` (RFC 3339, None where it has no time).

    Args:
        guard: the host.
        alarm: CloudWatch's word for the state of its alarm; None where it is not known.
    """
    return [*_alarm(guard, alarm), *_probe(guard.listening)]


def _alarm(guard: Guard, state: str | None) -> Iterator[Signal]:
    if guard.guarded:
        yield {"signal": "alarm state", "value": state or "not known: CloudWatch did not answer", "at": None}
        read_until = rfc3339(guard.read_until) if guard.read_until is not None else None
        yield {"signal": "cpu read until", "value": "not read yet" if read_until is None else "read", "at": read_until}


def _probe(host: Listening) -> Iterator[Signal]:
    if host.failure:
        since = rfc3339(host.failing_since) if host.failing_since is not None else None
        yield {"signal": "probe", "value": f"fails: {host.failure}", "at": since}
    if host.answer is None or host.answered_at is None:
        return
    at = rfc3339(host.answered_at)
    if isinstance(host.answer.timer, Unknown):
        yield {"signal": "renewal", "value": f"fails: {host.answer.timer.why}", "at": at}
    gpu, terminal, experiment = host.answer.gpu, host.answer.terminal, host.answer.experiment
    yield {"signal": "gpu", "value": _said(gpu, "none", lambda percent: f"{percent:g} %"), "at": at}
    yield {
        "signal": "terminal",
        "value": _said(terminal, "no input", lambda ago: f"input {ago:.0f} s before"),
        "at": at,
    }
    running = _said(experiment, "not asked for", lambda runs: "runs" if runs else "does not run")
    yield {"signal": "experiment", "value": running, "at": at}
    for vote, until in sorted(host.leases.items()):
        yield {"signal": f"lease: {vote}", "value": "counts until then, unless it is seen again", "at": rfc3339(until)}


def _said(value: Any, none: str, words: Any) -> str:
    if isinstance(value, Unknown):
        return f"not known: {value.why}"
    return none if value is None else str(words(value))
