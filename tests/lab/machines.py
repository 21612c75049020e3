"""A pretend host without SSH, for tests of what runs on it."""

import asyncio
from dataclasses import dataclass, field

from flambed.lab.clock import Clock
from flambed.lab.machine import commands  # noqa: F401 - they fill PROGRAMS
from flambed.lab.machine.machine import Machine
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import PROGRAMS, execute
from flambed.lab.machine.streams import Pipe

LIMIT = 20  # seconds that a script of a test may take
REAL_TIME = Clock()
ROOM = 1 << 24  # bytes of output that a test keeps


@dataclass
class Result:
    """What a script left behind."""

    status: int
    output: str
    errors: str


@dataclass
class Bench:
    """A host that is up, and what it has asked for."""

    machine: Machine
    poweroffs: list[str] = field(default_factory=list)

    def start(self, script: str, stdin: bytes = b"", shell: str = "sh") -> tuple[Process, Pipe, Pipe]:
        """Start a script as ubuntu; return its process and what collects its output and its errors."""
        process = self.machine.spawn([shell], user="ubuntu")
        given, output, errors = Pipe(ROOM), Pipe(ROOM), Pipe(ROOM)
        given.writer.feed(stdin)
        given.writer.release()
        process.descriptors = {0: given.reader, 1: output.writer, 2: errors.writer}

        async def main(process: Process) -> int:
            return await execute(process, [shell, "-c", script])

        return process.start(main), output, errors

    async def run(self, script: str, stdin: bytes = b"", shell: str = "sh") -> Result:
        """Run a script as ubuntu to its end."""
        process, output, errors = self.start(script, stdin, shell)
        async with asyncio.timeout(LIMIT):
            status = await process.wait()
        return Result(status, output.buffer.decode(errors="surrogateescape"), errors.buffer.decode(errors="replace"))

    async def until_begun(self, text: str) -> None:
        """Wait until a command whose words are `text` has begun."""
        async with asyncio.timeout(LIMIT):
            while not any(record.text == text for record in self.machine.log):
                await self.machine.recorded.wait()

    async def stop(self) -> None:
        """Power the host off and wait for its processes to be gone."""
        processes = list(self.machine.processes.values())
        self.machine.power_off()
        for process in processes:
            await process.wait()


def make_bench(seed: int = 1, clock: Clock = REAL_TIME) -> Bench:
    """Return a host that has just been booted."""
    poweroffs: list[str] = []
    machine = Machine(
        "i-1",
        "127.10.0.4",
        programs=[name for name in PROGRAMS if name != "nvidia-smi"],
        seed=seed,
        on_poweroff=lambda: poweroffs.append("off"),
        on_reboot=lambda: poweroffs.append("reboot"),
        clock=clock,
    )
    machine.add_user("ubuntu")
    machine.power_on()
    return Bench(machine, poweroffs)
