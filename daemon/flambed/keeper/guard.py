"""One host under protection: what is wanted for it, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flambed.actions import Protection, Question
from flambed.observed.facts import Fact
from flambed.observed.probes import Probe
from flambed.steps import protect

Ask = Callable[[Question, float], Awaitable[str]]
"""Runs the probe on a host and returns what it printed; takes the seconds that a hold still lasts; raises StepError."""

KNOWN_FOR: Final = 600.0
"""Seconds for which it is known whether a host is in use: two probes."""


@dataclass(slots=True)
class Listening:
    """What is known of one host by asking it. Times are the service's clock."""

    due_at: float = 0.0
    asking: bool = False
    asked: Question | None = None  # with what it was asked last
    answer: Probe | None = None  # its last one
    answered_at: float | None = None
    known_at: float = -math.inf  # it answered then, or had been mute for so long that its CPU alone decides
    failing_since: float | None = None
    failure: str = ""
    failures: int = 0  # in a row
    unknown: dict[str, int] = field(default_factory=dict)  # how often in a row it could not tell a signal of the probe
    mute: bool = False
    recalled: bool = False  # what was known before a restart is known again
    leases: dict[str, float] = field(default_factory=dict)  # until when each use counts
    timer: tuple[str, int | None] | None = None  # the state that was told last, and the minutes


@dataclass(slots=True, eq=False)
class Guard:
    """The state of one host's protection. Times `_at` of tries are monotonic, all others the service's clock."""

    cluster: tuple[str, str]
    sink: Callable[[Fact], None]
    wanted: Protection
    tags: Mapping[str, str] = field(default_factory=dict)  # of an alarm that is made for it
    check: bool = False  # what CloudWatch has is to be compared with what is wanted
    detailed: bool = True  # a real point a minute, not every five
    monitored: bool = False  # that was asked for

    # the alarm
    config: dict[str, Any] = field(default_factory=dict)  # as it should be; see `aim`
    digest: str = ""
    armed: str | None = None  # digest of what CloudWatch acknowledged
    removed: bool = False  # CloudWatch acknowledged that there is none
    lacking: bool = False  # it was told that the alarm is not there
    at_work: bool = False  # a worker is calling for it
    tries: int = 0  # failures in a row
    first_failed_at: float | None = None
    again_at: float = 0.0

    # fake points
    seeded: str | None = None  # policy whose first points could be read back
    reseed: bool = False  # the metric is another one now: it needs points before an alarm
    written: float | None = None  # last minute that was written
    voted: bool = False  # a vote stood when that was
    missed: list[float] = field(default_factory=list)  # minutes of our own metric that are to be filled

    # the real CPU
    real: dict[float, float] = field(default_factory=dict)  # recent percents by minute, where we merge them
    recall: bool = False  # our own metric may have gaps, from before this service came up
    read_until: float | None = None
    read_at: float | None = None
    warned: bool = False
    busy: bool | None = None
    last_busy: float | None = None
    idle_since: float | None = None

    # the host itself
    ask: Ask | None = None  # None: nobody can ask it
    listening: Listening = field(default_factory=Listening)

    @property
    def instance(self) -> str:
        """The instance's id."""
        return self.wanted.instance

    @property
    def guarded(self) -> bool:
        """Whether there shall be an alarm."""
        return self.wanted.minutes is not None

    @property
    def must_seed(self) -> bool:
        """Whether fake points have to be visible before the alarm is put."""
        return self.guarded and (self.reseed or (self.wanted.seed and self.seeded != self.wanted.policy))

    def votes(self, now: float) -> bool:
        """Whether the host counts as in use, whatever its CPU."""
        return self.guarded and self.wanted.vote_until is not None and self.wanted.vote_until > now

    def asked(self, at: float) -> bool:
        """Whether the host itself was asked shortly before this time or since; where nobody can ask it, its CPU is all.

        A service that was away does not know what happened meanwhile: a GPU may be busy, somebody may have come.
        """
        if self.ask is None or self.wanted.question is None:
            return True
        return at <= self.listening.known_at + KNOWN_FOR

    def aim(self, region: str, *, own_metric: bool) -> None:
        """Work out how the alarm should be."""
        if self.wanted.minutes is None:
            self.config, self.digest = {}, ""
            return
        self.config = protect.alarm(
            self.instance,
            self.wanted.minutes,
            self.wanted.threshold,
            region=region,
            own_metric=own_metric,
            detailed=self.detailed,
        )
        self.digest = protect.digest_of(self.config)

    def settled(self) -> None:
        """A call for it went well: the next failure is the first again."""
        self.tries, self.first_failed_at, self.again_at = 0, None, 0.0

    def failed(self, now: float, pause: float) -> float:
        """A call for it failed: it is tried again after a pause. Return for how long it has failed."""
        self.first_failed_at = now if self.first_failed_at is None else self.first_failed_at
        self.again_at = now + pause
        self.tries += 1
        return now - self.first_failed_at
