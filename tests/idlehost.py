"""A host for the scripts of idle protection: they run as programs, under the shells that hosts have; the rest is made up.

Its clock stands still between calls, so that a day of ticks takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from flambed import userdata
from flambed.observed import probes
from flambed.observed.probes import Probe
from tests.parts import real_part

TOOLS = ("cat", "cp", "date", "grep", "id", "mkdir", "mv", "rm", "stat", "timeout", "tr")
"""All that the scripts need besides a shell; nothing else of this machine is in their PATH."""

HERTZ = 100  # of the CPU's counters
SHELLS = ("dash", "bash", "busybox")


class IdleHost:
    """Files below a folder that the scripts take for `/`, and programs in a PATH of its own.

    busybox runs what it has itself whatever is in the PATH: there only programs that it lacks can be made up.
    """

    def __init__(self, folder: Path, shell: str, *, minutes: int = 120, percent: float = 0.5) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        where = real_part(shell, shell)
        for name in ("sh", *TOOLS):
            (self.bin / name).symlink_to(where if shell == "busybox" or name == "sh" else real_part(name, "coreutils"))
        for name in ("shutdown", "systemctl"):
            self.program(name, f'echo "{name} $*" >>"{self.root}/calls"')
        self.program("wall", f'cat >>"{self.root}/wall"')
        for name in ("proc/1", "proc/sys/kernel/random", "dev/pts", "run", "var/lib/cloud/instance"):
            (self.root / name).mkdir(parents=True)
        self.terminal("tty1", at=1_000_000)
        self.process(1, "systemd")
        self.cpu = 0.2  # percent
        self._busy = self._total = 0.0
        self.up = 0.0
        self.boot()
        self.hook = folder / "boothook"
        self.hook.write_text(userdata.IdleTimer(minutes, percent).script)
        self.timer = self.root / "run" / "flambed" / "idle-timer"

    # --- what there is ---

    def program(self, name: str, text: str) -> None:
        """Put a program into the PATH, in place of one of that name."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{self.bin}/sh\n{text}\n")
        path.chmod(0o755)

    def gpus(self, *percents: object) -> None:
        """Let nvidia-smi tell these; a host has no such program until then."""
        self.program("nvidia-smi", "".join(f"echo '{percent}'\n" for percent in percents))

    def terminal(self, name: str, *, at: float) -> None:
        """Let the last input at a terminal be at a UNIX time; it is there from now on."""
        path = self.root / "dev" / name
        path.touch()
        os.utime(path, (at, at))

    def process(self, pid: int, *argv: str, comm: str | None = None) -> None:
        """Let a process run."""
        folder = self.root / "proc" / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "comm").write_text(f"{comm or argv[0].rpartition('/')[2][:15]}\n")
        (folder / "cmdline").write_text("".join(f"{arg}\0" for arg in argv))

    # --- time ---

    def boot(self, *, up: float = 30) -> None:
        """Begin a new boot: the counters at 0, nothing left of /run."""
        shutil.rmtree(self.root / "run")
        (self.root / "run").mkdir()
        identity = self.root / "proc" / "sys" / "kernel" / "random" / "boot_id"
        identity.write_text(f"boot-{len(list(self.root.glob('booted-*')))}\n")
        (self.root / f"booted-{os.urandom(4).hex()}").touch()
        self._busy = self._total = self.up = 0.0
        self.pass_time(up)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with the CPU used as `cpu` says."""
        self.up += seconds
        self._total += seconds * HERTZ
        self._busy += seconds * HERTZ * self.cpu / 100
        idle = int(self._total) - int(self._busy)
        (self.root / "proc" / "uptime").write_text(f"{self.up:.2f} {idle / HERTZ:.2f}\n")
        (self.root / "proc" / "stat").write_text(f"cpu  {int(self._busy)} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4\n")

    def ticks(self, minutes: int, *, every: int = 5, meanwhile: Callable[[], object] = lambda: None) -> int | None:
        """Let so many minutes pass, with a tick every so many; the minute in which it ended itself, None if it did not."""
        for minute in range(every, minutes + 1, every):
            self.pass_time(60 * every)
            meanwhile()
            self.tick()
            if self.calls("shutdown"):
                return minute
        return None

    # --- the scripts ---

    def run(self, *command: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the shell with these arguments; it must not take long."""
        env = {"PATH": str(self.bin), "FLAMBED_ROOT": str(self.root)}
        argv = [str(self.bin / "sh"), *(["-c", script, "flambed"] if script else []), *command]
        return subprocess.run(
            argv, check=False, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=20
        )

    def install(self) -> subprocess.CompletedProcess[str]:
        """Boot as cloud-init does."""
        return self.run(str(self.hook))

    def tick(self) -> subprocess.CompletedProcess[str]:
        """Tick once, as systemd does every minute."""
        return self.run(str(self.timer), "tick")

    def renew(self, minutes: int = 120, percent: float = 0.5, hold: int = 0) -> dict[str, str]:
        """Renew the lease; what was answered."""
        return self._told("renew", str(minutes), str(percent), str(hold))

    def status(self) -> dict[str, str]:
        """What `status` tells."""
        return self._told("status")

    def _told(self, *arguments: str) -> dict[str, str]:
        done = self.run(str(self.timer), *arguments)
        assert not done.stderr, done.stderr
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def probe(self, *, minutes: int = 120, percent: float = 0.5, hold: int = 0, experiment: str = "flambe") -> Probe:
        """Probe the host as the service does."""
        done = self.run(str(minutes), str(percent), str(hold), experiment, script=probes.PROBE)
        assert (done.returncode, done.stderr) == (0, "")
        return probes.parse(done.stdout)

    def calls(self, program: str) -> list[str]:
        """How a made-up program was called."""
        path = self.root / "calls"
        text = path.read_text() if path.exists() else ""
        return [line for line in text.splitlines() if line.split()[0] == program]
