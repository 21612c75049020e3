"""The verdict: whether a host has been idle for as long as its timeout asks (idle protection, "Due"). Pure.

It is asked for where an alarm should have acted and did not, before the service itself ends a host: from samples and
votes to due, not due or unknown, with the reasons. Unknown is never due: no data is not idleness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MINUTE: Final = 60.0

READ_SHARE: Final = 0.9
"""Share of the minutes of the timeout that have to be known."""

MOST_SKEW: Final = 60.0
"""Seconds by which this machine's clock may differ from AWS's."""

LATE: Final = 600.0
"""Seconds by which the last samples may be late, as CloudWatch's are: the minutes up to the last one are judged then."""

IMPAIRED_FOR: Final = 24 * 3600.0
"""Seconds, or the timeout where that is longer, after which a host that is mute in every way is ended."""

Samples = Sequence[tuple[float, float]]
"""Minutes (UNIX seconds) and their real CPU in percent."""


class Finding(StrEnum):
    """What a verdict says."""

    DUE = "due"
    NOT_DUE = "not_due"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one host. Times are UNIX seconds by AWS's clock."""

    minutes: int | None  # the timeout: minutes of idleness; None: never
    threshold: float  # percent of CPU below which a minute is idle
    idle_from: float  # from when on idleness counts, the CPU aside: its policy, its set-up, its last vote
    votes: Mapping[str, float]  # what says that it is in use, and until when
    samples: Samples
    period: float = MINUTE  # seconds that a sample stands for
    mute_since: float | None = None  # it answers nobody since then
    skew: float = 0.0  # seconds between this machine's clock and AWS's


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A finding, why, and the last busy minute that the samples show."""

    finding: Finding
    reasons: tuple[str, ...]
    last_busy: float | None = None


def judge(evidence: Evidence, now: float) -> Verdict:
    """Return whether a host is due to end."""
    if evidence.minutes is None:
        return Verdict(finding=Finding.NOT_DUE, reasons=("its timeout is -1",))
    live = sorted(kind for kind, until in evidence.votes.items() if until > now)
    if live:
        return Verdict(finding=Finding.NOT_DUE, reasons=tuple(f"vote: {kind}" for kind in live))
    if abs(evidence.skew) > MOST_SKEW:
        why = f"this machine's clock is {abs(evidence.skew):.0f} s off AWS's"
        return Verdict(finding=Finding.UNKNOWN, reasons=(why,))
    return _by_cpu(evidence, evidence.minutes, now)


def _by_cpu(evidence: Evidence, minutes: int, now: float) -> Verdict:
    last = max((at + evidence.period for at, _ in evidence.samples), default=-math.inf)
    end = min(last, now) if now - last <= LATE else now
    start = end - minutes * MINUTE
    busy = max((at for at, percent in evidence.samples if percent >= evidence.threshold), default=None)
    idle_from = max(evidence.idle_from, busy + evidence.period if busy is not None else -math.inf)
    if idle_from > start:
        why = f"idle for {max(0.0, end - idle_from) / MINUTE:.0f} of {minutes} minutes"
        return Verdict(finding=Finding.NOT_DUE, reasons=(why,), last_busy=busy)
    share = _share(evidence, start, end)
    if share == 0 and evidence.mute_since is not None:
        longest = max(minutes * MINUTE, IMPAIRED_FOR)
        if now - max(evidence.mute_since, evidence.idle_from) >= longest:
            why = f"it has answered nobody and reported no CPU for {longest / 3600:.0f} h"
            return Verdict(finding=Finding.DUE, reasons=(why,))
    if share < READ_SHARE:
        why = f"only {share:.0%} of the CPU of the last {minutes} minutes is known"
        return Verdict(finding=Finding.UNKNOWN, reasons=(why,), last_busy=busy)
    return Verdict(finding=Finding.DUE, reasons=(f"idle for {minutes} minutes",), last_busy=busy)


def _share(evidence: Evidence, start: float, end: float) -> float:
    """Return the share of this time that the samples stand for."""
    known = sum(max(0.0, min(at + evidence.period, end) - max(at, start)) for at in dict(evidence.samples))
    return known / (end - start)
