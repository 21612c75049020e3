"""One region of AWS in memory, under the SDK's own method names, with the semantics that the service relies upon.

It is what exists, and outlives the service's crashes; a process reaches it by a `Wire`. All timing is the running loop's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from flambed.aws import Answer
from tests.fakes import OWNER, client_error, state_change
from tests.simulation.alarms import CloudWatch
from tests.simulation.faults import Weather
from tests.simulation.timeline import Timeline
from tests.simulation.timer import Timer, minutes_in
from tests.simulation.use import Stretch, Uses, drawn
from tests.simulation.volumes import Volumes
from tests.virtualtime import START

NEVER = float("inf")
EXISTS = frozenset({"pending", "running", "stopping", "stopped"})
IMAGE = "ami-0123456789abcdef0"
VISIBLE_AFTER_END = 3600.0
CONSOLE_AFTER = 180.0
INTERRUPTS_AFTER = 120.0
TOKEN_LIVES = 24 * 3600.0
OWN_TAGS = ("creator", "Purpose", "Cluster-Name", "Role", "flambed:cluster", "flambed:daemon", "flambed:owner")

Identity = tuple[str, str]


class Witness(Protocol):
    """Who is told of all that is done to the cloud."""

    def launching(self, token: str, params: Mapping[str, Any], cluster: Identity) -> None:
        """RunInstances was called."""

    def touched(self, machine: Machine, how: str) -> None:
        """Something was done to a machine by the service."""

    def unguarded(self, machine: Machine) -> None:
        """The alarm of a machine was deleted."""

    def moved(self, machine: Machine, state: str, why: str) -> None:
        """A machine has come to another state."""


@dataclass(slots=True, eq=False)
class Machine:
    """One EC2 instance. Times are the loop's seconds."""

    id: str
    number: int
    token: str
    tags: dict[str, str]
    launched_at: float
    kind: str = "g5.xlarge"
    ours: bool = True
    adoptable: bool = False  # an admin wants it to be taken over
    state: str = "pending"
    history: list[tuple[float, str]] = field(default_factory=list)
    shown_from: float = 0.0  # Describe, CreateTags and Terminate know its id
    tags_from: float = 0.0  # tag filters find it
    running_at: float | None = None
    ended_at: float | None = None
    why: str | None = None
    ended_by: str | None = None  # who asked for its end
    protected: bool = False
    was_protected: bool = False
    uses: Uses = field(default_factory=dict)
    timer: Timer | None = None
    spared: bool = False  # its alarm came, and did nothing
    deaf: Stretch = (0.0, 0.0)  # from when until when it does not answer
    impostor: Stretch = (0.0, 0.0)  # from when until when somebody else answers in its place
    boots: int = 0

    @property
    def role(self) -> str:
        """Its role in its cluster."""
        return self.tags.get("Role", "")

    @property
    def cluster(self) -> Identity:
        """Creator and name of its cluster."""
        return self.tags.get("creator", ""), self.tags.get("Cluster-Name", "")

    @property
    def exists(self) -> bool:
        """Whether it is there, and not on its way out."""
        return self.state in EXISTS

    @property
    def has_gpu(self) -> bool:
        """Whether it has a GPU."""
        return self.kind.startswith("g")

    @property
    def address(self) -> str:
        """Its private address."""
        return f"10.0.{self.number >> 8}.{self.number & 255}"

    @property
    def volume(self) -> str:
        """Its root volume's id."""
        return f"vol-{self.number:017x}"

    def seen_at(self, at: float) -> str:
        """Return the state that it was in at a time."""
        return next((state for since, state in reversed(self.history) if since <= at), "pending")


class Queue:
    """A standard queue: what is not deleted comes again."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.tags: dict[str, str] = {}
        self._messages: dict[str, tuple[float, str]] = {}  # by receipt: visible from when, body
        self._numbers = itertools.count()

    def send(self, body: str) -> None:
        """Put a message in."""
        self._messages[f"r{next(self._numbers)}"] = (0.0, body)
        self.came.set()

    def receive(self, now: float, most: int) -> list[dict[str, str]]:
        """Take what is visible; it is hidden for half a minute."""
        found = [receipt for receipt, (since, _) in self._messages.items() if since <= now][:most]
        for receipt in found:
            self._messages[receipt] = (now + 30.0, self._messages[receipt][1])
        return [{"Body": self._messages[receipt][1], "ReceiptHandle": receipt} for receipt in found]

    def delete(self, receipts: Iterable[str]) -> None:
        """Forget messages."""
        for receipt in receipts:
            self._messages.pop(receipt, None)


class Cloud:
    """All that exists."""

    def __init__(self, weather: Weather, witness: Witness, timeline: Timeline) -> None:
        self._weather = weather
        self.witness = witness
        self.timeline = timeline
        self.later = timeline.later
        self.lacks: set[Identity] = (
            set()
        )  # clusters that were told, or shown by a partial launch, that there is no capacity
        self._launches: dict[str, tuple[float, dict[str, Any], list[Machine]]] = {}
        self._numbers = itertools.count(1)
        self.machines: dict[str, Machine] = {}
        self.queue = Queue()
        self.watch = CloudWatch(self, weather)
        self.volumes = Volumes(self, weather)

    @property
    def now(self) -> float:
        """Seconds since the life began."""
        return self.timeline.now

    def alive(self, cluster: Identity | None = None) -> list[Machine]:
        """Return the machines of ours that exist, of one cluster or of all."""
        return [m for m in self.machines.values() if m.ours and m.exists and cluster in (None, m.cluster)]

    # --- EC2 -----------------------------------------------------------------------------------------------------

    def run_instances(self, params: Mapping[str, Any]) -> Answer:
        token, now = params["ClientToken"], self.now
        [tags] = [one["Tags"] for one in params["TagSpecifications"] if one["ResourceType"] == "instance"]
        given = {tag["Key"]: tag["Value"] for tag in tags}
        cluster = given["creator"], given["Cluster-Name"]
        self.witness.launching(token, params, cluster)
        if token in self._launches and now < self._launches[token][0] + TOKEN_LIVES:
            return self._again(token, params)
        weather = self._weather
        if now < weather.calm_at:
            if any(begins <= now < ends for begins, ends in weather.no_capacity):
                self.lacks.add(cluster)
                raise client_error("InsufficientInstanceCapacity", "There is no capacity in this zone.", 500)
            if now >= weather.quota_from:
                raise client_error("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit.")
        count = params["MaxCount"]
        if now < weather.calm_at and count > 1 and weather.chance(weather.partial):
            count = weather.rng.randint(1, count - 1)
            self.lacks.add(cluster)
        machines = [self.launch(token, given, kind=params["InstanceType"]) for _ in range(count)]
        if (minutes := minutes_in(params)) is not None:
            for machine in machines:
                machine.timer = Timer(self, machine, minutes)
        self._launches[token] = (now, dict(params), machines)
        return {"Instances": [self._describe(m) for m in machines]}

    def _again(self, token: str, params: Mapping[str, Any]) -> Answer:
        _, before, machines = self._launches[token]
        if before != params:
            raise client_error("IdempotentParameterMismatch", "The client token was used with other parameters.")
        if self._weather.forgets_tokens and not any(m.exists for m in machines):
            raise client_error("IdempotentInstanceTerminated", "The instances of that token are terminated.")
        return {"Instances": [self._describe(m) for m in machines]}

    def describe_instances(self, params: Mapping[str, Any]) -> Answer:
        filters = {one["Name"]: one["Values"] for one in params["Filters"]}
        by_tag = any(name.startswith("tag:") for name in filters)
        after = params.get("NextToken", "")
        if after and (torn := self._weather.breaks_off(self.now)) is not None:
            raise torn
        found = [
            m
            for m in self.machines.values()
            if m.id > after
            and self._is_shown(m)
            and (not by_tag or m.tags_from <= self.now)
            and all(_fits(m, *f) for f in filters.items())
        ]
        page = min(self._weather.page, params["MaxResults"])
        answer: dict[str, Any] = {"Reservations": [{"Instances": [self._describe(m)]} for m in found[:page]]}
        return answer | ({"NextToken": found[page - 1].id} if len(found) > page else {})

    def terminate_instances(self, params: Mapping[str, Any]) -> Answer:
        machines = self._known(params["InstanceIds"])
        for machine in machines:
            if machine.protected and machine.exists:
                words = (
                    f"The instance '{machine.id}' may not be terminated. Modify its 'disableApiTermination' attribute."
                )
                raise client_error("OperationNotPermitted", words)
        for machine in machines:
            self.witness.touched(machine, "terminated")
            self.end(machine, "User initiated", by="service")
        return {"TerminatingInstances": [{"InstanceId": m.id} for m in machines]}

    def start_instances(self, params: Mapping[str, Any]) -> Answer:
        machines = self._known(params["InstanceIds"])
        if wrong := [m for m in machines if m.state != "stopped"]:
            raise client_error(
                "IncorrectInstanceState", f"The instance '{wrong[0].id}' is not in a state to be started."
            )
        for machine in machines:
            self.witness.touched(machine, "started")
            self.move(machine, "pending", "started")
            self.later(self._weather.rng.uniform(5, 17), self._run, machine)
        return {}

    def create_tags(self, params: Mapping[str, Any]) -> Answer:
        ids = [resource for resource in params["Resources"] if resource.startswith("i-")]
        for machine in self._known(ids):
            if machine.state == "terminated":
                raise client_error("InvalidInstanceID.NotFound", f"The instance ID '{machine.id}' does not exist")
            self.witness.touched(machine, "tagged")
            machine.tags |= {tag["Key"]: tag["Value"] for tag in params["Tags"]}
        for volume in (resource for resource in params["Resources"] if resource.startswith("vol-")):
            self.volumes.tag(volume, {tag["Key"]: tag["Value"] for tag in params["Tags"]})
        return {}

    def monitor_instances(self, params: Mapping[str, Any]) -> Answer:
        for machine in self._known(params["InstanceIds"]):
            self.witness.touched(machine, "monitored")
        return {}

    def get_console_output(self, params: Mapping[str, Any]) -> Answer:
        [machine] = self._known([params["InstanceId"]])
        if machine.running_at is None or self.now < machine.running_at + CONSOLE_AFTER:
            return {}
        key = f"ssh-ed25519 AAAA{machine.number}"
        return {"Output": f"-----BEGIN SSH HOST KEY KEYS-----\n{key}\n-----END SSH HOST KEY KEYS-----\n"}

    def describe_images(self, params: Mapping[str, Any]) -> Answer:
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}
        image = {"OwnerId": OWNER, "RootDeviceName": "/dev/sda1", "BlockDeviceMappings": [disk]}
        return {"Images": [{**image, "ImageId": one} for one in params["ImageIds"]]}

    def describe_instance_types(self, params: Mapping[str, Any]) -> Answer:
        return {"InstanceTypes": [{"InstanceType": kind} for kind in params["InstanceTypes"]]}

    # --- what machines do by themselves --------------------------------------------------------------------------

    def launch(self, token: str, tags: Mapping[str, str], *, kind: str = "g5.xlarge", ours: bool = True) -> Machine:
        """Make a machine that boots."""
        weather, rng, now = self._weather, self._weather.rng, self.now
        number = next(self._numbers)
        machine = Machine(f"i-{number:017x}", number, token, dict(tags), launched_at=now, kind=kind, ours=ours)
        machine.history.append((now, "pending"))
        machine.shown_from = now + weather.lags(now)
        machine.tags_from = max(machine.shown_from, now + weather.lags(now))
        machine.protected = machine.was_protected = now < weather.calm_at and weather.chance(weather.protected)
        machine.uses = drawn(weather, machine, now)
        self.machines[machine.id] = machine
        self.volumes.made(machine, tags)
        self.witness.moved(machine, "pending", "launched")
        self._announce(machine, "pending")
        if now < weather.calm_at and weather.chance(weather.dies_pending):
            self.later(rng.uniform(0, 10), self.end, machine, "Client.VolumeLimitExceeded: Volume limit exceeded")
        self.later(rng.uniform(5, 17), self._run, machine)
        if now < weather.calm_at:
            machine.deaf = weather.spell(weather.deaf, now)
            machine.impostor = weather.spell(weather.impostors, now)
            if weather.chance(weather.dies):
                self.later(rng.expovariate(1 / 600), self._die, machine)
            if weather.chance(weather.stops):
                self.later(rng.expovariate(1 / 600), self._stop, machine)
            if weather.chance(weather.interrupted):
                self.later(rng.expovariate(1 / 600), self._interrupt, machine)
        return machine

    def _run(self, machine: Machine) -> None:
        if machine.state == "pending":
            machine.running_at = self.now
            machine.boots += 1
            self.move(machine, "running", "booted")
            if machine.timer is not None:
                machine.timer.booted()

    def _die(self, machine: Machine) -> None:
        if self.now < self._weather.calm_at:
            self.end(machine, "Server.InternalError: its hardware failed", by="fate")

    def _interrupt(self, machine: Machine) -> None:
        if machine.exists and self.now < self._weather.calm_at - INTERRUPTS_AFTER:
            self._tell(interruption(machine.id))
            self.later(INTERRUPTS_AFTER, self.end, machine, "Server.SpotInstanceTermination: Spot instance termination")

    def _stop(self, machine: Machine) -> None:
        if machine.state == "running" and self.now < self._weather.calm_at:
            self.move(machine, "stopping", "stopped by a person")
            self.later(30.0, self._stopped, machine)

    def _stopped(self, machine: Machine) -> None:
        if machine.state == "stopping":
            self.move(machine, "stopped", "stopped by a person")

    def end(self, machine: Machine, why: str, *, by: str = "fate") -> None:
        """End a machine, which takes a while."""
        if not machine.exists:
            return
        weather = self._weather
        machine.why, machine.ended_by = why, by
        self.move(machine, "shutting-down", f"{why}, by {by}")
        takes = weather.rng.uniform(5, 60)
        if self.now < weather.calm_at and weather.chance(weather.slow_end):
            takes = weather.rng.uniform(300, 2400)
        self.later(takes, self._terminated, machine)

    def _terminated(self, machine: Machine) -> None:
        machine.ended_at = self.now
        self.volumes.ended(machine)
        self.move(machine, "terminated", "its end")

    def unprotect(self) -> None:
        """Switch termination protection off everywhere."""
        for machine in self.machines.values():
            machine.protected = False

    def move(self, machine: Machine, state: str, why: str) -> None:
        """Bring a machine to a state, and tell everybody who may hear of it."""
        machine.state = state
        machine.history.append((self.now, state))
        self.witness.moved(machine, state, why)
        self._announce(machine, state)

    def _announce(self, machine: Machine, state: str) -> None:
        self._tell(state_change(machine.id, state))

    def _tell(self, event: Mapping[str, Any]) -> None:
        weather = self._weather
        faulty = self.now < weather.calm_at
        if faulty and weather.chance(weather.event_lost):
            return
        for _ in range(2 if faulty and weather.chance(weather.event_doubled) else 1):
            late = faulty and weather.chance(weather.event_late)
            delay = weather.rng.uniform(0.3, 300.0 if late else 1.5)
            self.later(delay, self.queue.send, json.dumps(event))

    # --- how it looks --------------------------------------------------------------------------------------------

    def _is_shown(self, machine: Machine) -> bool:
        ended = machine.ended_at
        return machine.shown_from <= self.now and (ended is None or self.now < ended + VISIBLE_AFTER_END)

    def _known(self, ids: Iterable[str]) -> list[Machine]:
        ids = list(ids)
        unknown = [i for i in ids if i not in self.machines or not self._is_shown(self.machines[i])]
        if unknown:
            raise client_error("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(unknown)}' do not exist")
        return [self.machines[i] for i in ids]

    def _describe(self, machine: Machine) -> dict[str, Any]:
        state = machine.seen_at(self.now - min(5.0, self._weather.lags(self.now)))
        described: dict[str, Any] = {
            "InstanceId": machine.id,
            "InstanceType": machine.kind,
            "ClientToken": machine.token,
            "State": {"Name": state},
            "LaunchTime": datetime.fromtimestamp(START + machine.launched_at, UTC),
            "Monitoring": {"State": "enabled"},
            "Tags": [] if state == "terminated" else [{"Key": k, "Value": v} for k, v in machine.tags.items()],
        }
        if state == "running":
            described |= {
                "PrivateIpAddress": machine.address,
                "BlockDeviceMappings": [
                    {"DeviceName": "/dev/sda1", "Ebs": {"VolumeId": machine.volume, "DeleteOnTermination": True}}
                ],
            }
        if machine.why is not None:
            described["StateReason"] = {"Message": machine.why}
        return described


def interruption(instance: str) -> dict[str, Any]:
    """Return EventBridge's envelope of a spot interruption's announcement."""
    return {
        "source": "aws.ec2",
        "detail-type": "EC2 Spot Instance Interruption Warning",
        "detail": {"instance-id": instance, "instance-action": "terminate"},
    }


def _fits(machine: Machine, name: str, values: list[str]) -> bool:
    if name == "instance-id":
        return machine.id in values
    if name == "instance-state-name":
        return machine.state in values
    return machine.state != "terminated" and machine.tags.get(name.removeprefix("tag:")) in values
