"""The instances of the lab and their life cycle.

    pending -> running -> stopping -> stopped -> pending ...
    any of these -> shutting-down -> terminated; pending -> terminated where EC2 itself gives up

Each change of state is published on the event bus. All of this runs under the lab's lock.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason

from flambed.lab.bus import Bus
from flambed.lab.hosting import Hosting
from flambed.lab.timers import Timers

CODES: Final = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

USER: Final = ("Client.UserInitiatedShutdown", "User initiated shutdown")
ITSELF: Final = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")


@dataclass(frozen=True)
class Delays:
    """How long things take in real seconds; the first two are upper bounds of what is drawn for each instance."""

    boot: float = 0.0
    """From the launch to `running`."""
    ssh: float = 0.0
    """From `running` to an open SSH port."""
    shutdown: float = 0.5
    """From `shutting-down` or `stopping` to its end."""
    visible: float = 3600.0
    """How long a terminated instance is still described."""


@dataclass(eq=False)
class Record:
    """What the lab knows of an instance beyond what moto keeps."""

    region: str
    instance: Any  # moto's Instance
    reservation: Any  # moto's Reservation
    address: str
    public: bool
    user_data: bytes | None
    authorized_keys: list[str]
    gpus: list[int]  # how busy each is, percent
    boot: float  # drawn, seconds
    ssh: float
    tags: dict[str, str]  # as last seen: a terminated instance loses its own
    launched: float = field(default_factory=time.monotonic)
    running_since: float | None = None  # UNIX seconds
    ssh_since: float | None = None
    ending_since: float | None = None  # when it began to end for good
    has_host: bool = False
    ended: float | None = None  # monotonic seconds
    leaves_volumes: bool = False  # they outlive it, though they should go with it
    doom: str | None = None  # why it will be terminated instead of running
    turn: int = 0  # counts changes of state; a step planned in an earlier turn no longer applies

    @property
    def id(self) -> str:
        """Its instance id."""
        return str(self.instance.id)

    @property
    def state(self) -> str:
        """The state's name."""
        return str(self.instance.state)

    @property
    def public_address(self) -> str | None:
        """Its public address while it runs; the lab's is the private one."""
        return self.address if self.public and self.state == "running" else None

    @property
    def age(self) -> float:
        """Real seconds since the launch."""
        return time.monotonic() - self.launched


class Fleet:
    """All instances by id, and what can happen to them."""

    def __init__(self, *, timers: Timers, bus: Bus, hosting: Hosting, delays: Delays, seed: int) -> None:
        self.records: dict[str, Record] = {}
        self._timers = timers
        self._bus = bus
        self._hosting = hosting
        self._delays = delays
        self._seed = seed
        self._drawn: Counter[str] = Counter()

    def draw(self, region: str, kind: str) -> tuple[float, float]:
        """(boot, SSH) delays of the next instance of this kind; the nth of a kind gets the same in every run."""
        key = f"{region}/{kind}"
        dice = random.Random(f"{self._seed}/{key}/{self._drawn[key]}")  # noqa: S311  # not for secrets
        self._drawn[key] += 1
        return self._delays.boot * dice.uniform(0.7, 1.0), self._delays.ssh * dice.uniform(0.7, 1.0)

    def add(self, record: Record) -> None:
        """A launch: the instance is pending from now on."""
        self.records[record.id] = record
        self._pend(record)

    def terminate(self, record: Record, reason: tuple[str, str] = USER) -> None:
        """Begin to terminate; nothing where that was done before."""
        if record.state in {"shutting-down", "terminated"}:
            return
        record.ending_since = time.time()
        self._enter(record, "shutting-down", reason)
        self._shut_down(record, self._terminated, forget=True)

    def stop(self, record: Record, reason: tuple[str, str] = USER) -> None:
        """Begin to stop a running instance."""
        if record.state == "running":
            self._enter(record, "stopping", reason)
            self._shut_down(record, lambda r: self._enter(r, "stopped", reason), forget=False)

    def start(self, record: Record) -> None:
        """Start a stopped instance."""
        if record.state == "stopped":
            self._pend(record)

    def reboot(self, record: Record) -> None:
        """Reboot a running instance: its state stays, its SSH port closes for a while."""
        if record.state != "running":
            return
        record.turn += 1
        record.ssh_since = None
        turn = record.turn
        self._hosting.halt(
            record.id, forget=False, then=lambda: self._timers.after(record.ssh, self._step(record, turn, self._open))
        )

    def poweroff(self, instance_id: str) -> None:
        """The host shut itself down. From any thread."""

        def act() -> None:
            record = self.records[instance_id]
            ends = record.instance.instance_initiated_shutdown_behavior == "terminate"
            (self.terminate if ends else self.stop)(record, ITSELF)

        self._timers.after(0, act)

    def die(self, record: Record, reason: str) -> None:
        """EC2 itself ends the instance: a pending one never runs."""
        if record.state == "pending":
            record.doom = reason
        else:
            self.terminate(record, (reason, reason))

    def recommend_rebalance(self, record: Record) -> None:
        """EC2 may want its capacity back soon, and says so."""
        self._bus.rebalance(record.region, record.id)

    def interrupt(self, record: Record, seconds: float) -> None:
        """EC2 wants its capacity back: it warns, and ends the instance so many seconds later."""
        self._bus.interruption(record.region, record.instance.placement.zone, record.id)
        self._timers.after(seconds, lambda: self.die(record, "Server.SpotInstanceTermination"))

    def _pend(self, record: Record) -> None:
        self._enter(record, "pending")
        self._later(record, record.boot, self._running)

    def _running(self, record: Record) -> None:
        if record.doom:
            self._terminated(record, (record.doom, record.doom))
            return
        self._enter(record, "running")
        record.running_since = time.time()
        self._later(record, record.ssh, self._open)

    def _open(self, record: Record) -> None:
        turn = record.turn
        record.has_host = True

        def opened() -> None:
            self._timers.after(0, self._step(record, turn, lambda r: setattr(r, "ssh_since", time.time())))

        self._hosting.boot(
            record.id,
            record.address,
            authorized_keys=record.authorized_keys,
            user_data=record.user_data,
            gpus=record.gpus,
            then=opened,
        )

    def _shut_down(self, record: Record, end: Callable[[Record], None], *, forget: bool) -> None:
        record.running_since = record.ssh_since = None
        step = self._step(record, record.turn, end)
        if record.has_host:  # the address is free again only when the host has left it
            done = lambda: self._timers.after(self._delays.shutdown, step)  # noqa: E731  # a callback
            self._hosting.halt(record.id, forget=forget, then=done)
        else:
            self._timers.after(self._delays.shutdown, step)

    def _terminated(self, record: Record, reason: tuple[str, str] | None = None) -> None:
        instance = record.instance
        told = reason or (instance.state_reason.code, instance.state_reason.message)
        if record.leaves_volumes:
            for device in instance.block_device_mapping.values():
                device.delete_on_termination = False
        instance.terminate()
        instance.nics = {}
        instance._private_ips = set()  # noqa: SLF001  # else moto frees the address again when it forgets the instance
        self._enter(record, "terminated", told)
        record.ended = time.monotonic()
        ec2_backends[DEFAULT_ACCOUNT_ID][record.region].tags.pop(record.id, None)
        self._later(record, self._delays.visible, self._forget)

    def _forget(self, record: Record) -> None:
        del self.records[record.id]
        record.reservation.instances.remove(record.instance)
        if not record.reservation.instances:
            ec2_backends[DEFAULT_ACCOUNT_ID][record.region].reservations.pop(record.reservation.id)

    def _enter(self, record: Record, state: str, reason: tuple[str, str] | None = None) -> None:
        instance = record.instance
        record.turn += 1
        instance._state.name, instance._state.code = state, CODES[state]  # noqa: SLF001  # moto's states are atomic
        if reason:
            code, message = reason
            instance.state_reason = StateReason(f"{code}: {message}" if code != message else code, code)
            instance._reason = f"{message} ({time.strftime('%Y-%m-%d %H:%M:%S GMT', time.gmtime())})"  # noqa: SLF001
        else:
            instance.state_reason, instance._reason = StateReason(), ""  # noqa: SLF001
        self._bus.instance_state(record.region, record.id, state)

    def _later(self, record: Record, seconds: float, step: Callable[[Record], None]) -> None:
        self._timers.after(seconds, self._step(record, record.turn, step))

    @staticmethod
    def _step(record: Record, turn: int, step: Callable[[Record], None]) -> Callable[[], None]:
        return lambda: step(record) if record.turn == turn else None
