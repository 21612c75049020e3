"""What a pretend host is used for: its CPU, its terminals and its experiment, on the lab's clock."""

from dataclasses import dataclass

from flambed.lab.clock import Clock
from flambed.lab.machine.files import Node, NullDevice

HERTZ = 100  # clock ticks of the CPU's counters a second
QUIET = 0.2  # percent of CPU where nobody has set it, as in CloudWatch
FORGOTTEN = "0"  # the terminal that a fault opens


@dataclass(frozen=True)
class Activity:
    """What a host does, as faults have set it."""

    cpu: float | None = None  # percent; None: nobody has set it
    typing: bool | None = None  # somebody types all the time; False: the terminal is open and forgotten; None: closed
    experiment: str | None = None  # the name of a program that runs


class Usage:
    """The counters of the CPU and the terminals of one host, since its boot."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.typing = False  # at the terminal FORGOTTEN, all the time
        self._cpu = QUIET
        self._terminals: dict[str, float] = {}  # name in /dev/pts -> lab time of the last input
        self._booted = self._since = clock.now()
        self._busy = 0.0  # seconds of all CPUs together, up to `_since`

    def boot(self) -> None:
        """Begin anew: counters at 0, no terminals."""
        self._booted = self._since = self.clock.now()
        self._busy = 0.0
        self._terminals.clear()

    def uptime(self) -> float:
        """Return the lab's seconds since the boot."""
        return self.clock.now() - self._booted

    def set(self, activity: Activity) -> None:
        """Do what `activity` says from now on."""
        self._busy += self._busy_since()
        self._since = self.clock.now()
        self._cpu = QUIET if activity.cpu is None else activity.cpu
        if activity.typing is None:
            self.close_terminal(FORGOTTEN)
        elif activity.typing or FORGOTTEN not in self._terminals or self.typing:
            self.typed(FORGOTTEN)
        self.typing = bool(activity.typing)

    def cpu_times(self) -> tuple[int, int]:
        """Return the clock ticks since the boot: all, and the idle ones, as if there were one CPU."""
        total = self.uptime()
        return int(total * HERTZ), int((total - self._busy - self._busy_since()) * HERTZ)

    def _busy_since(self) -> float:
        return (self.clock.now() - self._since) * self._cpu / 100

    # --- terminals ---

    def open_terminal(self) -> str:
        """Return the name of a new terminal, below /dev/pts."""
        name = next(str(n) for n in range(1, len(self._terminals) + 2) if str(n) not in self._terminals)
        self.typed(name)
        return name

    def typed(self, name: str) -> None:
        """Note input at a terminal."""
        self._terminals[name] = self.clock.now()

    def close_terminal(self, name: str) -> None:
        """Forget a terminal."""
        self._terminals.pop(name, None)

    def terminals(self) -> list[str]:
        """Return the names of the terminals."""
        return sorted(self._terminals)

    def last_input(self, name: str) -> float | None:
        """Return the lab time of the last input at a terminal, None where there is no such terminal."""
        return self.clock.now() if self.typing and name == FORGOTTEN else self._terminals.get(name)

    def device(self, name: str) -> Node | None:
        """Return /dev/pts/NAME as it is now."""
        when = self.last_input(name)
        return None if when is None else NullDevice(mode=0o620, modified=when)
