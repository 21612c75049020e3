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
    {"kind": "outage", "seconds": 5, "mode": "reset" | "503" | "silence"}
        no call gets through, and no answer to one that came before; the control endpoint does. "silence": nothing is
        said to a call until the outage is over, when its connection is reset.
    {"kind": "latency", "seconds": 0.2}
        before each call that matches, on top of --latency.
    {"kind": "kill", "pid": 4711, "request": 3, "when": "before" | "after"}
        SIGKILL for a process when the third call that matches comes (counted from 1, from now on), before or after
        the deed. A process that has ended already is not struck.
    {"kind": "events", "mode": "drop" | "double" | "reverse" | "delay", "seconds": 1, "count": null}
        state-change events: lost, sent twice, collected for `seconds` and sent in reverse order, or late.
    {"kind": "fresh", "seconds": 5, "ids": true, "tags": true, "address": true, "tagging": false}
        eventual consistency: for so long after a launch the id is InvalidInstanceID.NotFound, tag filters do not
        find the instance, and it has no private address in any answer. "tagging": true is for an instance that is
        described and cannot be tagged: with "ids": false only CreateTags and DeleteTags do not know the id.
    {"kind": "skew", "seconds": 120}
        the Date of AWS's answers is so far ahead, in real seconds; nothing else is.
    {"kind": "host", HOST, "fault": {"kind": "refuse", ...} | null}
        see flambed.lab.hosts.HostFault.
    {"kind": "cpu", HOST, "percent": 50.0 | null}
        the host's real CPU from now on, as CloudWatch and its own idle timer see it; null: CloudWatch gets no data.
    {"kind": "gpu", HOST, "percent": 97}
        how busy all its GPUs are, as nvidia-smi tells; hosts whose type has none are left alone.
    {"kind": "tty", HOST, "typing": true | false | null}
        somebody types at a terminal all the time; false: the terminal is still open, and forgotten; null: it is closed.
    {"kind": "experiment", HOST, "program": "flambe" | null}
        a program of that name runs, after a reboot again; null: it has ended.
    {"kind": "disk", HOST, "state": "full" | "read_only"}
        whoever writes to the host's root file system is refused; /run and /dev are others.
    {"kind": "driver", HOST}
        nvidia-smi is there and fails: its driver broke, or the image brings it and there is no GPU.
    {"kind": "lack", HOST, "program": "stat"}
        there is no such program in /usr/bin. These three strike hosts that have booted, and no others.
    {"kind": "die", HOST, "reason": "Client.VolumeLimitExceeded"}
        the instance ends by itself; a pending one becomes terminated where it would have become running.
    {"kind": "outliving", HOST}
        its volumes outlive the instance, though they are to go with it.
    {"kind": "interruption", HOST, "notice": "interruption" | "rebalance", "seconds": 120}
        a Spot Instance Interruption Warning, `seconds` after which EC2 takes the instance back, or a Rebalance
        Recommendation, after which nothing happens. Instances that are no Spot ones get them too.

The ledger tells by their ids which faults struck a call.

HOST is `"instance": "i-..."`, or `"match": {"role": "Factory", "name": "...", "tags": {...}, "nth": 0}`: hosts
by their tags, alive or still to be launched; with `nth`, the one that is the nth match launched from now on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from flambed.lab.fault_kinds import (
    KINDS,
    BadFaultError,
    CallFault,
    CapacityFault,
    ErrorFault,
    Fault,
    FreshFault,
    KillFault,
    LatencyFault,
    OutageFault,
)
from flambed.lab.ledger import Call

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
                        call.struck.append(fault.id)
                    case OutageFault() if verdict.outage is None:
                        verdict.outage = fault
                        call.struck.append(fault.id)
                    case KillFault() if verdict.kill is None and fault.strike():
                        verdict.kill = fault
                    case ErrorFault() if verdict.error is None and fault.strike():
                        verdict.error = fault
                        call.struck.append(fault.id)
        return verdict

    def outage(self, call: Call) -> OutageFault | None:
        """The outage that lets nothing through to or from such a call at this moment."""
        return next((fault for fault in self.of(OutageFault) if fault.hits(call)), None)

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
