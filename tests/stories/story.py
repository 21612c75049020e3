"""A stage for stories: facts go in, actions come out, and both can be read like prose.

A story has no loop and no AWS: it folds facts and decides upon the world, as `loop` does, and writes down in one line
what each decision asks for. Time passes only where the story says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flambed.actions import (
    Acquaint,
    Action,
    CleanUp,
    Describe,
    Find,
    Inform,
    Judge,
    Launch,
    LearnHostKey,
    LetGo,
    Prepare,
    Protection,
    SetUp,
    Start,
    Tag,
    Terminate,
)
from flambed.codec import decode_world, encode_world
from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.observed import facts
from flambed.observed.facts import Fact, Image, Key, LaunchIntended, LaunchSpec, Seen
from flambed.observed.fold import fold
from flambed.observed.instance import Instance, Stage
from flambed.observed.world import World
from flambed.plan import Decision, Rules, decide
from flambed.policy import policy_of

NOON = 1_800_000_000.0
KEY = "ssh-ed25519 AAAAbootstrap"


def cluster(**changes: Any) -> Cluster:
    """Return a cluster of one orchestrator and two factories that never end by themselves."""
    base: dict[str, Any] = {
        "name": "x",
        "creator": "user@company.com",
        "factories_num": 2,
        "factories_type": "g3.4xlarge",
        "orchestrator_type": "t3.large",
        "key_name": "my_key",
        "key": "/keys/my_key",
        "security_group": "sg-1",
        "subnet_id": "subnet-1",
        "factories_timeout": -1,
        "setup_cmds": ("prepare",),
    }
    return Cluster.model_validate({**base, **changes})


class Story:
    """One cluster's life, told fact by fact."""

    def __init__(self, *, has_events: bool = True, may_adopt: bool = False) -> None:
        self.world = World()
        self.now = NOON
        self.rules = Rules(daemon="d1", run="r", has_events=has_events)
        self.may_adopt = may_adopt
        self.running: list[Action] = []
        self.decision: Decision | None = None

    # --- what happens -----------------------------------------------------------------------------------------

    def happens(self, *happened: Fact) -> None:
        """Fold facts; whatever world comes of it can be written to the journal and read back."""
        for fact in happened:
            self.world = fold(self.world, fact)
            assert decode_world(encode_world(self.world)) == self.world

    def up(self, wanted: Cluster | None = None, **changes: Any) -> None:
        """Somebody runs `up`."""
        asked = facts.UpRequested(
            at=self.now,
            desired=wanted or cluster(),
            region="us-east-1",
            cluster_id="c1",
            host_key=KEY,
            owner=1000,
            by=1000,
            may_adopt=self.may_adopt,
        )
        self.happens(replace(asked, **changes))

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def ends(self, kind: str, *found: Fact, reason: Reason | None = None, code: str = "Code", say: str = "no") -> None:
        """Let the actions of a kind end: with what they found, or with a failure."""
        actions = [action for action in self.running if type(action).__name__ == kind]
        assert actions, f"no {kind} is under way: {self.running}"
        self.happens(*found)
        for action in actions:
            self.running.remove(action)
            for key in action.keys:
                self._ended(key, reason, code, say)

    def ends_one(self, action: Action, *found: Fact, reason: Reason | None = None, say: str = "no") -> None:
        """Let one action end."""
        self.running.remove(action)
        self.happens(*found)
        for key in action.keys:
            self._ended(key, reason, "Code", say)

    def _ended(self, key: Key, reason: Reason | None, code: str, say: str) -> None:
        if reason is None:
            self.happens(facts.ActionEnded(at=self.now, key=key))
        else:
            self.happens(facts.ActionFailed(at=self.now, key=key, reason=reason, code=code, message=say))

    # --- what is decided --------------------------------------------------------------------------------------

    def decides(self) -> list[str]:
        """Decide until nothing more follows, begin what was asked for, and return it in words."""
        lines: list[str] = []
        for _ in range(10):
            decision = decide(self.world.desired, self.world, self.now, self.rules)
            self.decision = decision
            for action in decision.actions:
                if isinstance(action, Launch) and action.token not in self.world.intents:
                    self.happens(LaunchIntended(at=self.now, token=action.token, spec=action.spec))
            self.happens(*decision.conclusions)
            keys = tuple(key for action in decision.actions for key in action.keys)
            if keys:
                self.happens(facts.ActionsBegan(at=self.now, keys=keys))
            self.running += decision.actions
            lines += [words(action) for action in decision.actions]
            if not decision.conclusions and not decision.actions:
                assert decision.wake_at is None or decision.wake_at > self.now, "it would decide without a pause"
                return lines
        raise AssertionError(f"deciding does not settle: {lines}")

    @property
    def protection(self) -> dict[str, Protection]:
        """The table of the last decision."""
        assert self.decision is not None
        return dict(self.decision.protection)

    def instance(self, subject: str) -> Instance:
        """Return an instance."""
        return self.world.instances[subject]

    def stages(self) -> dict[str, Stage]:
        """Return the stage of each instance."""
        return {i.id: i.stage for i in self.world.instances.values()}

    # --- shortcuts --------------------------------------------------------------------------------------------

    def asks(self, wanted: Cluster | None = None) -> None:
        """Tell the usual beginning, up to the point where RunInstances is called for both roles."""
        self.up(wanted)
        self.decides()
        self.finds()
        self.decides()
        self.prepares()
        self.decides()

    def finds(self, *seen: Seen) -> None:
        """The look by tag ends."""
        self.ends("Find", facts.ClusterSurveyed(at=self.now, instances=seen, began=self.now))

    def prepares(self) -> None:
        """Images and types are known."""
        image = Image(id="ami-1", root_device="/dev/sda1", min_gib=8)
        [action] = [a for a in self.running if isinstance(a, Prepare)]
        specs = tuple(
            LaunchSpec(role=role, count=0, image=image, type="t", ebs_optimized=False) for role in action.roles
        )
        self.ends("Prepare", facts.LaunchPrepared(at=self.now, specs=specs))

    def launches(self, role: Role, *ids: str) -> None:
        """The launch of a role is answered with these instances."""
        [action] = [a for a in self.running if isinstance(a, Launch) and a.spec.role is role]
        seen = tuple(see(i, role, "pending", token=action.token) for i in ids)
        self.ends_one(action, facts.LaunchAnswered(at=self.now, token=action.token, instances=seen))

    def runs(self, *ids: str) -> None:
        """Events say that instances run."""
        self.happens(*(facts.StateNotified(at=self.now, instance=i, state="running") for i in ids))

    def described(self, *seen: Seen, missing: Iterable[str] = ()) -> None:
        """EC2 answers a look."""
        self.ends("Describe", facts.InstancesDescribed(at=self.now, instances=seen, missing=tuple(missing)))

    def sets_up(self, *ids: str) -> None:
        """Hosts are set up, with every command ending well."""
        for subject in ids:
            [action] = [a for a in self.running if isinstance(a, SetUp) and a.instance == subject]
            self.ends_one(
                action,
                facts.HostReached(at=self.now, instance=subject),
                *self._rekeyed(action),
                *self._lets_in(action),
                facts.HostInformed(at=self.now, instance=subject, digest=action.description_digest),
                facts.CommandStarted(at=self.now, instance=subject, number=0, attempt=action.attempt),
                facts.CommandEnded(
                    at=self.now, instance=subject, number=0, attempt=action.attempt, code=0, digest=action.digest
                ),
                facts.SetupDone(at=self.now, instance=subject, digest=action.digest),
            )

    def _lets_in(self, action: SetUp) -> list[Fact]:
        if action.lets_in is None:
            return []
        return [facts.HostAcquainted(at=self.now, instance=action.instance, digest=action.lets_in_digest)]

    def tags(self) -> None:
        """All tagging ends well."""
        for action in [a for a in self.running if isinstance(a, Tag)]:
            self.ends_one(action, facts.InstanceTagged(at=self.now, instance=action.instance, digest=action.digest))

    def informs(self) -> None:
        """All hosts take the new description."""
        for action in [a for a in self.running if isinstance(a, Inform)]:
            told = facts.HostInformed(at=self.now, instance=action.instance, digest=action.digest)
            self.ends_one(action, *self._rekeyed(action), told)

    def _rekeyed(self, action: SetUp | Inform) -> list[Fact]:
        if not action.rekey:
            return []
        instance, made = action.instance, f"{KEY}-of-{action.instance}"
        return [
            facts.HostKeyMade(at=self.now, instance=instance, public_key=made),
            facts.HostKeyLearned(at=self.now, instance=instance, public_key=made, source="replaced"),
        ]

    def becomes_ready(self, wanted: Cluster | None = None) -> None:
        """Tell the usual life up to ready: orchestrator i-o and factories i-0, i-1, ..."""
        wanted = wanted or cluster()
        self.asks(wanted)
        factories = [f"i-{number}" for number in range(wanted.factories_num)]
        self.launches(Role.ORCHESTRATOR, "i-o")
        self.launches(Role.FACTORY, *factories)
        everyone = ["i-o", *factories]
        self.decides()
        self.runs(*everyone)
        self.decides()
        self.described(*(see(i, self.instance(i).role, "running") for i in everyone))
        self.arms(*everyone)
        self.decides()
        self.tags()
        self.sets_up(*everyone)
        self.decides()
        assert self.world.phase == "ready", self.world.reason
        assert self.decides() == []

    def arms(self, *ids: str) -> None:
        """CloudWatch acknowledges the alarms of hosts that have a timeout."""
        assert self.world.desired is not None
        for subject in ids:
            policy = policy_of(self.world.desired, self.instance(subject).role)
            if policy.minutes is not None:
                self.happens(facts.AlarmArmed(at=self.now, instance=subject, digest="a", policy=policy.digest))


def see(subject: str, role: Role | None, state: str, **changes: Any) -> Seen:
    """Return an instance as EC2 describes it."""
    number = sum(subject.encode()) % 250
    if (cluster_id := changes.get("tags", {}).get("flambed:cluster")) is not None:
        changes = {"token": f"{cluster_id}-1-x-9"} | changes  # launched for it, by a run that is over
    seen = Seen(
        id=subject,
        state=state,
        role=role,
        launched_at=NOON,
        private_host=None if state == "terminated" else f"127.10.0.{number}",
        volumes=(f"vol-{subject}",) if state == "running" else (),
    )
    return replace(seen, **changes)


def words(action: Action) -> str:
    """Return an action in one line."""
    match action:
        case Find():
            return "find"
        case Prepare(roles):
            return f"prepare {' '.join(roles)}"
        case Launch(token, spec):
            return f"launch {spec.count} {spec.role} ({token})"
        case Describe(instances) | Start(instances) | Terminate(instances):
            return f"{type(action).__name__.lower()} {' '.join(instances)}"
        case Tag(instance, _, tags):
            return f"tag {instance} {tags['Name']}"
        case LearnHostKey(instance):
            return f"learn the host key of {instance}"
        case SetUp():
            return f"set up {action.instance} from {action.first}"
        case Inform(instance):
            return f"inform {instance}"
        case Acquaint(instance, _, _, peers):
            return f"acquaint {instance}" + (f" with {' '.join(peer.instance for peer in peers)}" if peers else "")
        case Judge(cases):
            return f"judge {' '.join(case.instance for case in cases)}"
        case CleanUp(volumes) | LetGo(volumes):
            return f"{'clean up' if isinstance(action, CleanUp) else 'let go'} {' '.join(volumes)}"
        case _:
            raise AssertionError(action)
