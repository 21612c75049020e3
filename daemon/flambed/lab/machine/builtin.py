"""The shell's own commands: those that change the shell they run in, and those it runs itself for speed."""

import asyncio
import posixpath
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

from flambed.lab.machine.commands.printing import echo, printf
from flambed.lab.machine.commands.testing import false, true
from flambed.lab.machine.commands.testing import test as evaluate_test
from flambed.lab.machine.files import Directory
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import CannotRunError, Main, UsageError, execute, locate
from flambed.lab.machine.shell import Break, Continue, ExitShell, Return, Shell

Builtin = Callable[[Shell, list[str]], Awaitable[int]]

BUILTINS: dict[str, Builtin] = {}
KEYWORDS = frozenset({"if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac"})


def builtin(*names: str) -> Callable[[Builtin], Builtin]:
    """Register a builtin under one or more names."""

    def register(function: Builtin) -> Builtin:
        for name in names:
            BUILTINS[name] = function
        return function

    return register


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"Illegal number: {text}", 2) from None


@builtin("exit")
async def exit_(shell: Shell, args: list[str]) -> int:
    """End the shell."""
    raise ExitShell(_integer(args[0]) & 0xFF if args else shell.status)


@builtin("return")
async def return_(shell: Shell, args: list[str]) -> int:
    """End the function."""
    raise Return(_integer(args[0]) & 0xFF if args else shell.status)


@builtin("break")
async def break_(shell: Shell, args: list[str]) -> int:
    """End loops."""
    if not shell.loops:
        return 0
    raise Break(min(_integer(args[0]) if args else 1, shell.loops))


@builtin("continue")
async def continue_(shell: Shell, args: list[str]) -> int:
    """Go on with a loop's next round."""
    if not shell.loops:
        return 0
    raise Continue(min(_integer(args[0]) if args else 1, shell.loops))


@builtin("cd")
async def cd(shell: Shell, args: list[str]) -> int:
    """Change the working directory."""
    operands = [arg for arg in args if arg not in {"-P", "-L", "--"}]
    target = operands[0] if operands else shell.get("HOME") or "/"
    if target == "-":
        target = shell.get("OLDPWD") or "."
        await shell.process.out(f"{target}\n")
    path = shell.process.path(target)
    if not isinstance(shell.process.machine.files.find(path), Directory):
        raise UsageError(f"can't cd to {target}", 2)
    shell.assign("OLDPWD", shell.process.cwd)
    shell.process.cwd = path
    shell.assign("PWD", path)
    return 0


@builtin("export")
async def export(shell: Shell, args: list[str]) -> int:
    """Mark variables for export."""
    for arg in args:
        if arg.startswith("-"):
            continue
        name, equals, value = arg.partition("=")
        if equals:
            shell.assign(name, value)
        shell.exported.add(name)
    if not args or args == ["-p"]:
        for name, value in shell.environment().items():
            await shell.process.out(f"export {name}='{value}'\n")
    return 0


@builtin("readonly")
async def readonly(shell: Shell, args: list[str]) -> int:
    """Forbid further assignments to variables."""
    for arg in args:
        name, equals, value = arg.partition("=")
        if equals:
            shell.assign(name, value)
        shell.readonly.add(name)
    return 0


@builtin("local", "declare", "typeset")
async def local(shell: Shell, args: list[str]) -> int:
    """Make variables local to the function."""
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("-"):
            continue
        if shell.locals:
            shell.hide(name)
        if equals:
            shell.assign(name, value)
        if "-x" in args:
            shell.exported.add(name)
    return 0


@builtin("unset")
async def unset(shell: Shell, args: list[str]) -> int:
    """Unset variables, or functions with -f."""
    for name in args:
        if "-f" in args:
            shell.functions.pop(name, None)
        elif not name.startswith("-"):
            shell.unset(name)
    return 0


@builtin("set")
async def set_(shell: Shell, args: list[str]) -> int:
    """Set options and positional parameters."""
    position = 0
    while position < len(args) and args[position][:1] in {"-", "+"} and len(args[position]) > 1:
        arg = args[position]
        position += 1
        if arg == "--":
            shell.positional = args[position:]
            return 0
        change = shell.flags.add if arg[0] == "-" else shell.flags.discard
        for letter in arg[1:]:
            if letter == "o":
                name = args[position] if position < len(args) else ""
                position += 1
                change({"errexit": "e", "nounset": "u", "noglob": "f", "allexport": "a", "xtrace": "x"}.get(name, name))
            else:
                change(letter)
    if position < len(args):
        shell.positional = args[position:]
    return 0


@builtin("shift")
async def shift(shell: Shell, args: list[str]) -> int:
    """Drop positional parameters from the front."""
    count = _integer(args[0]) if args else 1
    if count > len(shell.positional):
        raise UsageError("can't shift that many", 2)
    del shell.positional[:count]
    return 0


@builtin("umask")
async def umask(shell: Shell, args: list[str]) -> int:
    """Show or set the bits that new files lack."""
    if not args:
        await shell.process.out(f"{shell.process.umask:04o}\n")
        return 0
    try:
        shell.process.umask = int(args[0], 8) & 0o777
    except ValueError:
        raise UsageError(f"Illegal mode: {args[0]}", 2) from None
    return 0


@builtin("eval")
async def eval_(shell: Shell, args: list[str]) -> int:
    """Run the arguments as a script."""
    return await shell.evaluate(" ".join(args))


@builtin(".", "source")
async def source(shell: Shell, args: list[str]) -> int:
    """Run a file in this shell."""
    if not args:
        raise UsageError("filename argument required", 2)
    text = shell.process.machine.files.read(shell.process.path(args[0]))
    try:
        return await shell.evaluate(text.decode(errors="surrogateescape"))
    except Return as end:
        return end.status


@builtin("read")
async def read(shell: Shell, args: list[str]) -> int:
    """Read a line into variables; the last takes the rest."""
    raw = False
    while args and args[0].startswith("-"):
        raw = raw or args[0] == "-r"
        args = args[2:] if args[0] == "-p" else args[1:]
    line = bytearray()
    ended = False
    stream = shell.process.stream(0)
    while byte := await stream.read(1):
        if byte == b"\n":
            if raw or not line.endswith(b"\\"):
                ended = True
                break
            line.pop()
            continue
        line += byte
    text = line.decode(errors="surrogateescape")
    separators = shell.get("IFS")
    names = args or ["REPLY"]
    blanks = None if separators is None else separators
    values = _split(text, blanks, len(names) - 1)
    for index, name in enumerate(names):
        value = values[index] if index < len(values) else ""
        shell.assign(name, value if raw else value.replace("\\", ""))
    return 0 if ended else 1


def _split(text: str, separators: str | None, times: int) -> list[str]:
    if separators == "":
        return [text]
    if separators is None or not separators.strip():
        return text.strip(separators).split(separators, times)
    for other in separators[1:]:
        text = text.replace(other, separators[0])
    return text.strip(" \t\n" if " " in separators else "").split(separators[0], times)


@builtin("wait")
async def wait(shell: Shell, args: list[str]) -> int:
    """Wait for background jobs; a trapped signal ends the wait."""
    if not args:
        for job in list(shell.jobs.values()):
            status = await _wait_for(shell, job)
            if shell.pending:
                return status
        shell.jobs.clear()
        return 0
    status = 127
    for arg in args:
        job_or_none = shell.jobs.get(_integer(arg.removeprefix("%")))
        status = await _wait_for(shell, job_or_none) if job_or_none else 127
    return status


async def _wait_for(shell: Shell, job: Process) -> int:
    finished = asyncio.ensure_future(job.wait())
    interrupted = asyncio.ensure_future(shell.interrupted.wait())
    try:
        await asyncio.wait({finished, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if finished.done():
            return finished.result()
        return 128 + signal.Signals[f"SIG{shell.pending[-1]}"]
    finally:
        finished.cancel()
        interrupted.cancel()


@builtin("trap")
async def trap(shell: Shell, args: list[str]) -> int:
    """Set what happens at a signal, or at the EXIT of the shell."""
    args = [arg for arg in args if arg != "--"]
    if not args:
        for name, action in shell.traps.items():
            await shell.process.out(f"trap -- '{action}' {name}\n")
        return 0
    action = "-" if len(args) == 1 else args[0]
    for given in args if len(args) == 1 else args[1:]:
        name = "EXIT" if given == "0" else signal.Signals(int(given)).name if given.isdigit() else given.upper()
        _set_trap(shell, name.removeprefix("SIG"), action)
    return 0


def _set_trap(shell: Shell, name: str, action: str) -> None:
    if name != "EXIT":
        try:
            number = signal.Signals[f"SIG{name}"]
        except KeyError:
            raise UsageError(f"{name}: bad trap") from None
        shell.process.handlers.pop(number, None)
        shell.process.ignored.discard(number)
        if action == "":
            shell.process.ignored.add(number)
        elif action != "-":

            def note() -> None:
                shell.pending.append(name)
                shell.interrupted.wake()

            shell.process.handlers[number] = note
    if action == "-":
        shell.traps.pop(name, None)
    else:
        shell.traps[name] = action


@builtin("command")
async def command(shell: Shell, args: list[str]) -> int:
    """Run a command though a function has its name, or tell what a name stands for (-v)."""
    if args[:1] == ["-v"] or args[:1] == ["-V"]:
        found = [await _describe(shell, name) for name in args[1:]]
        return 0 if found and all(found) else 127
    if not args:
        return 0
    if args[0] in BUILTINS:
        return await BUILTINS[args[0]](shell, args[1:])

    async def main(process: Process) -> int:
        process.environ = shell.environment()
        try:
            return await execute(process, args)
        except CannotRunError as error:
            await process.err(f"{shell.name}: {shell.line}: {error.name}: {error.reason}\n")
            return error.code

    return await shell.process.fork().start(main).wait()


@builtin("type")
async def type_(shell: Shell, args: list[str]) -> int:
    """Tell what names stand for."""
    found = [await _describe(shell, name) for name in args]
    return 0 if all(found) else 127


async def _describe(shell: Shell, name: str) -> bool:
    if name in BUILTINS or name in shell.functions or name in KEYWORDS:
        await shell.process.out(f"{name}\n")
        return True
    with suppress(CannotRunError):
        await shell.process.out(f"{locate(shell.process, name)[0]}\n")
        return True
    return False


@builtin("pwd")
async def pwd(shell: Shell, _: list[str]) -> int:
    """Print the working directory."""
    await shell.process.out(f"{posixpath.normpath(shell.process.cwd)}\n")
    return 0


@builtin("ulimit", "alias", "unalias", "hash", "jobs", "times", "shopt", "bg", "disown")
async def ignored(_: Shell, __: list[str]) -> int:
    """Do nothing: the lab has no limits, aliases or job control."""
    return 0


@builtin(":")
async def colon(_: Shell, __: list[str]) -> int:
    """Do nothing, successfully."""
    return 0


def _lent(name: str, main: Main, *, recorded: bool) -> None:
    """Let the shell run a program in its own process, without a fork."""

    async def run(shell: Shell, args: list[str]) -> int:
        process = shell.process
        if not recorded:
            return await main(process, args)
        record = process.machine.record(process, "command", " ".join([name, *args]))
        try:
            status = await main(process, args)
        except BrokenPipeError:
            record.finish(128 + signal.SIGPIPE)
            raise
        record.finish(status)
        return status

    BUILTINS[name] = run


for _name, _main in (("echo", echo), ("printf", printf)):
    _lent(_name, _main, recorded=True)
for _name, _main in (("true", true), ("false", false)):
    _lent(_name, _main, recorded=False)
for _name in ("test", "[", "[["):
    _lent(_name, evaluate_test(_name), recorded=False)

Shell.builtins = BUILTINS
