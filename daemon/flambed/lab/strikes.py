"""Lets the faults of instances and hosts strike, those alive and those still to be launched."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flambed.lab.fault_kinds import (
    BadFaultError,
    CpuFault,
    DieFault,
    DiskFault,
    DriverFault,
    ExperimentFault,
    GpuFault,
    HostFaultOrder,
    InstanceFault,
    InterruptionFault,
    LackFault,
    OutlivingFault,
    TerminalFault,
)
from flambed.lab.faults import Faults
from flambed.lab.fleet import Fleet, Record
from flambed.lab.hosting import Hosting
from flambed.lab.hosts import HostFault
from flambed.lab.machine.machine import Machine
from flambed.lab.watch import Watch


@dataclass
class Strikes:
    """Carries faults out. Runs under the lab's lock."""

    faults: Faults
    fleet: Fleet
    hosting: Hosting
    watch: Watch
    cpu: dict[str, float | None] = field(default_factory=dict)
    """Percent by instance id, where a fault has set it."""
    _faulty: set[str] = field(default_factory=set)  # hosts with a fault of their SSH server or their commands
    _broken: set[str] = field(default_factory=set)  # hosts that have something broken

    def post(self, order: Any) -> None:
        """Activate the fault in `order` (JSON); raises BadFaultError, and then nothing became active."""
        fault = self.faults.read(order)
        if isinstance(fault, HostFaultOrder):
            _host_fault(fault.fault)
        if isinstance(fault, InstanceFault) and fault.instance and fault.instance not in self.fleet.records:
            raise BadFaultError(f"{fault.kind}: there is no instance {fault.instance}")
        self.faults.add(fault)
        if isinstance(fault, InstanceFault):
            for record in list(self.fleet.records.values()):
                if record.state not in {"shutting-down", "terminated"}:
                    self._strike(fault, record, new=False)

    def launched(self, record: Record) -> None:
        """Let the faults that wait for a launch strike."""
        for fault in self.faults.of(InstanceFault):
            self._strike(fault, record, new=True)

    def clear(self) -> None:
        """End all faults; hosts work again, what died stays dead."""
        self.faults.clear()
        for instance_id in self._faulty:
            self.hosting.set_fault(instance_id, None)
        self._faulty.clear()
        for instance_id in self._broken:
            self.hosting.change(instance_id, Machine.mend)
        self._broken.clear()

    def _strike(self, fault: InstanceFault, record: Record, *, new: bool) -> None:
        if not fault.takes(record.id, record.tags, new=new):
            return
        match fault:
            case HostFaultOrder():
                self._faulty.add(record.id)
                self.hosting.set_fault(record.id, _host_fault(fault.fault))
            case CpuFault():
                self.cpu[record.id] = fault.percent
                self.watch.set_cpu(record.id, fault.percent)
                self.hosting.act(record.id, cpu=fault.percent)
            case GpuFault():
                record.gpus = [fault.percent] * len(record.gpus)
                self.hosting.set_gpus(record.id, record.gpus)
            case TerminalFault():
                self.hosting.act(record.id, typing=fault.typing)
            case ExperimentFault():
                self.hosting.act(record.id, experiment=fault.program)
            case DiskFault() | DriverFault() | LackFault():
                self._broken.add(record.id)
                self.hosting.change(record.id, partial(_break, fault))
            case DieFault():
                self.fleet.die(record, fault.reason)
            case OutlivingFault():
                record.leaves_volumes = True
            case InterruptionFault(notice="rebalance"):
                self.fleet.recommend_rebalance(record)
            case InterruptionFault():
                self.fleet.interrupt(record, fault.seconds)


def _break(fault: DiskFault | DriverFault | LackFault, machine: Machine) -> None:
    match fault:
        case DiskFault():
            machine.files.disk = errno.ENOSPC if fault.state == "full" else errno.EROFS
        case DriverFault():
            machine.break_driver()
        case LackFault():
            machine.lack(fault.program)


def _host_fault(described: Any) -> HostFault | None:
    if described is None:
        return None
    try:
        return HostFault(**described)
    except (TypeError, ValueError) as error:
        raise BadFaultError(f"host: {error}") from None
