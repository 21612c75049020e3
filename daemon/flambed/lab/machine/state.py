"""What a shell knows: its parameters, variables, functions, options and traps."""

from collections.abc import Sequence

from flambed.lab.machine.expansion import ExpansionError
from flambed.lab.machine.process import Process
from flambed.lab.machine.syntax import Command


class State:
    """The state of one shell; a subshell starts with a copy of it."""

    def __init__(self, process: Process, name: str, positional: Sequence[str]) -> None:
        self.process = process
        self.name = name  # $0
        self.positional: list[str] = list(positional)
        self.variables: dict[str, str] = dict(process.environ)
        self.exported: set[str] = set(process.environ)
        self.readonly: set[str] = set()
        self.functions: dict[str, Command] = {}
        self.flags: set[str] = set()  # the letters that `set` switches on, and "pipefail"
        self.traps: dict[str, str] = {}  # by the name of the signal, or EXIT
        self.locals: list[dict[str, str | None]] = []  # what each running function hides by its own
        self.loops = 0  # running loops, for `break`
        self.status = 0  # $?
        self.line = 1
        self.shown_pid = process.pid  # $$, which a subshell inherits
        self.last_job: int | None = None  # $!

    def inherit(self, other: "State") -> None:
        """Copy the state of the shell that this one is a subshell of; of the traps only those that ignore."""
        self.variables = dict(other.variables)
        self.exported = set(other.exported)
        self.readonly = set(other.readonly)
        self.functions = dict(other.functions)
        self.flags = set(other.flags)
        self.traps = {name: action for name, action in other.traps.items() if not action}
        self.locals = [dict(hidden) for hidden in other.locals]
        self.status, self.line = other.status, other.line
        self.shown_pid, self.last_job = other.shown_pid, other.last_job

    def get(self, name: str) -> str | None:
        """Return a variable or special parameter, None if it is unset."""
        if name.isdigit():
            values = [self.name, *self.positional]
            return values[int(name)] if int(name) < len(values) else None
        match name:
            case "?":
                return str(self.status)
            case "#":
                return str(len(self.positional))
            case "$":
                return str(self.shown_pid)
            case "!":
                return str(self.last_job) if self.last_job is not None else None
            case "-":
                return "".join(sorted(flag for flag in self.flags if len(flag) == 1))
            case "@" | "*":
                return " ".join(self.positional)
            case "PPID":
                return str(self.process.parent)
            case "LINENO":
                return str(self.line)
            case _:
                return self.variables.get(name)

    def assign(self, name: str, value: str) -> None:
        """Set a variable. Raises ExpansionError for a readonly one."""
        if name in self.readonly:
            raise ExpansionError(f"{name}: is read only")
        self.variables[name] = value
        if "a" in self.flags:
            self.exported.add(name)
        if name == "PATH":
            self.process.environ[name] = value

    def unset(self, name: str) -> None:
        """Unset a variable. Raises ExpansionError for a readonly one."""
        if name in self.readonly:
            raise ExpansionError(f"{name}: is read only")
        self.variables.pop(name, None)
        self.exported.discard(name)

    def hide(self, name: str) -> None:
        """Make a variable local to the running function."""
        self.locals[-1].setdefault(name, self.variables.get(name))

    def reveal(self) -> None:
        """Give the variables back that the function that ends had hidden."""
        for name, value in self.locals.pop().items():
            if value is None:
                self.variables.pop(name, None)
            else:
                self.variables[name] = value

    def environment(self) -> dict[str, str]:
        """Return the exported variables."""
        return {name: self.variables[name] for name in sorted(self.exported) if name in self.variables}

    @property
    def strict(self) -> bool:
        """Whether an unset variable is an error (set -u)."""
        return "u" in self.flags

    @property
    def globbing(self) -> bool:
        """Whether patterns become file names (not set -f)."""
        return "f" not in self.flags
