"""The idle timer of a pretend host: the lab's own, so that a thousand hosts may tick.

Real hosts are given a shell script by their user data (flambed-idle.timer runs /run/flambed/idle-timer once a minute).
The lab runs that script, too, when it is called; what it does in place of it is the tick of each minute: by the same
rule, with the same files, so that `renew` and `status` of the script go on from them.

The rule: the host ends when it is 24 h since the lease was renewed (2 h of uptime if never, or as long as a hold lasts)
and for max(its minutes, 60) minutes the CPU was below its percentage, no GPU above 5 %, and no terminal had input within
the last 30 minutes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flambed.lab.machine.machine import Machine

UNIT = "flambed-idle.timer"
_UNIT_FILE = f"/run/systemd/system/{UNIT}"
_LEASES = ("/run/flambed/lease", "/var/lib/cloud/instance/flambed/lease")  # the first only where the other cannot be
_SAMPLES = "/run/flambed/samples"
_HOUR = 3600.0
_INPUT_LASTS = 0.5 * _HOUR
_BUSY_GPU = 5  # percent


@dataclass(frozen=True)
class _Lease:
    minutes: int
    percent: float
    renewed: int | None  # uptime
    ends: float  # uptime


_Gpu = int | None | Literal["failed"]
"""Percent; None without a GPU; failed where nvidia-smi does not tell."""


def _rank(sample: _Gpu) -> int:
    """Order samples of a GPU: one that failed lies between 5 % and 6 %, and counts as use."""
    if sample == "failed":
        return 2 * _BUSY_GPU + 1
    return -1 if sample is None else 2 * sample


class IdleTimer:
    """Ticks once a lab minute while its unit runs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._next: asyncio.TimerHandle | None = None
        self._sampled: int | None = None  # uptime of the last tick
        self._times = (0, 0)
        self._inputs: dict[str, float | None] | None = None  # None: it is not known
        self._input: int | None = None
        self._since = 0
        self._peak: _Gpu = None

    def start(self) -> None:
        """Tick now, and each minute; nothing where the unit was never written, or runs already."""
        if self._next is None and self._machine.files.find(_UNIT_FILE) is not None:
            self._sampled, self._inputs, self._input = None, None, None
            self._turn()

    def stop(self) -> None:
        """Tick no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _turn(self) -> None:
        self._next = asyncio.get_running_loop().call_later(self._machine.usage.clock.real(60), self._turn)
        self.tick()

    def tick(self) -> None:
        """Look at the host, keep what was seen, and end the host if it is time."""
        machine, usage = self._machine, self._machine.usage
        up = int(usage.uptime())
        lease = self._lease()
        gpu = self._gpu()
        names = usage.terminals()
        inputs = {name: usage.last_input(name) for name in names} if machine.has("stat") or not names else None
        times = usage.cpu_times()
        cpu = None
        if self._sampled is not None:
            if times[0] > self._times[0]:
                spent, idle = times[0] - self._times[0], times[1] - self._times[1]
                cpu = 100_000 * (spent - idle) // spent  # thousandths of a percent, as the script keeps it
            if inputs is not None and self._inputs is not None and inputs != self._inputs:
                self._input = up
        renewed = self._sampled is None or (lease and lease.renewed is not None and lease.renewed > self._sampled)
        if renewed or _rank(gpu) >= _rank(self._peak):
            self._peak = gpu
        typing = inputs is None or (self._input is not None and up - self._input < _INPUT_LASTS)
        if lease is None or cpu is None or cpu >= 1000 * lease.percent or _rank(gpu) > 2 * _BUSY_GPU or typing:
            self._since = up
        self._sampled, self._times, self._inputs = up, times, inputs
        self._keep(cpu)
        if lease and lease.minutes >= 0 and up >= max(lease.ends, self._since + 60 * max(lease.minutes, 60)):
            machine.on_poweroff()

    def _gpu(self) -> _Gpu:
        if not self._machine.gpus:
            return None
        return max(self._machine.gpus) if self._machine.driver_works else "failed"

    def _lease(self) -> _Lease | None:
        files = self._machine.files
        path = next((path for path in _LEASES if files.find(path)), None)
        words = files.read(path).decode().split() if path else []
        if len(words) != 6 or words[-1] != "end":
            return None
        minutes, percent, hold, boot, renewed, _ = words
        if boot == "never":
            return _Lease(int(minutes), float(percent), None, max(2 * _HOUR, float(hold)))
        since = int(renewed) if boot == self._machine.boot_id else 0
        return _Lease(int(minutes), float(percent), since, since + max(24 * _HOUR, float(hold)))

    def _keep(self, cpu: int | None) -> None:
        known = self._inputs or {}
        inputs = "".join(f",{int(when or 0)}:/dev/pts/{name}" for name, when in known.items())
        words = [
            self._machine.boot_id,
            self._sampled,
            *self._times,
            "failed" if cpu is None else cpu,
            "none" if self._peak is None else self._peak,
            "failed" if self._inputs is None else inputs or "nobody",
            "none" if self._input is None else self._input,
            self._since,
            "end",
        ]
        self._machine.files.write(_SAMPLES, " ".join(map(str, words)).encode() + b"\n")
