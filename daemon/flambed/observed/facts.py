"""What can have happened: facts, named in the past tense.

Everything that the service learns or decides becomes a fact: a person's command, an answer of AWS, an event, a look at
what exists, the end of a set-up command. Facts are journaled in the order in which they came, and folded into the
`World` (see `world`). A fact is a value: it holds no connection, reads no clock and can be written to JSON and back.

`at` is the time at which it became known, UNIX seconds, on the service's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.verdict import Finding


@dataclass(frozen=True, slots=True)
class Key:
    """What an action is about: its kind, and the instance, client token or role it concerns ("" for the cluster)."""

    kind: str
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One instance as EC2 described it (RunInstances or DescribeInstances)."""

    id: str
    state: str  # EC2's word: pending, running, shutting-down, terminated, stopping, stopped
    role: Role | None = None  # out of the tag Role; None where the tag is missing or lagging
    name: str | None = None  # the tag Name
    type: str = ""
    token: str | None = None  # the client token of its launch
    launched_at: float | None = None
    private_host: str | None = None
    public_host: str | None = None
    volumes: tuple[str, ...] = ()
    disposable: tuple[str, ...] = ()  # those of its volumes that EC2 deletes with it (DeleteOnTermination)
    lasting: tuple[str, ...] = ()  # and those that it does not
    tags: Mapping[str, str] = field(default_factory=dict)
    monitored: bool = False  # detailed monitoring, a point a minute
    why: str | None = None  # EC2's StateReason, its message


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What must be known of an image to launch from it."""

    id: str
    root_device: str  # RootDeviceName
    min_gib: int  # the size of its root snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Everything a RunInstances call is made of, apart from the token and the user data (see `keys`)."""

    role: Role
    count: int
    image: Image
    type: str
    ebs_optimized: bool
    user_data: str = ""  # digest under which its bytes are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """The base of all facts."""

    at: float


# --- what people asked for ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRequested(Fact):
    """Somebody described the cluster as it shall be."""

    desired: Cluster
    region: str
    cluster_id: str  # random, made at the first `up`; part of every client token
    host_key: str  # public half of the bootstrap host key that the user data of launched hosts carries
    owner: int  # uid
    by: int  # uid of the caller
    may_adopt: bool  # the owner may take over instances that this service did not launch
    shrink: bool = False
    host_key_since: float = 0.0  # hosts that were launched before carry another key
    peer_key: str = ""  # public half of the key with which the orchestrator logs in to the factories


@dataclass(frozen=True, slots=True, kw_only=True)
class DownRequested(Fact):
    """Somebody gave the cluster back."""

    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequested(Fact):
    """Somebody wants failed hosts tried again; no instances: all that failed."""

    by: int
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPlaced(Fact):
    """Somebody keeps idle termination off until then."""

    by: int
    until: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReleased(Fact):
    """Somebody ended the hold."""

    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFound(Fact):
    """The tags of instances told of a cluster of ours whose record was lost (see `recovery`)."""

    desired: Cluster  # no more of it than its instances tell
    region: str
    cluster_id: str
    owner: int  # uid, out of the tag flambed:owner; -1 where that says nothing
    host_key: str  # public half of the kept bootstrap host key; "" where that was lost, too
    instances: tuple[Seen, ...]
    began: float  # when the look began


# --- the service itself ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStarted(Fact):
    """The service came up: nothing of what was under way still is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost(Fact):
    """The queue that tells of state changes cannot be read: instances are looked at instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsResumed(Fact):
    """The queue can be read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsBegan(Fact):
    """The loop started these actions."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEnded(Fact):
    """An action did what it was for; what it found came as facts of their own."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFailed(Fact):
    """An action did not do what it was for, as may be expected."""

    key: Key
    reason: Reason
    code: str  # AWS's or the SSH library's own word for it
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChanged(Fact):
    """The cluster as a whole is in another phase, or in the same one for another reason."""

    phase: str
    reason: str | None


# --- launching ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSurveyed(Fact):
    """Everything that carries this cluster's tags, in any state, looked up by tag.

    `began` is when the look began: what was launched after that cannot be missed by it.
    """

    instances: tuple[Seen, ...]
    began: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPrepared(Fact):
    """The images and types of a launch are known, and fit."""

    specs: tuple[LaunchSpec, ...]  # one a role; their counts are 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchIntended(Fact):
    """This RunInstances is about to be called; after a crash the same one is called again."""

    token: str
    spec: LaunchSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAnswered(Fact):
    """RunInstances created these, which may be fewer than asked."""

    token: str
    instances: tuple[Seen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchAbandoned(Fact):
    """This RunInstances is not called again; AWS has said that it created nothing."""

    token: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRolledBack(Fact):
    """The launch has failed for good: what it created is given back, whatever late answers say, until the next `up`."""

    why: str


# --- instances ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StateNotified(Fact):
    """An event said that an instance changed its state. A hint: it can be lost, doubled and late."""

    instance: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptionNotified(Fact):
    """EC2 is going to take a spot instance back, or would like to."""

    instance: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesDescribed(Fact):
    """These were asked for by id; `missing` are the ids that EC2 said it does not know."""

    instances: tuple[Seen, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTagged(Fact):
    """An instance and its volumes carry their tags and name."""

    instance: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationAccepted(Fact):
    """EC2 took the request; the instances are not gone yet."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationOverdue(Fact):
    """An instance that is to end does not; it is told again each time that twice as much time has passed."""

    instance: str
    since: float  # when it was first asked to
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesRemoved(Fact):
    """These volumes of instances that ended do not exist any more."""

    volumes: tuple[str, ...]
    deleted: tuple[str, ...] = ()  # those of them that had outlived their instance and were deleted by us


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesLeft(Fact):
    """These volumes are for people to keep: they carry no proof (any more) that a launch of ours created them."""

    volumes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAccepted(Fact):
    """EC2 took the request to start stopped instances."""

    instances: tuple[str, ...]


# --- hosts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyLearned(Fact):
    """The host's public key, from a source that vouches for it."""

    instance: str
    public_key: str  # OpenSSH format, without a comment
    source: str  # console; replaced: made on the host, in the place of the one in its user data


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyMade(Fact):
    """The host has made itself a key, and may show it from now on in the place of the one out of its user data."""

    instance: str
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyKept(Fact):
    """The host goes on with the key out of its user data: it cannot be given one of its own."""

    instance: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyRefused(Fact):
    """The host showed a key that is not pinned, and was not logged in to."""

    instance: str
    pinned: tuple[str, ...]
    shown: str | None  # None: it has none of the pinned kind


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyTrusted(Fact):
    """A person has checked the key that the host shows, and had it pinned."""

    instance: str
    public_key: str
    was: str | None  # the key that was pinned before
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReached(Fact):
    """The first login over SSH, over the pinned host key."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInformed(Fact):
    """The host has the cluster's description, ~/.flambed/cluster.json."""

    instance: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAcquainted(Fact):
    """The host has its part of the orchestrator's way to the factories: who is let in, or whom it may trust."""

    instance: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStarted(Fact):
    """A set-up command is running on the host, or was found running."""

    instance: str
    number: int  # counts from 0
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnded(Fact):
    """A set-up command ended; its output is kept (see `outputs`)."""

    instance: str
    number: int
    attempt: int
    code: int
    digest: str = ""  # of the list of commands that it is one of


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupDone(Fact):
    """All set-up commands ended with 0."""

    instance: str
    digest: str  # of the list of commands


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGivenUp(Fact):
    """The host could not be set up by its deadline; it waits for a person."""

    instance: str
    reason: Reason
    message: str


# --- protection --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmArmed(Fact):
    """CloudWatch acknowledged the alarm."""

    instance: str
    digest: str  # of the whole configuration
    policy: str  # digest of the policy that it stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmLacking(Fact):
    """The alarm that should be there could not be put, or was changed or deleted by others."""

    instance: str
    reason: Reason
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmFired(Fact):
    """The alarm of an instance that has ended stands at ALARM: it was the alarm that ended it."""

    instance: str
    why: str  # CloudWatch's own words


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRemoved(Fact):
    """There is no alarm any more."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsSeeded(Fact):
    """Fake CPU points can be read back: an alarm put now starts its clock from here."""

    instance: str
    policy: str  # digest of the policy that they stand for


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameBusy(Fact):
    """The host's CPU went over its threshold."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameIdle(Fact):
    """The host's CPU fell under its threshold; `since` is the last busy minute, None where none was read."""

    instance: str
    since: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteBegan(Fact):
    """A look at the host itself found it in use."""

    instance: str
    vote: str  # gpu, terminal or experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteEnded(Fact):
    """That use ended, or was not seen again in time."""

    instance: str
    vote: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerSeen(Fact):
    """The host's own idle timer told its state."""

    instance: str
    state: str  # renewed, off or absent
    minutes: int | None  # the timeout that it acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMute(Fact):
    """The host does not answer probes any more."""

    instance: str
    since: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHeard(Fact):
    """It answers them again."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Fact):
    """A host that its alarm should have ended was examined (see `verdict`)."""

    instance: str
    finding: Finding
    why: str
    last_busy: float | None


FACTS: Mapping[str, type[Fact]] = {
    kind.__name__: kind
    for kind in (
        UpRequested, DownRequested, RetryRequested, HoldPlaced, HoldReleased, ClusterFound,
        ServiceStarted, EventsLost, EventsResumed, ActionsBegan, ActionEnded, ActionFailed, PhaseChanged,
        ClusterSurveyed, LaunchPrepared, LaunchIntended, LaunchAnswered, LaunchAbandoned, LaunchRolledBack,
        StateNotified, InterruptionNotified, InstancesDescribed, InstanceTagged, TerminationAccepted,
        TerminationOverdue, VolumesRemoved, VolumesLeft, StartAccepted,
        HostKeyLearned, HostKeyMade, HostKeyKept, HostKeyRefused, HostKeyTrusted,
        HostReached, HostInformed, HostAcquainted, CommandStarted, CommandEnded, SetupDone, HostGivenUp,
        AlarmArmed, AlarmLacking, AlarmFired, AlarmRemoved, PointsSeeded, BecameBusy, BecameIdle,
        VoteBegan, VoteEnded, TimerSeen, HostMute, HostHeard, Judged,
    )
}  # fmt: skip
"""Every kind of fact, by the name under which the journal keeps it."""
