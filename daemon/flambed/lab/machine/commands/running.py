"""sh, flock, timeout, setsid, nohup, sudo, env, xargs, sleep: programs that run others, or wait."""

import asyncio
import re
import shlex
import signal
from contextlib import suppress

from flambed.lab.machine.commands.signals import signal_number
from flambed.lab.machine.files import FileStream
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, execute, launch, number, options, program, refuse
from flambed.lab.machine.shell import Shell

SHELL_FLAGS = "euxfan"


@program("sh", "bash", "dash")
async def sh(process: Process, args: list[str]) -> int:
    """Run a shell: -c COMMAND [NAME [ARG...]], FILE [ARG...], or -s [ARG...] for a script on standard input."""
    flags, rest = _shell_flags(args)
    name = process.argv[0].rpartition("/")[2]
    if "c" in flags:
        if not rest:
            raise UsageError("-c requires an argument", 2)
        script = rest[0]
        name, rest = (rest[1], rest[2:]) if len(rest) > 1 else (name, [])
    elif rest and "s" not in flags:
        name, rest = rest[0], rest[1:]
        try:
            script = process.machine.files.read(process.path(name)).decode(errors="surrogateescape")
        except OSError as error:
            raise UsageError(f"0: cannot open {name}: {error.strerror}", 2) from None
    else:
        script = (await process.read_all()).decode(errors="surrogateescape")
    for record in process.records[-1:]:
        record.kind, record.script = ("exec" if record.kind == "exec" else "script"), script[:4096]
    code = process.machine.command_fault(script)
    if code is not None:
        return await refuse(process, script, code)
    shell = Shell(process, name, rest)
    shell.flags = flags - {"c", "s", "l", "i"}
    return await shell.run(script, tail="c" in flags)


def _shell_flags(args: list[str]) -> tuple[set[str], list[str]]:
    flags: set[str] = set()
    rest = list(args)
    while rest and rest[0][:1] in {"-", "+"} and len(rest[0]) > 1:
        arg = rest.pop(0)
        if arg == "--":
            break
        if arg in {"-o", "+o"} and rest:
            flags.add({"errexit": "e", "nounset": "u"}.get(rest[0], rest[0]))
            rest.pop(0)
        elif not arg.startswith("--"):  # --norc, --login and their like change nothing here
            flags |= set(arg[1:])
    return flags, rest


@program("flock")
async def flock(process: Process, args: list[str]) -> int:
    """Run a command with a file locked, or lock a descriptor; -s -x -n -w -E -o -u and -c COMMAND are known."""
    found, operands = options(
        args,
        "sxenow:E:uFv",
        ["shared", "exclusive", "nonblock", "timeout=", "wait=", "conflict-exit-code=", "close", "unlock", "no-fork"],
        mixed=False,
    )
    if not operands:
        raise UsageError("not enough arguments", 64)
    target, argv = operands[0], operands[1:]
    if argv[:1] == ["-c"]:
        argv = ["/bin/sh", "-c", *argv[1:]]
    if argv:
        descriptor = next(n for n in range(3, 1024) if n not in process.descriptors)
        process.redirect(
            descriptor, process.open(target, "r" if process.machine.files.find(process.path(target)) else "a")
        )
    else:
        descriptor = int(number(target, "file descriptor"))
    stream = process.stream(descriptor)
    if not isinstance(stream, FileStream):
        raise UsageError(f"{target}: Bad file descriptor", 65)
    lock = stream.node.lock
    if {"u", "unlock"} & set(found):
        lock.drop(stream)
        return 0
    patience = found.get("w") or found.get("timeout") or found.get("wait")
    limit = 0.0 if {"n", "nonblock"} & set(found) else number(patience, "timeout value") if patience else None
    if not await _locked(stream, limit, exclusive=not {"s", "shared"} & set(found)):
        return int(number(found.get("E") or found.get("conflict-exit-code") or "1", "exit code"))
    if not argv:
        return 0
    if {"F", "no-fork"} & set(found):
        return await execute(process, argv)
    child = launch(process, argv)
    if {"o", "close"} & set(found):
        child.close(descriptor)
    return await child.wait()


async def _locked(stream: FileStream, limit: float | None, *, exclusive: bool) -> bool:
    if stream.node.lock.take(stream, exclusive=exclusive):
        return True
    if limit == 0.0:
        return False
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await stream.node.lock.acquire(stream, exclusive=exclusive)
            return True
    return False


@program("setsid")
async def setsid(process: Process, args: list[str]) -> int:
    """Run a command in a session of its own; in the background with -f."""
    found, argv = options(args, "fwc", ["fork", "wait"], mixed=False)
    if not argv:
        raise UsageError("no command specified")
    fork = bool({"f", "fork"} & set(found)) or process.group == process.pid
    target = launch(process, argv) if fork else process
    target.group = target.session = target.pid
    if not fork:
        return await execute(process, argv)
    return await target.wait() if {"w", "wait"} & set(found) else 0


@program("nohup")
async def nohup(process: Process, args: list[str]) -> int:
    """Run a command that hangups do not end."""
    process.ignored.add(signal.SIGHUP)
    return await execute(process, _command(args))


@program("nice", "ionice", "stdbuf", "chrt", "taskset", "systemd-inhibit")
async def nice(process: Process, args: list[str]) -> int:
    """Run a command; priorities and buffers mean nothing here."""
    rest = list(args)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if re.fullmatch(r"-[nc]", option) and rest:
            rest.pop(0)
    return await execute(process, _command(rest))


def _command(argv: list[str]) -> list[str]:
    if not argv:
        raise UsageError("missing operand", 125)
    return argv


def _seconds(text: str) -> float | None:
    """Return a duration such as 1.5, 2m or infinity in seconds; None for ever."""
    if text in {"infinity", "inf"}:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if text[:1] == "-":
        raise UsageError(f"invalid time interval ‘{text}’")  # noqa: RUF001 - as coreutils quotes
    return number(text[:-1], "time interval") * unit if unit else number(text, "time interval")


@program("sleep")
async def sleep(_: Process, args: list[str]) -> int:
    """Wait for the sum of the durations, in real time."""
    if not args:
        raise UsageError("missing operand")
    durations = [_seconds(arg) for arg in args]
    if None in durations:
        await asyncio.Event().wait()
    await asyncio.sleep(sum(duration for duration in durations if duration is not None))
    return 0


@program("timeout")
async def timeout(process: Process, args: list[str]) -> int:
    """Run a command and end it after a while: status 124, or 137 if it had to be killed."""
    found, operands = options(args, "s:k:v", ["signal=", "kill-after=", "foreground", "preserve-status"], mixed=False)
    if len(operands) < 2:
        raise UsageError("missing operand", 125)
    number_sent = signal_number(found.get("s") or found.get("signal") or "TERM")
    patience = found.get("k") or found.get("kill-after")
    if "foreground" not in found:
        process.group = process.pid
    child = launch(process, operands[1:])
    process.handlers[signal.SIGTERM] = lambda: child.send(signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(_seconds(operands[0]) or None):
            return await child.wait()
    _end(process, child, number_sent)
    if patience:
        with suppress(TimeoutError):
            async with asyncio.timeout(_seconds(patience)):
                status = await child.wait()
                return status if "preserve-status" in found else 124
        _end(process, child, signal.SIGKILL)
    status = await child.wait()
    return status if "preserve-status" in found or status == 128 + signal.SIGKILL else 124


def _end(process: Process, child: Process, number_sent: int) -> None:
    """Send a signal to a child and to all others of this process's group."""
    for each in [child, *process.machine.processes.values()]:
        if each is child or (each.group == process.group == process.pid and each is not process):
            each.send(number_sent)


@program("sudo", "doas", "runuser")
async def sudo(process: Process, args: list[str]) -> int:
    """Run a command as root, or another user (-u); nobody is asked for a password."""
    found, argv = options(args, "nEHSkibu:g:", ["user=", "preserve-env", "non-interactive"], mixed=False)
    user = found.get("u") or found.get("user") or "root"
    if user not in process.machine.users:
        raise UsageError(f"unknown user {user}")
    caller, process.user = process.user, user
    kept = process.environ if {"E", "preserve-env"} & set(found) else {}
    process.environ = {**process.machine.environment(user), "SUDO_USER": caller, **kept}
    while argv and re.match(r"[A-Za-z_]\w*=", argv[0]):
        name, _, value = argv.pop(0).partition("=")
        process.environ[name] = value
    if "i" in found:
        process.cwd = process.machine.home(user)
        argv = ["bash", "-c", shlex.join(argv)] if argv else ["bash"]
    if not argv:
        return 0 if "k" in found else 1
    return await execute(process, argv)


@program("env")
async def env(process: Process, args: list[str]) -> int:
    """Print the environment, or run a command in a changed one."""
    found, argv = options(args, "iu:", mixed=False)
    if "i" in found:
        process.environ = {}
    process.environ.pop(found.get("u", ""), None)
    while argv and "=" in argv[0]:
        name, _, value = argv.pop(0).partition("=")
        process.environ[name] = value
    if argv:
        return await execute(process, argv)
    await process.out("".join(f"{name}={value}\n" for name, value in process.environ.items()))
    return 0


@program("printenv")
async def printenv(process: Process, args: list[str]) -> int:
    """Print variables of the environment."""
    if not args:
        return await env(process, [])
    for name in args:
        if name in process.environ:
            await process.out(f"{process.environ[name]}\n")
    return int(any(name not in process.environ for name in args))


@program("xargs")
async def xargs(process: Process, args: list[str]) -> int:
    """Run a command with arguments read from standard input; -n -I -0 -r are known."""
    found, argv = options(args, "n:I:0rP:t", mixed=False)
    text = (await process.read_all()).decode(errors="surrogateescape")
    if "0" in found:
        items = [item for item in text.split("\0") if item]
    else:
        items = text.splitlines() if "I" in found else shlex.split(text)
    argv = argv or ["echo"]
    if "I" in found:
        calls = [[part.replace(found["I"], item) for part in argv] for item in items]
    elif not items:
        calls = [] if "r" in found else [argv]
    else:
        size = int(number(found.get("n", str(len(items))), "number"))
        calls = [[*argv, *items[start : start + size]] for start in range(0, len(items), size)]
    statuses = [await launch(process, call).wait() for call in calls]
    return 123 if any(statuses) else 0


@program("time")
async def time(process: Process, args: list[str]) -> int:
    """Run a command and tell how long it took."""
    argv = [arg for arg in args if arg != "-p"]
    start = asyncio.get_running_loop().time()
    status = await launch(process, _command(argv)).wait()
    await process.err(f"real {asyncio.get_running_loop().time() - start:.2f}\nuser 0.00\nsys 0.00\n")
    return status


@program("sync", "udevadm", "modprobe", "sysctl", "ldconfig")
async def sync(_: Process, __: list[str]) -> int:
    """Succeed: there is nothing to flush, load or set."""
    return 0
