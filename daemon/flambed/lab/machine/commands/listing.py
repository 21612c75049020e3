"""ls, stat, find and others that tell about files."""

import errno
import posixpath
import re
import time
from collections.abc import Iterator

from flambed.lab.machine.expansion import compile_pattern
from flambed.lab.machine.files import Directory, File, Link, Node, failure
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import CannotRunError, UsageError, locate, number, options, program


@program("ls")
async def ls(process: Process, args: list[str]) -> int:
    """List directories; -a, -A, -d and -l (without groups and links) are known."""
    found, names = options(args, "aAldh1tr")
    status = 0
    for name in names or ["."]:
        path = process.path(name)
        node = process.machine.files.find(path, follow="l" not in found)
        if node is None:
            await process.err(f"ls: cannot access '{name}': No such file or directory\n")
            status = 2
            continue
        if isinstance(node, Directory) and "d" not in found:
            entries = [(inner, node.lookup(inner)) for inner in node.names()]
            if "a" in found:
                entries = [(".", node), ("..", node), *entries]
            shown = [(inner, entry) for inner, entry in entries if inner[0] != "." or {"a", "A"} & set(found)]
        else:
            shown = [(name, node)]
        if len(names) > 1 and isinstance(node, Directory):
            await process.out(f"{name}:\n")
        for inner, entry in shown:
            await process.out(f"{_long(entry, inner) if 'l' in found and entry else inner}\n")
    return status


def _permissions(mode: int) -> str:
    letters = "".join("rwx"[index % 3] if mode & (0o400 >> index) else "-" for index in range(9))
    return letters[:8] + ("t" if letters[8] == "x" else "T") if mode & 0o1000 else letters


def _long(node: Node, name: str) -> str:
    when = time.strftime("%b %e %H:%M", time.gmtime(node.modified))
    target = f" -> {node.target}" if isinstance(node, Link) else ""
    return f"{node.kind}{_permissions(node.mode)} 1 {node.owner} {node.owner} {node.size()} {when} {name}{target}"


@program("stat")
async def stat(process: Process, args: list[str]) -> int:
    """Tell about files by the format of -c: %s %a %A %n %N %F %U %G %u %Y %y %X %Z %i %h %b %t are known."""
    found, names = options(args, "c:Lt", ["format=", "printf="])
    layout = found.get("c") or found.get("format") or "%n %s %a %U %Y"
    for name in names:
        node = process.machine.files.find(process.path(name), follow="L" in found)
        if node is None:
            raise UsageError(f"cannot statx '{name}': No such file or directory")
        values = {
            "s": node.size(),
            "a": f"{node.mode:o}",
            "A": node.kind + _permissions(node.mode),
            "n": name,
            "N": f"'{name}'",
            "F": {"d": "directory", "l": "symbolic link", "c": "character special file"}.get(
                node.kind, "regular file" if node.size() else "regular empty file"
            ),
            "U": node.owner,
            "G": node.owner,
            "u": process.machine.users.get(node.owner, 0),
            "g": process.machine.users.get(node.owner, 0),
            "i": node.inode,
            "h": 1,
            "y": time.strftime("%Y-%m-%d %H:%M:%S.000000000 +0000", time.gmtime(node.modified)),
            **dict.fromkeys("XYZW", int(node.modified)),
        }
        await process.out(re.sub(r"%([a-zA-Z])", lambda m, v=values: str(v.get(m[1], "?")), layout) + "\n")  # type: ignore[misc]
    return 0


@program("basename")
async def basename(process: Process, args: list[str]) -> int:
    """Print the last name of a path, without a suffix."""
    if not args:
        raise UsageError("missing operand")
    name = posixpath.basename(args[0].rstrip("/")) or "/"
    if len(args) > 1 and name != args[1]:
        name = name.removesuffix(args[1])
    await process.out(f"{name}\n")
    return 0


@program("dirname")
async def dirname(process: Process, args: list[str]) -> int:
    """Print a path without its last name."""
    if not args:
        raise UsageError("missing operand")
    stripped = args[0].rstrip("/") or "/"
    await process.out(f"{posixpath.dirname(stripped) or '.'}\n")
    return 0


@program("readlink", "realpath")
async def readlink(process: Process, args: list[str]) -> int:
    """Print where a link leads, or with -f (and as realpath) an absolute path."""
    found, names = options(args, "fenms")
    for name in names:
        node = process.machine.files.find(process.path(name), follow=False)
        if isinstance(node, Link):
            await process.out(f"{node.target}\n")
        elif "f" in found or process.argv[0].endswith("realpath"):
            await process.out(f"{process.path(name)}\n")
        else:
            return 1
    return 0


@program("find")
async def find(process: Process, args: list[str]) -> int:
    """Walk directories; -name, -type, -maxdepth, -mindepth, -mmin, -newer, -print and -delete are known."""
    count = next((index for index, arg in enumerate(args) if arg.startswith(("-", "!"))), len(args))
    starts, tests = args[:count] or ["."], args[count:]
    conditions, delete = _find_conditions(tests)
    for start in starts:
        path = process.path(start)
        if not process.machine.files.find(path, follow=False):
            raise failure(errno.ENOENT, start)
        for where, node in list(process.machine.files.walk(path)):
            below = where[len(path.rstrip("/")) :].strip("/")
            depth = len(below.split("/")) if below else 0
            if not all(_matches(process, node, where, depth, condition) for condition in conditions):
                continue
            if delete:
                process.machine.files.remove(where)
            else:
                await process.out(f"{start.rstrip('/') or '/'}/{below}\n" if below else f"{start}\n")
    return 0


def _find_conditions(tests: list[str]) -> tuple[list[tuple[str, str]], bool]:
    conditions: list[tuple[str, str]] = []
    rest: Iterator[str] = iter(tests)
    delete = False
    for test in rest:
        if test == "-delete":
            delete = True
        elif test != "-print":
            conditions.append((test, next(rest, "")))
    return conditions, delete


def _matches(process: Process, node: Node, path: str, depth: int, condition: tuple[str, str]) -> bool:
    match condition:
        case ("-name", pattern):
            return bool(compile_pattern([(pattern, False)]).fullmatch(posixpath.basename(path)))
        case ("-type", letter):
            return {"f": "-"}.get(letter, letter) == node.kind
        case ("-maxdepth", limit):
            return depth <= int(number(limit, "depth"))
        case ("-mindepth", limit):
            return depth >= int(number(limit, "depth"))
        case ("-mmin", limit):
            age = (time.time() - node.modified) / 60
            wanted = number(limit.lstrip("+-"), "argument")
            return (
                age > wanted if limit.startswith("+") else age < wanted if limit.startswith("-") else int(age) == wanted
            )
        case ("-newer", name):
            return node.modified > process.machine.files.resolve(process.path(name)).modified
        case _:
            raise UsageError(f"the lab's find does not know {condition[0]}")


@program("which")
async def which(process: Process, args: list[str]) -> int:
    """Print the paths of programs."""
    status = 0
    for name in args:
        try:
            await process.out(f"{locate(process, name)[0]}\n")
        except CannotRunError:
            status = 1
    return status


@program("du")
async def du(process: Process, args: list[str]) -> int:
    """Print how many KiB (with -b bytes) lie below each path, in one sum each."""
    found, names = options(args, "sbhk")
    for name in names or ["."]:
        total = sum(node.size() for _, node in process.machine.files.walk(process.path(name)) if isinstance(node, File))
        await process.out(f"{total if 'b' in found else -(-total // 1024)}\t{name}\n")
    return 0


@program("df")
async def df(process: Process, args: list[str]) -> int:  # noqa: ARG001 - every path is on the one disk
    """Print one disk with room."""
    await process.out(
        "Filesystem     1K-blocks    Used Available Use% Mounted on\n"
        "/dev/root        8065444 1803064   6245996  23% /\n"
    )
    return 0


@program("mount", "umount", "mkfs.ext4", "mkfs.xfs", "lsblk", "blkid")
async def disks(process: Process, args: list[str]) -> int:  # noqa: ARG001 - nothing to be done to pretend disks
    """Succeed: pretend disks are always ready."""
    return 0
