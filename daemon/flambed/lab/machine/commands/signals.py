"""kill, ps, pgrep, pkill: programs about processes."""

import re
import signal
import time
from collections.abc import Callable, Iterable

from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, number, options, program


def signal_number(text: str) -> int:
    """Return the number of a signal given by number or name. Raises UsageError."""
    if text.isdigit():
        return int(text)
    try:
        return signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"]
    except KeyError:
        raise UsageError(f"{text}: invalid signal specification") from None


@program("kill")
async def kill(process: Process, args: list[str]) -> int:
    """Send a signal to processes, or to process groups by negative numbers."""
    sent, rest = int(signal.SIGTERM), list(args)
    if rest and rest[0] in {"-l", "-L"}:
        await process.out(" ".join(each.name.removeprefix("SIG") for each in signal.Signals) + "\n")
        return 0
    if len(rest) > 1 and rest[0] in {"-s", "-n"}:
        sent, rest = signal_number(rest[1]), rest[2:]
    elif rest and rest[0].startswith("-") and rest[0] != "--":
        sent, rest = signal_number(rest[0][1:]), rest[1:]
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if not rest:
        raise UsageError("usage: kill [-s sigspec | -signum | -sigspec] pid...", 2)
    status = 0
    for text in rest:
        if not re.fullmatch(r"-?\d+", text):
            raise UsageError(f"{text}: arguments must be process or job IDs")
        wanted = int(text)
        targets = [
            each
            for each in process.machine.processes.values()
            if (each.group == -wanted if wanted < 0 else each.pid == wanted)
        ]
        if not targets and wanted != 1:
            await process.err(f"kill: ({text}) - No such process\n")
            status = 1
        for each in targets:
            each.send(sent)
    return status


_COLUMNS: dict[str, tuple[str, Callable[[Process], str]]] = {
    "pid": ("PID", lambda p: str(p.pid)),
    "ppid": ("PPID", lambda p: str(p.parent)),
    "pgid": ("PGID", lambda p: str(p.group)),
    "sid": ("SID", lambda p: str(p.session)),
    "user": ("USER", lambda p: p.user),
    "stat": ("STAT", lambda p: "Ss" if p.session == p.pid else "S"),
    "etimes": ("ELAPSED", lambda p: str(int(time.time() - p.started))),
    "tty": ("TTY", lambda _: "?"),
    "time": ("TIME", lambda _: "00:00:00"),
    "pcpu": ("%CPU", lambda _: "0.0"),
    "comm": ("COMMAND", lambda p: p.argv[0].rpartition("/")[2]),
    "args": ("COMMAND", lambda p: " ".join(p.argv)),
}
_ALIASES = {
    "cmd": "args",
    "command": "args",
    "ucmd": "comm",
    "%cpu": "pcpu",
    "euser": "user",
    "uid": "user",
    "s": "stat",
}


@program("ps")
async def ps(process: Process, args: list[str]) -> int:
    """List processes; -e, -A, aux, -f, -u, -p PIDS, -C NAME and -o COLUMNS are known."""
    bsd = args[:1] in (["aux"], ["ax"], ["auxww"], ["axo"])
    found, _ = options(args[1:] if bsd else args, "eAfwu:p:C:o:x", ["pid=", "no-headers", "format="])
    chosen = list(process.machine.processes.values())
    pids = found.get("p") or found.get("pid")
    if pids:
        wanted = {int(number(pid, "process ID")) for pid in re.split(r"[,\s]+", pids.strip())}
        chosen = [p for p in chosen if p.pid in wanted]
    elif "C" in found:
        chosen = [p for p in chosen if p.argv[0].rpartition("/")[2] == found["C"]]
    elif "u" in found:
        chosen = [p for p in chosen if p.user == found["u"]]
    elif not bsd and not {"e", "A"} & set(found):
        chosen = [p for p in chosen if p.session == process.session]
    layout = found.get("o") or found.get("format")
    if layout is None:
        layout = "user,pid,pcpu,stat,args" if bsd else "user,pid,ppid,args" if "f" in found else "pid,tty,time,comm"
    await process.out("".join(_table(chosen, layout, heading="no-headers" not in found)))
    return 0 if chosen else 1


def _table(processes: Iterable[Process], layout: str, *, heading: bool) -> Iterable[str]:
    specs = [spec.partition("=") for spec in re.split(r"[,\s]+", layout.strip())]
    columns = []
    for name, equals, title in specs:
        key = _ALIASES.get(name, name)
        if key not in _COLUMNS:
            raise UsageError(f'error: unknown user-defined format specifier "{name}"')
        columns.append((title if equals else _COLUMNS[key][0], _COLUMNS[key][1]))
    if heading and any(title for title, _ in columns):
        yield " ".join(f"{title:>7}" for title, _ in columns[:-1]) + f" {columns[-1][0]}\n"
    for each in processes:
        cells = [show(each) for _, show in columns]
        yield " ".join([f"{cell:>7}" for cell in cells[:-1]] + cells[-1:]) + "\n"


@program("pgrep", "pkill")
async def pgrep(process: Process, args: list[str]) -> int:
    """Find processes by a pattern of their names (-f: whole command lines); pkill sends them a signal."""
    sent = int(signal.SIGTERM)
    killing = process.argv[0].endswith("pkill")
    rest = list(args)
    if killing and rest and re.fullmatch(r"-(\d+|[A-Z]{3,})", rest[0]):
        sent = signal_number(rest.pop(0)[1:])
    found, patterns = options(rest, "fxu:al")
    match = re.fullmatch if "x" in found else re.search
    hits = [
        each
        for each in process.machine.processes.values()
        if each is not process
        and match(
            patterns[0] if patterns else "", " ".join(each.argv) if "f" in found else each.argv[0].rpartition("/")[2]
        )
        and found.get("u", each.user) == each.user
    ]
    for each in hits:
        if killing:
            each.send(sent)
        else:
            await process.out(f"{each.pid} {' '.join(each.argv)}\n" if "a" in found else f"{each.pid}\n")
    return 0 if hits else 1
