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
from tests.simulation.cloud import Cloud, Machine
from tests.simulation.faults import Weather
from tests.simulation.wire import Process

ANSWER = "flambed-probe\ntimer renewed\ngpu none\nterminal none\nexperiment none\nuptime 900\nend\n"
"""What a host says to a probe: it has a timer, and nobody uses it but by its CPU."""

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
        self.twice: list[str] = []  # set-up that should never have been seen

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

    def connector(self, process: Process) -> Callable[..., AbstractAsyncContextManager[Host]]:
        """Return what stands for `ssh.connect_when_up` in a process."""

        @asynccontextmanager
        async def connect_when_up(
            target: Target, *, until: float, deadlines: Deadlines | None = None
        ) -> AsyncIterator[Host]:
            await process.point(f"before connecting to {target.address}")
            machine = await self._reach(target, until)
            process.call(f"ssh {machine.id}: connected")
            await process.point(f"after connecting to {target.address}")
            host = self.of(machine)
            host.key = host.key or target.host_keys[0]
            if host.key not in target.host_keys:
                raise HostKeyChangedError("HostKeyNotVerifiable", target, host.key)
            yield Session(self, machine, process, host.key)  # type: ignore[misc] # it is used as a Host is

        return connect_when_up

    async def _reach(self, target: Target, until: float) -> Machine:
        cloud = self._cloud
        while True:
            machine = next(m for m in cloud.machines.values() if m.address == target.address)
            open_at = None
            if machine.state == "running":
                assert machine.running_at is not None
                host = self.of(machine)
                calm = cloud.now >= self._weather.calm_at
                if host.trouble == "other_key" and not calm:
                    raise HostKeyChangedError("HostKeyNotVerifiable", target, None)
                if calm or host.trouble in (None, "hangs", "slow"):
                    open_at = machine.running_at + host.opens_after
                    if cloud.now >= open_at:
                        return machine
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
        await self._process.point(f"before a script on {self._machine.id}")
        await self._wait(self._weather.rng.uniform(0.02, 0.2), timeout)
        self._perhaps_drops()
        if script == setup.RUNNER:
            result = await self._runner(args[0], str(stdin), timeout)
        elif script == REKEYED:
            result = self._rekey(args[0])
        elif script == probes.PROBE:
            result = Result(0, ANSWER, "")
        else:
            result = Result(0, "", "")
        await self._process.point(f"after a script on {self._machine.id}")
        return result

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
                self._hosts.twice.append(f"{command!r} is run on {self._machine.id} again, though it went well")
            begins = max([now, *(run.ends for run in host.runs.values())])
            bad = now < self._weather.calm_at and self._weather.chance(self._weather.bad_command)
            takes = rng.choice([rng.uniform(0, 5), rng.uniform(5, 300)])
            if bad and rng.random() < 0.3:
                takes = rng.uniform(1000, 4000)  # longer than it may
            host.runs[key] = Run(command, begins, begins + takes, rng.choice([1, 2]) if bad else 0)
            self._process.call(f"{self._machine.id} runs command {key[:8]} for {takes:.0f} s")
        if host.scripts:
            self._hosts.twice.append(f"two set-ups at once on {self._machine.id}")
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
