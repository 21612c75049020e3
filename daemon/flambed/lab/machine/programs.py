"""Finding and running programs on a pretend host.

A program is a coroutine function of a process and its arguments that returns the exit status. `commands/` holds
them; `@program` puts one on every host's /usr/bin.
"""

import getopt
from collections.abc import Awaitable, Callable, Sequence

from flambed.lab.machine.files import File, Link, Program
from flambed.lab.machine.process import Process

Main = Callable[[Process, list[str]], Awaitable[int]]

PROGRAMS: dict[str, Main] = {}

NOT_FOUND = 127
NOT_EXECUTABLE = 126


class UsageError(Exception):
    """A program was called in a way that it does not understand; printed behind its name, exit status `code`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class CannotRunError(Exception):
    """There is no such program (`code` 127), or it is not executable (126)."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(name)
        self.name = name
        self.code = code
        self.reason = "not found" if code == NOT_FOUND else "Permission denied"


def program(*names: str) -> Callable[[Main], Main]:
    """Register a program under one or more names."""

    def register(main: Main) -> Main:
        for name in names:
            PROGRAMS[name] = main
        return main

    return register


def options(
    args: Sequence[str], short: str, long: Sequence[str] = (), *, mixed: bool = True
) -> tuple[dict[str, str], list[str]]:
    """Split arguments into options, as getopt does, and operands; with `mixed` options may follow operands.

    An option that is given twice keeps its last value. Raises getopt.GetoptError, which `execute` prints.
    """
    parse = getopt.gnu_getopt if mixed else getopt.getopt
    found, operands = parse(list(args), short, list(long))
    return {name.lstrip("-"): value for name, value in found}, operands


def number(text: str, what: str) -> float:
    """Return a number out of an argument. Raises UsageError."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"invalid {what} ‘{text}’") from None  # noqa: RUF001 - as coreutils quotes


def locate(process: Process, name: str) -> tuple[str, File]:
    """Return the path and the file that the command `name` stands for in the process's PATH.

    Raises CannotRunError.
    """
    paths = [name] if "/" in name else [f"{folder}/{name}" for folder in process.environ.get("PATH", "").split(":")]
    code = NOT_FOUND
    for path in paths:
        node = process.machine.files.find(process.path(path))
        if isinstance(node, File) and node.mode & 0o111:
            return path, node
        if node is not None and not isinstance(node, Link):
            code = NOT_EXECUTABLE
    raise CannotRunError(name, code)


async def execute(process: Process, argv: list[str]) -> int:
    """Become the program argv[0], as execvp(3) does, and return its exit status.

    Raises CannotRunError while the process is still what it was.
    """
    path, file = locate(process, argv[0])
    if not isinstance(file, Program):
        return await execute(process, [*_interpreter(bytes(file.data)), path, *argv[1:]])
    process.argv = argv
    text = " ".join(argv)
    process.records.append(process.machine.record(process, "command", text))
    code = process.machine.command_fault(text)
    if code is not None:
        return await refuse(process, text, code)
    return await run(process, PROGRAMS[file.name], argv)


async def run(process: Process, main: Main, argv: list[str]) -> int:
    """Run a program in the process as it is, printing its expected errors."""
    name = argv[0].rpartition("/")[2]
    try:
        return await main(process, argv[1:])
    except UsageError as error:
        await process.err(f"{name}: {error}\n")
        return error.code
    except getopt.GetoptError as error:
        await process.err(f"{name}: {error}\n")
        return 2
    except CannotRunError as error:
        await process.err(f"{name}: failed to execute {error.name}: {error.reason}\n")
        return error.code
    except BrokenPipeError:
        raise
    except OSError as error:
        await process.err(f"{name}: {error.filename}: {error.strerror}\n")
        return 1


async def refuse(process: Process, text: str, code: int) -> int:
    """Fail a command in the lab's name."""
    await process.err(f"lab: told to fail: {text}\n")
    return code


def _interpreter(script: bytes) -> list[str]:
    """Return the words of a script's #! line; a script without one is run by sh."""
    first = script.split(b"\n", 1)[0].decode(errors="replace")
    words = first[2:].split() if first.startswith("#!") else ["/bin/sh"]
    return words[1:] if words[0].endswith("/env") and len(words) > 1 else words


def launch(process: Process, argv: list[str]) -> Process:
    """Start the program argv[0] in a child of `process`, which complains in its parent's name if it cannot."""
    parent = process.argv

    async def become(_: Process, args: list[str]) -> int:
        return await execute(child, args)

    async def main(_: Process) -> int:
        return await run(child, become, [parent[0], *argv])

    child = process.fork(argv)
    return child.start(main)
