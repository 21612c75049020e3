"""Faults: what tests ask the lab to do wrong.

`POST /lab/faults` takes one JSON object and answers with the list now active; `DELETE /lab/faults` ends all.
`service`, `action`, `region`, `type`, `subnet` narrow a fault where given. `count` is how often it strikes, null
for ever.

    {"kind": "error", "code": "InternalError", "status": 500, "service": "ec2", "action": "CreateTags",
     "count": 1, "after": 0, "when": "before" | "after", "message": "..."}
        an API error. `after` calls that match go through first. "when": "after" does the deed and then loses the
        answer; a code of "reset" resets the connection instead of answering.
    {"kind": "capacity", "type": "g4dn.xlarge", "subnet": "subnet-...", "count": 2}
        so many instances can still be launched, then InsufficientInstanceCapacity.
    {"kind": "outage", "seconds": 5, "mode": "reset" | "503"}
        no call gets through; the control endpoint does.
    {"kind": "latency", "seconds": 0.2}
        before each call that matches, on top of --latency.
    {"kind": "kill", "pid": 4711, "request": 3, "when": "before" | "after"}
        SIGKILL for a process when the third call that matches comes (counted from 1, from now on).
    {"kind": "events", "mode": "drop" | "double" | "reverse" | "delay", "seconds": 1, "count": null}
        state-change events: lost, sent twice, collected for `seconds` and sent in reverse order, or late.
    {"kind": "fresh", "seconds": 5, "ids": true, "tags": true, "address": true}
        eventual consistency: for so long after a launch the id is InvalidInstanceID.NotFound, tag filters do not
        find the instance, and it has no private address in any answer.
    {"kind": "host", HOST, "fault": {"kind": "refuse", ...} | null}
        see flambed.lab.hosts.HostFault.
    {"kind": "cpu", HOST, "percent": 50.0 | null}
        the host's real CPU from now on; null: CloudWatch gets no data.
    {"kind": "gpu", HOST, "percent": 97}
        how busy all its GPUs are, as nvidia-smi tells; hosts whose type has none are left alone.
    {"kind": "die", HOST, "reason": "Client.VolumeLimitExceeded"}
        the instance ends by itself; a pending one becomes terminated where it would have become running.

HOST is `"instance": "i-..."`, or `"match": {"role": "Factory", "name": "...", "tags": {...}, "nth": 0}`: hosts
by their tags, alive or still to be launched; with `nth`, the one that is the nth match launched from now on.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar

from flambed.lab.ledger import Call


class BadFaultError(ValueError):
    """A fault that the lab does not know or cannot read."""


@dataclass(kw_only=True)
class Fault:
    """What all faults share. `left` counts down what it may still do."""

    kind: ClassVar[str]
    id: int = field(default=0, init=False)

    def as_json(self) -> dict[str, Any]:
        """As posted, with the id it got and its counters as they stand."""
        return {"kind": self.kind, **asdict(self)}

    def spent(self) -> bool:
        """Whether it has done all it was asked to do."""
        return False


@dataclass(kw_only=True)
class CallFault(Fault):
    """A fault that strikes calls."""

    service: str | None = None
    action: str | None = None
    region: str | None = None

    def hits(self, call: Call) -> bool:
        """Whether `call` is one of those that it strikes."""
        return (
            self.service in (None, call.service)
            and self.action in (None, call.action)
            and self.region in (None, call.region)
        )


@dataclass(kw_only=True)
class ErrorFault(CallFault):
    """An API error, before or after the deed."""

    kind = "error"
    code: str
    status: int = 400
    count: int | None = 1
    after: int = 0
    when: Literal["before", "after"] = "before"
    message: str = "The lab was asked to fail this call."

    def strike(self) -> bool:
        """Count one call that matches; whether it fails."""
        if self.after:
            self.after -= 1
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def spent(self) -> bool:
        return self.count is not None and self.count <= 0


@dataclass(kw_only=True)
class OutageFault(CallFault):
    """Nothing gets through for a while."""

    kind = "outage"
    seconds: float
    mode: Literal["reset", "503"] = "reset"
    until: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.until = time.time() + self.seconds

    def spent(self) -> bool:
        return time.time() >= self.until


@dataclass(kw_only=True)
class LatencyFault(CallFault):
    """Calls take longer."""

    kind = "latency"
    seconds: float


@dataclass(kw_only=True)
class KillFault(CallFault):
    """A process dies when the lab sees a certain call."""

    kind = "kill"
    pid: int
    request: int = 1
    when: Literal["before", "after"] = "before"

    def __post_init__(self) -> None:
        if self.pid <= 1 or self.request < 1:
            raise BadFaultError("kill: pid must be above 1 and request at least 1")

    def strike(self) -> bool:
        """Count one call that matches; whether it is the one."""
        self.request -= 1
        return self.request == 0

    def spent(self) -> bool:
        return self.request <= 0


@dataclass(kw_only=True)
class CapacityFault(Fault):
    """How many instances can still be launched."""

    kind = "capacity"
    count: int
    type: str | None = None
    subnet: str | None = None
    region: str | None = None

    def limits(self, region: str, instance_type: str, subnet: str) -> bool:
        """Whether it stands in the way of such a launch."""
        return self.region in (None, region) and self.type in (None, instance_type) and self.subnet in (None, subnet)


@dataclass(kw_only=True)
class EventsFault(Fault):
    """State-change events go astray."""

    kind = "events"
    mode: Literal["drop", "double", "reverse", "delay"]
    seconds: float = 1.0
    count: int | None = None

    def strike(self) -> None:
        """Count one event."""
        if self.count is not None:
            self.count -= 1

    def spent(self) -> bool:
        return self.count is not None and self.count <= 0


@dataclass(kw_only=True)
class FreshFault(Fault):
    """New instances are not seen everywhere at once."""

    kind = "fresh"
    seconds: float
    ids: bool = True
    tags: bool = True
    address: bool = True


@dataclass(kw_only=True)
class InstanceFault(Fault):
    """A fault of one host or of some."""

    instance: str | None = None
    match: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.instance is None) == (self.match is None):
            raise BadFaultError(f"{self.kind}: give either instance or match")
        if unknown := set(self.match or ()) - {"role", "name", "tags", "nth"}:
            raise BadFaultError(f"{self.kind}: match knows role, name, tags and nth, not {', '.join(sorted(unknown))}")

    def spent(self) -> bool:
        return bool((self.match or {}).get("nth", 0) < 0)

    def fits(self, instance_id: str, tags: Mapping[str, str]) -> bool:
        """Whether the instance is meant, `nth` left aside."""
        if self.match is None:
            return instance_id == self.instance
        wanted = dict(self.match.get("tags", {}))
        wanted |= {tag: self.match[key] for key, tag in (("role", "Role"), ("name", "Name")) if key in self.match}
        return all(tags.get(key) == value for key, value in wanted.items())

    def takes(self, instance_id: str, tags: Mapping[str, str], *, new: bool) -> bool:
        """Whether it strikes this instance, `new` or alive when the fault was posted; counts `nth` down."""
        if not self.fits(instance_id, tags):
            return False
        nth = (self.match or {}).get("nth")
        if nth is None:
            return True
        if not new:
            return False
        self.match = {**(self.match or {}), "nth": nth - 1}
        return bool(nth == 0)


@dataclass(kw_only=True)
class HostFaultOrder(InstanceFault):
    """A fault of the machine: its SSH server, its commands."""

    kind = "host"
    fault: Mapping[str, Any] | None


@dataclass(kw_only=True)
class CpuFault(InstanceFault):
    """What the host's CPU does."""

    kind = "cpu"
    percent: float | None


@dataclass(kw_only=True)
class GpuFault(InstanceFault):
    """What the host's GPUs do."""

    kind = "gpu"
    percent: int


@dataclass(kw_only=True)
class DieFault(InstanceFault):
    """The instance ends by itself."""

    kind = "die"
    reason: str = "Server.InternalError"


KINDS: dict[str, type[Fault]] = {
    kind.kind: kind
    for kind in (
        ErrorFault, OutageFault, LatencyFault, KillFault, CapacityFault,
        EventsFault, FreshFault, HostFaultOrder, CpuFault, GpuFault, DieFault,
    )
}  # fmt: skip

F = TypeVar("F", bound=Fault)


@dataclass
class Verdict:
    """What the faults decided about one call."""

    latency: float = 0.0
    outage: OutageFault | None = None
    error: ErrorFault | None = None
    kill: KillFault | None = None


class Faults:
    """The faults that are active. Safe to use from any thread."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    @staticmethod
    def read(order: Any) -> Fault:
        """The fault that `order` (JSON) describes; BadFaultError says what is wrong with it."""
        if not isinstance(order, dict) or order.get("kind") not in KINDS:
            raise BadFaultError(f"a fault is an object whose kind is one of {', '.join(KINDS)}")
        kind = KINDS[order["kind"]]
        arguments = {name: value for name, value in order.items() if name != "kind"}
        known = {f.name for f in fields(kind) if f.init}
        if unknown := set(arguments) - known:
            raise BadFaultError(
                f"{kind.kind}: unknown {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}"
            )
        try:
            return kind(**arguments)
        except TypeError as error:
            raise BadFaultError(f"{kind.kind}: {error}") from None

    def add(self, fault: Fault) -> None:
        """Activate a fault."""
        with self._lock:
            fault.id = next(self._ids)
            self._faults.append(fault)

    def active(self) -> list[Fault]:
        """Those that have not done all they were asked to."""
        with self._lock:
            self._faults = [fault for fault in self._faults if not fault.spent()]
            return list(self._faults)

    def of(self, kind: type[F]) -> list[F]:
        """The active ones of one kind."""
        return [fault for fault in self.active() if isinstance(fault, kind)]

    def clear(self) -> None:
        """End all."""
        with self._lock:
            self._faults = []

    def judge(self, call: Call) -> Verdict:
        """What happens to `call`; counts it."""
        verdict = Verdict()
        with self._lock:
            for fault in self.of(CallFault):
                if not fault.hits(call):
                    continue
                match fault:
                    case LatencyFault():
                        verdict.latency += fault.seconds
                    case OutageFault():
                        verdict.outage = verdict.outage or fault
                    case KillFault() if verdict.kill is None and fault.strike():
                        verdict.kill = fault
                    case ErrorFault() if verdict.error is None and fault.strike():
                        verdict.error = fault
        return verdict

    def room(self, region: str, instance_type: str, subnet: str, wanted: int) -> int:
        """How many of `wanted` instances the capacity faults leave room for."""
        return min(
            [wanted, *(f.count for f in self.of(CapacityFault) if f.limits(region, instance_type, subnet))],
        )

    def launched(self, region: str, instance_type: str, subnet: str, number: int) -> None:
        """Take `number` instances off the capacity that is left."""
        for fault in self.of(CapacityFault):
            if fault.limits(region, instance_type, subnet):
                fault.count -= number

    def fresh(self, aspect: Callable[[FreshFault], bool], age: float) -> bool:
        """Whether an instance of `age` seconds is still too fresh to be seen in this aspect."""
        return any(aspect(fault) and age < fault.seconds for fault in self.of(FreshFault))
