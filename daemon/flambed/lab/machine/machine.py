"""One pretend Linux host: its files, users and processes, what it was told to run, and when it was booted."""

import asyncio
import hashlib
import random
import signal
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flambed.lab.clock import Clock
from flambed.lab.machine import idletimer
from flambed.lab.machine.files import (
    Console,
    Directory,
    File,
    FileSystem,
    Link,
    Node,
    NullDevice,
    Program,
    Virtual,
    VirtualDirectory,
)
from flambed.lab.machine.process import Process, Record
from flambed.lab.machine.streams import Signal
from flambed.lab.machine.usage import Activity, Usage

LOG_LENGTH = 500
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCHEDULED_SHUTDOWN = "/run/systemd/shutdown/scheduled"
LOGIN_USERS = ("ubuntu", "ec2-user", "admin")


@dataclass(frozen=True)
class Login:
    """Somebody who is, or was, logged in."""

    user: str
    source: str
    start: float = field(default_factory=time.time)
    end: float | None = None
    terminal: str | None = None


class Machine:
    """The host of one instance. Without processes until `power_on`; its files outlive `power_off`."""

    def __init__(
        self,
        instance_id: str,
        address: str,
        *,
        programs: Sequence[str],
        seed: int,
        on_poweroff: Callable[[], None],
        on_reboot: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.instance_id = instance_id
        self.address = address
        self.hostname = f"ip-{address.replace('.', '-')}"
        self.on_poweroff = on_poweroff
        self.on_reboot = on_reboot
        self.random = random.Random(f"{seed}:{instance_id}")  # noqa: S311 - a lab repeats itself by its seed
        self.files = FileSystem()
        self.users: dict[str, int] = {"root": 0}
        self.processes: dict[int, Process] = {}
        self.log: deque[Record] = deque(maxlen=LOG_LENGTH)
        self.recorded = Signal()  # woken when a command is logged
        self.logins: deque[Login] = deque(maxlen=LOG_LENGTH)
        self.counters: Counter[str] = Counter()
        self.reload_sshd: Callable[[], None] = lambda: None
        self.command_fault: Callable[[str], int | None] = lambda _: None
        self.gpus: tuple[int, ...] = ()
        self.driver_works = True
        self.load = 0.0
        self.usage = Usage(clock)
        self.activity = Activity()
        self.idle_timer = idletimer.IdleTimer(self)
        self.console = ""  # what the serial console has shown
        self.boot_id = ""
        self.booted_at = 0.0
        self.shutdown_at: float | None = None
        self.services: set[str] = set()  # started by somebody, besides those that always run
        self.ready_for_ssh = asyncio.Event()  # the boothooks of this boot are done
        self.set_up = asyncio.Event()  # the first boot's work is done
        self._experiment: Process | None = None
        self._shutdown: asyncio.TimerHandle | None = None
        self._next_pid = 0
        self._programs = tuple(programs)
        self._pci = Directory()
        self._lay_out(programs)

    # --- power ---

    def power_on(self) -> None:
        """Begin a new boot: a new boot id, an empty /tmp and /run, no processes."""
        self.boot_id = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        self.booted_at = time.time()
        self._next_pid = 700
        self.console += f"[    0.000000] Linux version 6.8.0-lab\n{self.hostname} login: \n"
        for path in ("/tmp", "/run"):  # noqa: S108 - the host's own
            self.files.directory(path).entries.clear()
        self.ready_for_ssh.clear()
        self.usage.boot()
        self.act(self.activity)

    def power_off(self) -> None:
        """Kill every process; they are gone from the table one turn of the loop later."""
        self.cancel_shutdown()
        self.idle_timer.stop()
        self._experiment = None
        for process in list(self.processes.values()):
            process.send(signal.SIGKILL)

    def schedule_shutdown(self, seconds: float, end: Callable[[], None]) -> None:
        """Call `end` in so many seconds, in place of what was scheduled; /run/systemd/shutdown tells of it."""
        self.cancel_shutdown()
        self.shutdown_at = time.time() + seconds
        self._shutdown = asyncio.get_running_loop().call_later(seconds, end)
        text = f"USEC={int(self.shutdown_at * 1e6)}\nWARN_WALL=0\nMODE=poweroff\n"
        self.files.write(SCHEDULED_SHUTDOWN, text.encode())

    def cancel_shutdown(self) -> None:
        """Take a scheduled shutdown back, if there is one."""
        self.shutdown_at = None
        if self._shutdown is not None:
            self._shutdown.cancel()
            self._shutdown = None
        if self.files.find(SCHEDULED_SHUTDOWN):
            self.files.remove(SCHEDULED_SHUTDOWN)

    def act(self, activity: Activity) -> None:
        """Be as busy as `activity` says, from now on and after each boot; the host is up."""
        self.activity = activity
        self.usage.set(activity)
        running = self._experiment if self._experiment and self._experiment.status is None else None
        if running and running.argv[0] != activity.experiment:
            running.send(signal.SIGKILL)
            running = None
        if activity.experiment and running is None:

            async def work(_: Process) -> int:
                await asyncio.Event().wait()
                return 0

            self._experiment = self.spawn([activity.experiment], user=LOGIN_USERS[0]).start(work)

    def set_gpus(self, utilization: Sequence[int]) -> None:
        """Give the host GPUs that are busy by so many percent; none: no GPU and no nvidia-smi."""
        self.gpus = tuple(utilization)
        self._fit_out()

    def break_driver(self) -> None:
        """Have nvidia-smi fail from now on; a host without a GPU has an image that brings it."""
        self.driver_works = False
        self._fit_out()

    def lack(self, program: str) -> None:
        """Have no such program any more."""
        self._binaries.pop(program, None)

    def mend(self) -> None:
        """Be without a fault again: a disk that can be written, a driver that works, every program."""
        self.files.disk, self.driver_works = None, True
        self._binaries.update({name: Program(name=name) for name in self._programs})
        self._fit_out()

    def has(self, program: str) -> bool:
        """Whether there is such a program in /usr/bin."""
        return program in self._binaries

    @property
    def _binaries(self) -> dict[str, Node]:
        return self.files.directory("/usr/bin").entries

    def _fit_out(self) -> None:
        """Have nvidia-smi where there is a reason for it, and show the GPUs on the PCI bus."""
        if self.gpus or not self.driver_works:
            self._binaries["nvidia-smi"] = Program(name="nvidia-smi")
        else:
            self.lack("nvidia-smi")
        vendors = ["0x1d0f", *["0x10de"] * len(self.gpus)]  # Amazon's network card, and NVIDIA's
        self._pci.entries = {
            f"0000:00:{slot:02x}.0": Directory(entries={"vendor": Virtual(make=f"{vendor}\n".format)})
            for slot, vendor in enumerate(vendors, 5)
        }

    def uptime(self) -> float:
        """Return the seconds since the boot, real ones; /proc/uptime tells the lab's."""
        return time.time() - self.booted_at

    # --- users ---

    def add_user(self, name: str, *, authorized_keys: Sequence[str] = ()) -> None:
        """Make a user with a home, or give one that exists further keys."""
        self.users.setdefault(name, 999 + len(self.users))
        home = self.home(name)
        self.files.make_directories(home, mode=0o750, owner=name)
        if authorized_keys:
            self.files.make_directories(f"{home}/.ssh", mode=0o700, owner=name)
            path = f"{home}/.ssh/authorized_keys"
            old = self.files.read(path).decode().splitlines() if self.files.find(path) else []
            lines = dict.fromkeys([*old, *(key.strip() for key in authorized_keys)])
            self.files.write(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o600, owner=name)

    def home(self, user: str) -> str:
        """Return a user's home directory."""
        return "/root" if user == "root" else f"/home/{user}"

    def authorized_keys(self, user: str) -> list[str]:
        """Return the lines of a user's authorized_keys."""
        if user not in self.users:
            return []
        with suppress(OSError):
            return self.files.read(f"{self.home(user)}/.ssh/authorized_keys").decode().splitlines()
        return []

    def environment(self, user: str) -> dict[str, str]:
        """Return what a login of `user` starts with."""
        return {
            "HOME": self.home(user),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "PATH": SEARCH_PATH,
            "LANG": "C.UTF-8",
        }

    # --- processes ---

    def spawn(self, argv: list[str], *, user: str, cwd: str | None = None) -> Process:
        """Return a new process without descriptors, a child of init; it runs from its `start` on."""
        self._next_pid += 1
        home = self.home(user)
        process = Process(self, self._next_pid, argv, user=user, cwd=cwd or home)
        process.environ = self.environment(user)
        self.processes[process.pid] = process
        return process

    def reap(self, process: Process) -> None:
        """Forget a process that has ended and leave its children to init."""
        self.processes.pop(process.pid, None)
        for child in self.processes.values():
            if child.parent == process.pid:
                child.parent = 1

    def record(self, process: Process, kind: str, text: str, *, script: str | None = None) -> Record:
        """Log a command that begins now."""
        record = Record(kind, text, process.pid, time.time(), script=script[:4096] if script is not None else None)
        self.log.append(record)
        self.recorded.wake()
        return record

    def login(self, login: Login) -> Callable[[], None]:
        """Log a login that begins now; call what is returned at its end."""
        self.logins.append(login)

        def logout() -> None:
            with suppress(ValueError):  # so long ago that it has been dropped
                self.logins[self.logins.index(login)] = replace(login, end=time.time())

        return logout

    def view(self) -> dict[str, Any]:
        """Return files, processes, commands and logins as JSON can hold them."""
        return {
            "files": {
                path: bytes(node.data).decode(errors="replace")
                for path, node in self.files.walk("/")
                if isinstance(node, File) and not isinstance(node, Program)
            },
            "processes": [
                {"pid": p.pid, "ppid": p.parent, "user": p.user, "args": " ".join(p.argv), "start": p.started}
                for p in self.processes.values()
            ],
            "commands": [asdict(record) for record in self.log],
            "logins": [asdict(login) for login in self.logins],
            "boot_id": self.boot_id,
            "shutdown_at": self.shutdown_at,
        }

    # --- files ---

    def _lay_out(self, programs: Sequence[str]) -> None:
        for path in ("/etc", "/root", "/home", "/tmp", "/run", "/dev", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"):  # noqa: S108 - the host's own
            self.files.make_directories(path)
        self.files.make_directories("/var/log")
        self.files.make_directories("/var/lib")
        self.files.directory("/tmp").mode = 0o1777  # noqa: S108 - the host's own
        self.files.directory("/root").mode = 0o700
        for link, target in (("/bin", "usr/bin"), ("/sbin", "usr/bin"), ("/usr/sbin", "bin"), ("/var/run", "../run")):
            self.files.link(link, Link(target=target))
        binaries = self.files.directory("/usr/bin")
        binaries.entries = {name: Program(name=name) for name in programs}
        self.files.link("/dev/null", NullDevice())
        self.files.link("/dev/console", Console(show=self._print))
        self.files.link("/dev/shm", Directory(mode=0o1777))  # noqa: S108 - the host's own
        terminals = VirtualDirectory(entries={}, find=self.usage.device, current=self.usage.terminals)
        self.files.link("/dev/pts", terminals)
        self.files.write("/etc/hostname", f"{self.hostname}\n".encode())
        self.files.write(
            "/etc/os-release", b'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="flambed lab"\n'
        )
        self.files.link("/proc", self._proc())
        self.files.make_directories("/sys/bus/pci")
        self.files.link("/sys/bus/pci/devices", self._pci)
        self._fit_out()
        machine_id = hashlib.sha256(self.instance_id.encode()).hexdigest()[:32]
        self.files.write("/etc/machine-id", f"{machine_id}\n".encode())

    def _proc(self) -> VirtualDirectory:
        kernel = Directory(
            entries={
                "random": Directory(entries={"boot_id": Virtual(make=lambda: f"{self.boot_id}\n")}),
                "hostname": Virtual(make=lambda: f"{self.hostname}\n"),
            }
        )
        return VirtualDirectory(
            entries={
                "uptime": Virtual(make=lambda: "{0:.2f} {0:.2f}\n".format(self.usage.uptime())),
                "stat": Virtual(make=self._cpu_line),
                "1": Directory(entries={"comm": Virtual(make=lambda: "systemd\n")}),
                "loadavg": Virtual(make=lambda: f"{self.load:.2f} {self.load:.2f} {self.load:.2f} 1/{len(self.processes) + 1} {self._next_pid}\n"),
                "sys": Directory(entries={"kernel": kernel}),
            },
            find=self._proc_entry,
            current=lambda: [str(pid) for pid in self.processes],
        )  # fmt: skip

    def _print(self, text: str) -> None:
        self.console += text

    def _cpu_line(self) -> str:
        total, idle = self.usage.cpu_times()
        return f"cpu  {total - idle} 0 0 {idle} 0 0 0 0 0 0\n"

    def _proc_entry(self, name: str) -> Node | None:
        process = self.processes.get(int(name)) if name.isdigit() else None
        if process is None:
            return None
        return Directory(
            mode=0o555,
            owner=process.user,
            entries={
                "cmdline": Virtual(make=lambda: "\0".join(process.argv) + "\0"),
                "comm": Virtual(make=lambda: f"{process.argv[0].rpartition('/')[2][:15]}\n"),
            },
        )
