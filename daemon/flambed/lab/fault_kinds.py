"""The kinds of faults; flambed.lab.faults tells how they are posted and what each does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

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
    mode: Literal["reset", "503", "silence"] = "reset"
    until: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.mode not in {"reset", "503", "silence"}:
            raise BadFaultError(f"outage: mode is reset, 503 or silence, not {self.mode}")
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
    tagging: bool = False


@dataclass(kw_only=True)
class SkewFault(Fault):
    """AWS's clock, as its answers tell it, is not this machine's."""

    kind = "skew"
    seconds: float


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
class TerminalFault(InstanceFault):
    """What happens at a terminal of the host."""

    kind = "tty"
    typing: bool | None


@dataclass(kw_only=True)
class ExperimentFault(InstanceFault):
    """A program that runs on the host."""

    kind = "experiment"
    program: str | None


@dataclass(kw_only=True)
class DiskFault(InstanceFault):
    """The host's root file system takes nothing more."""

    kind = "disk"
    state: Literal["full", "read_only"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state not in {"full", "read_only"}:
            raise BadFaultError(f"disk: state is full or read_only, not {self.state}")


@dataclass(kw_only=True)
class DriverFault(InstanceFault):
    """nvidia-smi is there and fails."""

    kind = "driver"


@dataclass(kw_only=True)
class LackFault(InstanceFault):
    """A program is missing."""

    kind = "lack"
    program: str


@dataclass(kw_only=True)
class DieFault(InstanceFault):
    """The instance ends by itself."""

    kind = "die"
    reason: str = "Server.InternalError"


@dataclass(kw_only=True)
class OutlivingFault(InstanceFault):
    """The instance's volumes outlive it, though they are to go with it."""

    kind = "outliving"


@dataclass(kw_only=True)
class InterruptionFault(InstanceFault):
    """EC2 wants a Spot instance back, or may want it soon."""

    kind = "interruption"
    notice: Literal["interruption", "rebalance"] = "interruption"
    seconds: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.notice not in {"interruption", "rebalance"}:
            raise BadFaultError(f"interruption: notice is interruption or rebalance, not {self.notice}")


KINDS: dict[str, type[Fault]] = {
    kind.kind: kind
    for kind in (
        ErrorFault, OutageFault, LatencyFault, KillFault, CapacityFault,
        EventsFault, FreshFault, HostFaultOrder, CpuFault, GpuFault, TerminalFault, ExperimentFault, DieFault,
        DiskFault, DriverFault, LackFault,
        InterruptionFault, OutlivingFault, SkewFault,
    )
}  # fmt: skip
