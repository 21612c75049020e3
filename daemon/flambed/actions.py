"""What can be done: actions, named in the imperative, and the protection that hosts should have.

An action is everything that a step needs, chosen beforehand: a step performs it and decides nothing. Every action has
a `Key`; while one with that key is under way or failed a moment ago, `plan.decide` does not ask for it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flambed.desired import Role
from flambed.observed.facts import Key, LaunchSpec


@dataclass(frozen=True, slots=True)
class Action:
    """The base of all actions."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """What is under way while this runs; one key for each instance of a batch."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Find(Action):
    """Look up by tag what exists of the cluster. -> ClusterSurveyed"""

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("find"),)


@dataclass(frozen=True, slots=True)
class Prepare(Action):
    """Resolve the images and instance types of these roles. -> LaunchPrepared"""

    roles: tuple[Role, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("prepare"),)


@dataclass(frozen=True, slots=True)
class Launch(Action):
    """Call RunInstances, once, with this token. -> LaunchAnswered"""

    token: str
    spec: LaunchSpec

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("launch", self.token),)


@dataclass(frozen=True, slots=True)
class Describe(Action):
    """Ask EC2 how these instances are. -> InstancesDescribed"""

    instances: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("describe"),)


@dataclass(frozen=True, slots=True)
class Tag(Action):
    """Put these tags, the name among them, on an instance and its volumes. -> InstanceTagged"""

    instance: str
    volumes: tuple[str, ...]
    tags: Mapping[str, str]
    digest: str

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("tag", self.instance),)


@dataclass(frozen=True, slots=True)
class Start(Action):
    """Start stopped instances. -> StartAccepted"""

    instances: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(Key("start", instance) for instance in self.instances)


@dataclass(frozen=True, slots=True)
class LearnHostKey(Action):
    """Read the host key of an adopted host from its console. -> HostKeyLearned"""

    instance: str

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("host_key", self.instance),)


@dataclass(frozen=True, slots=True)
class SetUp(Action):
    """Connect, see to the host's own key, describe the cluster to it, run the set-up commands from `first` on.

    -> HostReached, HostKeyMade, HostKeyLearned or HostKeyKept, HostInformed, CommandStarted, CommandEnded, SetupDone
    """

    instance: str
    address: str
    host_keys: tuple[str, ...]  # that the host may show, the pinned one first
    rekey: bool  # it is to make itself a key in the place of the one out of its user data
    first: int  # the number of the command to begin with
    attempt: int
    commands: tuple[str, ...]
    digest: str  # of the commands
    description: str  # the text of ~/.flambed/cluster.json
    description_digest: str
    lets_in: str | None  # the cluster's public key, which a factory is to let in
    lets_in_digest: str
    reach_by: float  # UNIX seconds: a host that is not reached by then has failed

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("setup", self.instance),)


@dataclass(frozen=True, slots=True)
class Inform(Action):
    """Bring ~/.flambed/cluster.json on a host up to date. -> HostInformed, and what SetUp tells of its key"""

    instance: str
    address: str
    host_keys: tuple[str, ...]
    rekey: bool
    description: str
    digest: str

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("inform", self.instance),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A factory, as the orchestrator has to know it."""

    instance: str
    name: str
    address: str  # within the network of the cluster
    host_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Acquaint(Action):
    """Tell the orchestrator how to log in to its factories, or a factory to let it in. -> HostAcquainted"""

    instance: str
    address: str
    host_keys: tuple[str, ...]
    peers: tuple[Peer, ...] | None  # None: it is a factory
    digest: str

    @property
    def keys(self) -> tuple[Key, ...]:
        return (Key("acquaint", self.instance),)


@dataclass(frozen=True, slots=True)
class Terminate(Action):
    """Terminate instances. -> TerminationAccepted; those that would not are told one by one."""

    instances: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(Key("terminate", instance) for instance in self.instances)


@dataclass(frozen=True, slots=True)
class CleanUp(Action):
    """Delete those of these volumes that have outlived the instances they were to go with. -> VolumesRemoved, VolumesLeft"""

    volumes: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(Key("clean_up", volume) for volume in self.volumes)


@dataclass(frozen=True, slots=True)
class LetGo(Action):
    """Take the proof that we created them off volumes that are not to go with their instance. -> VolumesLeft"""

    volumes: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(Key("let_go", volume) for volume in self.volumes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One host that seems to be due, as the verdict on it needs it (see `verdict.Evidence`)."""

    instance: str
    minutes: int
    threshold: float
    idle_from: float
    votes: Mapping[str, float]
    mute_since: float | None


@dataclass(frozen=True, slots=True)
class Judge(Action):
    """Read the CPU of hosts that seem to be due, look at them afresh, and judge them. -> InstancesDescribed, Judged"""

    cases: tuple[Case, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(Key("judge", case.instance) for case in self.cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How a host itself is asked whether it is in use, and what its own timer is told."""

    instance: str
    address: str
    host_keys: tuple[str, ...]
    username: str
    minutes: int | None  # the timeout that the timer is told
    threshold: float
    hold_until: float | None
    experiment: bool  # look for the experiment's process
    votes: tuple[str, ...]  # what earlier probes found, as far as is known
    mute: bool  # it did not answer the last ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """Which protection one host should have; the region's keeper makes it true (idle protection, `keeper`).

    `minutes` None: no alarm shall exist, because the timeout is -1 or the instance is gone.
    """

    instance: str
    minutes: int | None
    threshold: float  # percent of CPU under which the host counts as idle
    vote_until: float | None  # the host counts as in use until then; None: no vote
    ahead: int = 5  # minutes ahead of now for which a vote has points
    seed: bool  # it may have been idle for hours: the alarm waits until fake points can be read back
    policy: str  # digest of what the alarm stands for; seeding happens once for each
    question: Question | None = None  # None: the host is not asked
    gone: bool = False  # the instance exists no more: only its alarm is left to be deleted
