"""One instance as the world knows it, and the stages that it may go through.

    requested -> pending -> running -> reachable -> setting_up -> ready -> stopping -> gone, with failed beside

`stage` is what became of the instance for its cluster; `state` is EC2's last word about the machine. A stage changes
only through `Instance.to`, which holds the step against `LEGAL`: anything else is a bug, and the error tells the
instance's whole story.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from flambed.desired import Role
from flambed.errors import FlambedError, Reason
from flambed.verdict import Finding


class Stage(StrEnum):
    """How far an instance has come."""

    REQUESTED = "requested"
    PENDING = "pending"
    RUNNING = "running"
    REACHABLE = "reachable"
    SETTING_UP = "setting_up"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"
    GONE = "gone"


_ENDS = frozenset({Stage.STOPPING, Stage.GONE})

LEGAL: Mapping[Stage, frozenset[Stage]] = {
    Stage.REQUESTED: _ENDS | {Stage.PENDING, Stage.RUNNING},
    Stage.PENDING: _ENDS | {Stage.RUNNING},
    Stage.RUNNING: _ENDS | {Stage.REACHABLE, Stage.FAILED},
    Stage.REACHABLE: _ENDS | {Stage.SETTING_UP, Stage.READY, Stage.FAILED},
    Stage.SETTING_UP: _ENDS | {Stage.READY, Stage.FAILED},
    Stage.READY: _ENDS | {Stage.REACHABLE, Stage.SETTING_UP, Stage.FAILED},  # its commands or its description changed
    Stage.FAILED: _ENDS | {Stage.RUNNING},  # somebody asked for another try
    Stage.STOPPING: frozenset({Stage.PENDING, Stage.RUNNING, Stage.GONE}),  # stopped machines can be started again
    Stage.GONE: frozenset(),
}

ALIVE = frozenset(Stage) - _ENDS
"""The stages in which an instance counts as one of its cluster's."""

UNDER_WAY = frozenset({Stage.REQUESTED, Stage.PENDING, Stage.RUNNING, Stage.REACHABLE, Stage.SETTING_UP})
"""The stages that lead to another one without anybody's help."""

DYING = frozenset({"shutting-down", "terminated"})
"""EC2's words for a machine that is on its way out, or gone."""

STORY_LENGTH = 24


class IllegalTransitionError(FlambedError):
    """A stage was to follow one that it cannot follow: a bug in the fold, told with the instance's story."""


class Ending(StrEnum):
    """Why an instance ended."""

    ASKED = "asked"  # we terminated it
    IDLE = "idle"  # its protection did
    LOST = "lost"  # anything else: a person, EC2, the host itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last time that an action did not do what it was for."""

    reason: Reason
    code: str
    message: str
    at: float
    since: float  # when it first failed like that, in a row
    tries: int  # how often in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The last verdict on an instance that its alarm should have ended."""

    finding: Finding
    why: str
    at: float
    times: int  # how often in a row it was the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance. Times are UNIX seconds on the service's clock."""

    id: str
    role: Role
    index: int | None  # None for the orchestrator
    type: str
    stage: Stage = Stage.REQUESTED
    stage_at: float
    story: tuple[tuple[float, Stage], ...] = ()

    # the machine, as EC2 tells it
    state: str = "pending"
    why: str | None = None
    name: str | None = None
    private_host: str | None = None
    public_host: str | None = None
    volumes: tuple[str, ...] = ()
    disposable: tuple[str, ...] = ()  # those that EC2 deletes with it; of one that is gone: those that may be left
    lasting: tuple[str, ...] = ()  # those that EC2 keeps, as far as they still carry the proof that we made them
    kept: tuple[str, ...] = ()  # those that nobody but a person deletes
    launched_at: float
    running_at: float | None = None
    detailed: bool = False  # it was described while running: volumes and public address are known
    looked_at: float = 0.0
    looks: int = 0  # since the stage changed
    doubted_at: float | None = None  # something hints at a change that EC2 has not confirmed
    misses: int = 0  # in how many looks in a row it did not appear
    missed_at: float | None = None

    # where it comes from, and where it goes
    adopted: bool = False  # this service did not launch it
    found: bool = False  # it is ours by its tags, and its launch is not on record
    request: int = 0  # the number of the `up` that launched it
    ending: bool = False  # we asked EC2 to terminate it, and it accepted
    ending_at: float | None = None  # when it first accepted
    asked_at: float | None = None  # and when it last did
    past: bool = False  # it was gone before the present `up`: only what it left behind is of interest
    overdue: int = 0  # how often it was told that it does not end
    ended: Ending | None = None
    absent: bool = False  # believed gone because EC2 did not show it, not because EC2 said so
    tagged: str | None = None

    # the host
    host_key: str | None = None
    key_doubted: bool = False  # the key that we took for its own was not
    reach_from: float | None = None  # from when on it has to be reachable
    setup_from: float | None = None  # from when on set-up keeps its protection off
    informed: str | None = None
    setup_digest: str | None = None  # of the list of commands that the next three speak of
    commands_done: int = 0
    command: int | None = None  # running now
    attempt: int = 0
    setup_done: str | None = None  # digest of the list that was finished
    ready_at: float | None = None
    failure: Failure | None = None

    # its protection
    alarm: str | None = None  # digest of the configuration that CloudWatch acknowledged
    alarm_removed: bool = False  # it is known that there is none
    fired: bool = False  # its alarm ended it, and should not have
    alarm_possible: bool = False  # a policy that asked for one applied to it before the present one
    alarm_lacking: Failure | None = None
    policy: str | None = None  # what the alarm stands for
    policy_since: float | None = None
    seeded: str | None = None  # the policy whose first points were seen
    last_busy: float | None = None
    busy: bool = False
    votes: Mapping[str, float] = field(default_factory=dict)  # what probes found in use, and since when
    vote_ended_at: float | None = None
    timer: str | None = None  # what the host's own timer told of itself: renewed, off or absent
    timer_minutes: int | None = None
    mute_since: float | None = None  # it does not answer probes since then
    judged: Judgement | None = None

    def to(self, stage: Stage, at: float) -> Instance:
        """Return the instance in `stage`.

        Raises:
            IllegalTransitionError: `stage` cannot follow the present one.
        """
        if stage is self.stage:
            return self
        if stage not in LEGAL[self.stage]:
            story = " -> ".join(f"{then} ({when:.3f})" for when, then in self.story)
            raise IllegalTransitionError(
                f"instance {self.id} ({self.role}) cannot go from {self.stage} to {stage}; its story: {story}"
            )
        return replace(
            self,
            stage=stage,
            stage_at=at,
            looks=0,
            story=(*self.story, (at, stage))[-STORY_LENGTH:],
        )

    @property
    def alarm_left(self) -> bool:
        """Whether CloudWatch may still have an alarm of it."""
        return not self.alarm_removed and (self.alarm is not None or self.alarm_possible)

    @property
    def volumes_left(self) -> bool:
        """Whether it is gone, and may have left volumes behind that are ours to delete."""
        return self.stage is Stage.GONE and not self.adopted and bool(self.disposable)

    @property
    def alive(self) -> bool:
        """Whether it counts as one of its cluster's, or will again once it is started."""
        return self.stage in ALIVE or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the machine is stopped, or about to be, and can be started again."""
        return not self.ending and self.state in ("stopping", "stopped")
