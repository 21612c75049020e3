"""The lab's hosts keep the contract of the idle timer: installed by the user data, renewed over SSH, an end of their own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncssh
import pytest

from flambed import userdata
from flambed.lab.clock import Clock
from flambed.lab.machine.usage import Activity
from flambed.observed import probes
from flambed.observed.probes import Probe, Timer
from flambed.userdata import IdleTimer
from tests.lab.labproc import LabProcess, start_lab
from tests.lab.machines import Bench, make_bench

SAMPLES = "/run/flambed/samples"
MINUTE = 0.05  # real seconds
SHORT = IdleTimer(5, 0.5)


@pytest.fixture(scope="module")
def lab() -> Iterator[LabProcess]:
    """A lab in which an hour is over in three seconds."""
    with start_lab("--minute", str(MINUTE), "--quotas", "off", "--shutdown", "0.1", "--ssh-delay", "0.05") as lab:
        yield lab


def launch(lab: LabProcess, *, timer: IdleTimer | None = SHORT, **changes: str) -> str:
    """Launch a host with a timer, or without, and wait until it answers; its id."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    data = userdata.build(
        host_key_private=key.export_private_key("openssh").decode(),
        host_key_public=key.export_public_key("openssh").decode(),
        user_data=None,
        timer=timer,
    )
    request: dict[str, Any] = {"UserData": data, "InstanceInitiatedShutdownBehavior": "terminate"} | changes
    [instance] = lab.launch(**request)
    lab.until(lambda: lab.instance(instance)["ssh_since"])
    return instance


def connected(lab: LabProcess, instance: str) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
    """Log in to a host."""
    address, port, key = lab.instance(instance)["address"], lab.info["ssh_port"], lab.info["key"]
    return asyncssh.connect(
        address, port, username="ubuntu", client_keys=[key], known_hosts=None, config=None, agent_path=None
    )


async def probe(lab: LabProcess, instance: str, *, minutes: int | None = 60) -> Probe:
    """Probe a host over SSH as the service does."""
    async with connected(lab, instance) as connection:
        command = probes.command(minutes=minutes, percent=0.5, hold=0, experiment="flambe")
        done = await connection.run(command)
    assert done.exit_status == 0, done.stderr
    return probes.parse(str(done.stdout))


@pytest.mark.idle("dead-man's timer")
async def test_a_host_that_nobody_renewed_ends_itself_and_those_that_are_used_do_not(lab: LabProcess) -> None:
    """Two hours after its boot. Renewed, busy by its CPU or its GPU, typed at, switched off or without a timer: it stays."""
    began = time.monotonic()
    alone = launch(lab)
    tmux = launch(lab)
    lab.fault({"kind": "tty", "instance": tmux, "typing": False})
    stay = {name: launch(lab) for name in ("renewed", "cpu", "typing", "off")}
    stay["gpu"] = launch(lab, InstanceType="g4dn.xlarge")
    stay["none"] = launch(lab, timer=None)
    lab.fault({"kind": "cpu", "instance": stay["cpu"], "percent": 60.0})
    lab.fault({"kind": "gpu", "instance": stay["gpu"], "percent": 97})
    lab.fault({"kind": "tty", "instance": stay["typing"], "typing": True})
    assert (await probe(lab, stay["renewed"])).timer is Timer.RENEWED
    assert (await probe(lab, stay["off"], minutes=None)).timer is Timer.OFF

    lab.until_state([alone, tmux], "terminated", within=60)
    assert time.monotonic() - began >= 120 * MINUTE
    assert {lab.instance(i)["reason"] for i in (alone, tmux)} == {"Client.InstanceInitiatedShutdown"}
    assert {name: lab.instance(instance)["state"] for name, instance in stay.items()} == dict.fromkeys(stay, "running")

    typed = await probe(lab, stay["typing"])
    assert (typed.timer, typed.gpu, typed.experiment) == (Timer.RENEWED, None, False)
    assert isinstance(typed.terminal, int)
    assert typed.terminal < 30 * 60
    assert (await probe(lab, stay["gpu"])).gpu == 97
    assert (await probe(lab, stay["none"])).timer is Timer.ABSENT


async def test_a_host_whose_shutdown_behaviour_is_stop_stops(lab: LabProcess) -> None:
    """The timer shuts down; what that means is EC2's to know."""
    instance = launch(lab, InstanceInitiatedShutdownBehavior="stop")
    lab.until_state([instance], "stopped", within=60)
    assert lab.instance(instance)["reason"] == "Client.InstanceInitiatedShutdown"


async def test_the_experiment_is_seen_and_is_there_again_after_a_reboot(lab: LabProcess) -> None:
    """Until the fault says that it has ended; the timer of a rebooted host ticks, too."""
    instance = launch(lab)
    assert (await probe(lab, instance)).experiment is False
    lab.fault({"kind": "experiment", "instance": instance, "program": "flambe"})
    assert (await probe(lab, instance)).experiment is True
    before = lab.instance(instance)["ssh_since"]
    lab.boto("ec2").reboot_instances(InstanceIds=[instance])
    lab.until(lambda: (lab.instance(instance)["ssh_since"] or before) > before)
    seen = await probe(lab, instance)
    assert (seen.timer, seen.experiment) == (Timer.RENEWED, True)
    lab.fault({"kind": "experiment", "instance": instance, "program": None})
    assert (await probe(lab, instance)).experiment is False


async def test_a_person_at_a_terminal_is_seen(lab: LabProcess) -> None:
    """A login with a terminal and what is typed there, not the probe's own connection."""
    instance = launch(lab, timer=None)
    assert (await probe(lab, instance)).terminal is None
    async with connected(lab, instance) as connection, connection.create_process(term_type="xterm") as person:
        person.stdin.write("echo hello\n")
        await person.stdout.readuntil("hello\r\n")
        assert (await probe(lab, instance)).terminal is not None
        person.stdin.write_eof()
    assert (await probe(lab, instance)).terminal is None


async def test_a_fault_may_wait_for_a_host_to_boot(lab: LabProcess) -> None:
    """As all faults of hosts do."""
    lab.fault({"kind": "tty", "match": {"role": "Typist"}, "typing": True})
    instance = launch(lab, role="Typist", timer=None)
    assert (await probe(lab, instance)).terminal is not None


# --- the lab's own timer and the script --------------------------------------------------------------------------


@dataclass(frozen=True)
class SetClock(Clock):
    """A clock that is set by hand."""

    times: list[float] = field(default_factory=lambda: [1_000_000.0])

    def now(self) -> float:
        """Return the last time that it was set to."""
        return self.times[-1]


async def boot(bench: Bench) -> None:
    """Install the timer as cloud-init does; it ticks only when it is told to."""
    bench.machine.files.write("/hook", IdleTimer(90, 0.5).script.encode(), mode=0o755)
    done = await bench.run("sudo /hook")
    assert (done.status, done.output, done.errors) == (0, "", "")
    bench.machine.idle_timer.stop()


async def something_happens(dice: random.Random, bench: Bench) -> str:
    """Let one thing happen to a host; what it answered."""
    machine = bench.machine
    match dice.choices(["nothing", "use", "gpu", "lease", "reboot", "break"], [150, 5, 5, 4, 1, 5])[0]:
        case "use":
            machine.act(
                Activity(cpu=dice.choice([0.1, 0.3, 0.5, 0.9, 50.0]), typing=dice.choice([None, None, False, True]))
            )
        case "gpu":
            machine.set_gpus(dice.choice([[], [0], [0, 5], [6, 0], [100]]))
        case "break":
            breaking: list[Callable[[], None]] = [machine.mend, machine.break_driver, partial(machine.lack, "stat")]
            dice.choice(breaking)()
        case "lease":
            lease = f"{dice.choice([-1, 30, 60, 90])} {dice.choice([0.5, 4])} {dice.choice([0, 3600, 100_000])}"
            return (await bench.run(f"sudo sh /run/flambed/idle-timer renew {lease}")).output
        case "reboot":
            await bench.stop()
            machine.power_on()
            await boot(bench)
    return ""


@pytest.mark.parametrize("seed", range(3))
async def test_the_labs_timer_does_what_the_script_does(seed: int) -> None:
    """Hours of a host's life, at random: after each tick both know the same. Left alone, both end it at the same time."""
    clock = SetClock()
    by_script, by_lab = make_bench(clock=clock), make_bench(clock=clock)
    dices = random.Random(seed), random.Random(seed)
    pauses = random.Random(-seed - 1)

    async def tick() -> None:
        clock.times.append(clock.now() + pauses.randrange(60, 300))
        assert not (await by_script.run("sudo sh /run/flambed/idle-timer tick")).errors
        by_lab.machine.idle_timer.tick()
        assert by_script.machine.files.read(SAMPLES) == by_lab.machine.files.read(SAMPLES)
        assert by_script.poweroffs == by_lab.poweroffs

    for bench in (by_script, by_lab):
        await boot(bench)
    for _ in range(150):
        assert await something_happens(dices[0], by_script) == await something_happens(dices[1], by_lab)
        await tick()
    for bench in (by_script, by_lab):
        bench.machine.mend()
        bench.machine.act(Activity())
        bench.machine.set_gpus([])
        bench.machine.files.remove("/var/lib/cloud/instance/flambed/lease")
        bench.poweroffs.clear()
        await boot(bench)
    async with asyncio.timeout(60):
        while not by_lab.poweroffs:
            await tick()
    for bench in (by_script, by_lab):
        await bench.stop()


async def test_the_labs_timer_ticks_once_a_minute_until_its_unit_is_stopped() -> None:
    """As systemd has it; a second start changes nothing."""
    ticking, stopped = [make_bench(clock=Clock(minute=0.02)) for _ in range(2)]
    for bench in (ticking, stopped):
        bench.machine.files.write("/hook", SHORT.script.encode(), mode=0o755)
        assert (await bench.run("sudo /hook; sudo /hook")).errors == ""
    await stopped.run("sudo systemctl stop flambed-idle.timer")
    before = stopped.machine.files.read(SAMPLES)
    first = int(ticking.machine.files.read(SAMPLES).split()[1])
    ticks = 3
    async with asyncio.timeout(10):
        for _ in range(ticks):
            node = ticking.machine.files.find(SAMPLES)
            assert node is not None
            await node.changed.wait()
    passed = int(ticking.machine.files.read(SAMPLES).split()[1]) - first
    assert passed >= 60 * (ticks - 1)
    assert stopped.machine.files.read(SAMPLES) == before
    await ticking.stop()
    await stopped.stop()
