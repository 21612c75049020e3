"""Hosts in memory, behind `ssh.connect_when_up`: they boot, refuse, hang, drop, and run the runner's commands.

A host does what `steps/runner.sh` does on a real one: a command has a session of its own, one runs at a time, what ran
is not run again, and what was cut off by the machine's end leaves no exit code.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from flambed.errors import Reason
from flambed.observed import probes
from flambed.ssh import Deadlines, Host, HostKeyChangedError, Result, SshError, Target
from flambed.steps import acquaint, link, rekey, setup
from tests.simulation import use
from tests.simulation.cloud import Cloud, Machine
from tests.simulation.faults import Weather
from tests.simulation.use import BUSY_GPU, TYPED_WITHIN, Way
from tests.simulation.wire import Process

IMPOSTOR = "impostor"
LOOKS_AGAIN = 10.0
KEEPALIVE = 45.0


@dataclass(slots=True)
class Run:
    """A command on a host."""

    command: str
    begins: float
    ends: float
    code: int


@dataclass(slots=True)
class Disposition:
    """How one host behaves in one boot."""

    opens_after: float  # seconds from running to an open port
    trouble: str | None  # never, refuses, other_key, hangs
    boots: int
    runs: dict[str, Run] = field(default_factory=dict)
    scripts: int = 0  # runners of ours that are connected
    key: str | None = None  # the host key that it shows, that of the first user data until it has another
    made: str | None = None  # the one that it has made itself


class Hosts:
    """All hosts of the region. They outlive the service's crashes."""

    def __init__(self, cloud: Cloud, weather: Weather) -> None:
        self._cloud = cloud
        self._weather = weather
        self._hosts: dict[str, Disposition] = {}
        self.wrong: list[str] = []  # what should never have been done to a host
        self.heard: dict[str, tuple[int, float]] = {}  # in which boot a machine was reached, and since when
        self.silent: dict[str, float] = {}  # when it last did not
        self.set_up: dict[str, tuple[float, float]] = {}  # when something was first and last done to a machine
        self.told: dict[tuple[str, Way], float] = {}  # when it last told that it is used in a way
        self.untold: dict[tuple[str, Way], float] = {}  # when it last could not tell whether it is

    def of(self, machine: Machine) -> Disposition:
        """Return the host of a machine as it is in this boot; a disk keeps what ended."""
        known = self._hosts.get(machine.id)
        if known is not None and known.boots == machine.boots:
            return known
        weather, rng = self._weather, self._weather.rng
        bad = self._cloud.now < weather.calm_at and weather.chance(weather.bad_host)
        trouble = rng.choice(["never", "refuses", "other_key", "hangs", "slow"]) if bad else None
        opens = rng.uniform(300, 1200) if trouble == "slow" else rng.uniform(3, 23)
        ended = {key: run for key, run in known.runs.items() if run.ends <= self._cloud.now} if known else {}
        kept = (known.key, known.made) if known else (None, None)
        self._hosts[machine.id] = Disposition(opens, trouble, machine.boots, ended, 0, *kept)
        return self._hosts[machine.id]

    def forgotten(self) -> None:
        """The service knows no more what hosts have told it."""
        self.heard.clear()
        self.told.clear()

    def connector(self, process: Process) -> Callable[..., AbstractAsyncContextManager[Host]]:
        """Return what stands for `ssh.connect_when_up` in a process."""

        @asynccontextmanager
        async def connect_when_up(
            target: Target, *, until: float, deadlines: Deadlines | None = None
        ) -> AsyncIterator[Host]:
            await process.point(f"before connecting to {target.address}")
            machine = next(m for m in self._cloud.machines.values() if m.address == target.address)
            try:
                await self._reach(target, machine, until)
                key = self._shown_by(machine, target)
                process.call(f"ssh {machine.id}: connected")
                await process.point(f"after connecting to {target.address}")
                yield Session(self, machine, process, key)  # type: ignore[misc] # it is used as a Host is
            except SshError:
                self.silent[machine.id] = self._cloud.now
                raise

        return connect_when_up

    def _shown_by(self, machine: Machine, target: Target) -> str:
        """Return the host key that whoever answers at a machine's address shows, if it is one of the pinned ones."""
        host, now = self.of(machine), self._cloud.now
        host.key = shown = host.key or target.host_keys[0]
        begins, ends = machine.impostor
        if begins <= now < ends or (host.trouble == "other_key" and now < self._weather.calm_at):
            shown = f"ssh-ed25519 {IMPOSTOR}-{machine.id}"
        if shown not in target.host_keys:
            raise HostKeyChangedError("HostKeyNotVerifiable", target, shown)
        if shown != host.key:
            self.wrong.append(f"an impostor of {machine.id} was logged in to")
        return shown

    async def _reach(self, target: Target, machine: Machine, until: float) -> None:
        """Return once somebody answers at a machine's address."""
        cloud = self._cloud
        while True:
            open_at = None
            if machine.state == "running":
                assert machine.running_at is not None
                host = self.of(machine)
                begins, deaf_until = machine.deaf
                if begins <= cloud.now < deaf_until:
                    open_at = deaf_until
                elif cloud.now >= self._weather.calm_at or host.trouble not in ("never", "refuses"):
                    open_at = machine.running_at + host.opens_after
                    if cloud.now >= open_at:
                        return
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                reason = Reason.UNREACHABLE
                if machine.state == "running" and self.of(machine).trouble == "refuses":
                    reason = Reason.LOGIN_REFUSED
                raise SshError(reason, "ETIMEDOUT", f"{target} does not answer")
            pause = LOOKS_AGAIN if open_at is None else min(LOOKS_AGAIN, open_at - cloud.now)
            await asyncio.sleep(max(0.01, min(pause, left)))


class Session:
    """A login on a host; used as `ssh.Host` is."""

    def __init__(self, hosts: Hosts, machine: Machine, process: Process, host_key: str) -> None:
        self.host_key = host_key
        self._hosts = hosts
        self._cloud = hosts._cloud
        self._weather = hosts._weather
        self._machine = machine
        self._boots = machine.boots
        self._process = process

    async def run(self, command: str, *, stdin: str | bytes = b"", timeout: float) -> Result:  # noqa: ASYNC109
        """Run one of the service's scripts."""
        script, args = _parsed(command)
        hosts, machine, told = self._hosts, self._machine, frozenset[Way]()
        await self._process.point(f"before a script on {self._machine.id}")
        await self._wait(self._weather.rng.uniform(0.02, 0.2), timeout)
        self._perhaps_drops()
        if script == setup.RUNNER:
            result = await self._runner(args[0], str(stdin), timeout)
        elif script == REKEYED:
            result = self._rekey(args[0])
        elif script == probes.PROBE:
            text, told = self._probed(args)
            result = Result(0, text, "")
        else:
            result = Result(0, "", "")
        await self._process.point(f"after a script on {self._machine.id}")
        if hosts.heard.get(machine.id, (0, 0.0))[0] != machine.boots:
            hosts.heard[machine.id] = machine.boots, self._cloud.now
        hosts.told.update(dict.fromkeys(((machine.id, way) for way in told), self._cloud.now))
        if script != probes.PROBE:
            first, _ = hosts.set_up.get(machine.id, (self._cloud.now, 0.0))
            hosts.set_up[machine.id] = first, self._cloud.now
        return result

    def _probed(self, args: list[str]) -> tuple[str, frozenset[Way]]:
        """Return what the host says to a probe, and the ways to use it that it tells of."""
        machine, weather, now = self._machine, self._weather, self._cloud.now
        minutes, _, hold, experiment = args
        timer, asked_at = machine.timer, now
        if timer is not None and timer.renewed_at is not None:
            asked_at = timer.renewed_at
        state = timer.renew(int(minutes), float(hold)) if timer is not None else "absent"
        typed_at = use.last(machine, Way.TERMINAL, now)
        said = {
            Way.GPU: str(BUSY_GPU * use.between(machine, Way.GPU, asked_at, now)) if machine.has_gpu else "none",
            Way.TERMINAL: "none" if typed_at is None else str(round(now - typed_at)),
            Way.EXPERIMENT: "running" if experiment and use.between(machine, Way.EXPERIMENT, now, now) else "none",
        }
        for way in said:
            if now < weather.calm_at and weather.chance(weather.dim):
                said[way] = "failed it cannot tell"
                self._hosts.untold[machine.id, way] = now
        ends = "" if now < weather.calm_at and weather.chance(weather.dim / 4) else "end\n"
        if not ends:
            self._hosts.silent[machine.id] = now
        gpu, terminal, runs = said.values()
        text = f"flambed-probe\ntimer {state}\ngpu {gpu}\nterminal {terminal}\nexperiment {runs}\nuptime 900\n{ends}"
        typed = terminal.isdecimal() and int(terminal) < TYPED_WITHIN
        tells = {Way.GPU: gpu == str(BUSY_GPU), Way.TERMINAL: typed, Way.EXPERIMENT: runs == "running"}
        return text, frozenset(way for way in tells if tells[way] and ends)

    def _rekey(self, step: str) -> Result:
        host = self._hosts.of(self._machine)
        if step == "make":
            host.made = host.made or f"ssh-ed25519 own-{self._machine.id}"
            return Result(0, f"flambed-key {host.made}\n", "")
        host.key = host.made
        return Result(0, "", "")

    async def _runner(self, key: str, command: str, timeout: float) -> Result:  # noqa: ASYNC109
        host, now = self._hosts.of(self._machine), self._cloud.now
        if key not in host.runs:
            rng = self._weather.rng
            if any(run.command == command and run.code == 0 for run in host.runs.values()):
                self._hosts.wrong.append(f"{command!r} is run on {self._machine.id} again, though it went well")
            begins = max([now, *(run.ends for run in host.runs.values())])
            bad = now < self._weather.calm_at and self._weather.chance(self._weather.bad_command)
            takes = rng.choice([rng.uniform(0, 5), rng.uniform(5, 300)])
            if bad and rng.random() < 0.3:
                takes = rng.uniform(1000, 4000)  # longer than it may
            host.runs[key] = Run(command, begins, begins + takes, rng.choice([1, 2]) if bad else 0)
            self._process.call(f"{self._machine.id} runs command {key[:8]} for {takes:.0f} s")
        if host.scripts:
            self._hosts.wrong.append(f"two set-ups at once on {self._machine.id}")
        host.scripts += 1
        try:
            run = host.runs[key]
            if host.trouble == "hangs" and now < self._weather.calm_at:
                await self._wait(KEEPALIVE, timeout)
                raise self._lost()
            if run.ends > now:
                if self._weather.chance(self._weather.drops) and now < self._weather.calm_at:
                    await self._wait(self._weather.rng.uniform(0, run.ends - now), timeout)
                    raise self._lost()
                await self._wait(run.ends - now, timeout)
        finally:
            host.scripts -= 1
        return Result(0, f"flambed-exit {key} {run.code} 3\nok\n", "")

    async def _wait(self, seconds: float, timeout: float) -> None:  # noqa: ASYNC109
        """Let time pass on the host; a machine that ends meanwhile is noticed by its silence."""
        clock = asyncio.get_running_loop()
        gives_up_at = clock.time() + timeout
        done_at = self._cloud.now + seconds
        while True:
            now = self._cloud.now
            if self._machine.state != "running" or self._machine.boots != self._boots:
                raise self._lost()
            if done_at <= now:
                return
            patience = gives_up_at - clock.time()
            if patience <= 0:
                raise SshError(Reason.TIMED_OUT, "timeout", f"a command has not ended after {timeout:g} s")
            await asyncio.sleep(min(KEEPALIVE, max(0.001, min(done_at - now, patience))))

    def _perhaps_drops(self) -> None:
        if self._cloud.now < self._weather.calm_at and self._weather.chance(self._weather.drops / 4):
            raise self._lost()

    def _lost(self) -> SshError:
        self._process.call(f"ssh {self._machine.id}: lost")
        return SshError(Reason.CONNECTION_LOST, "ConnectionLost", f"the connection to {self._machine.id} was lost")


REKEYED = "sh -c REKEY, as root"
_BEGINNINGS = {
    shlex.join(["sh", "-c", rekey.AS_ROOT, "flambed", "sh", "-c", rekey.REKEY, "flambed"]): REKEYED,
    **{
        shlex.join(["sh", "-c", script, "flambed"]): script
        for script in (setup.RUNNER, link.INFORM, acquaint.ACQUAINT, setup._PEEK, probes.PROBE)
    },
}


def _parsed(command: str) -> tuple[str, list[str]]:
    """Return the script that a command line runs, one of the product's, and its arguments."""
    [(beginning, script)] = [one for one in _BEGINNINGS.items() if command.startswith(one[0])]
    return script, shlex.split(command[len(beginning) :])
