"""mkdir, rm, mv, cp, ln, touch, chmod, mktemp and others that change the tree of files."""

import errno
import os
import random
import re
import string

from flambed.lab.machine.files import Directory, File, FileSystem, Link, Node, Program, failure, parent_and_name
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, number, options, program


def _mode(text: str, old: int, default: int = 0o777) -> int:
    """Return the mode that chmod's `text` makes of `old`. Raises UsageError."""
    if re.fullmatch(r"[0-7]{1,4}", text):
        return int(text, 8)
    for clause in text.split(","):
        found = re.fullmatch(r"([ugoa]*)([-+=])([rwxX]*)", clause)
        if not found:
            raise UsageError(f"invalid mode: ‘{text}’")  # noqa: RUF001 - as coreutils quotes
        bits = sum({"r": 4, "w": 2, "x": 1, "X": 1}[letter] for letter in set(found[3]))
        who = found[1].replace("a", "ugo") or "ugo"
        mask = sum({"u": bits << 6, "g": bits << 3, "o": bits}[letter] for letter in set(who)) & default
        full = sum({"u": 0o700, "g": 0o070, "o": 0o007}[letter] for letter in set(who))
        old = old | mask if found[2] == "+" else old & ~mask if found[2] == "-" else old & ~full | mask
    return old


def _operands(found: list[str], least: int) -> list[str]:
    if len(found) < least:
        raise UsageError("missing operand" if not found else f"missing destination file operand after '{found[0]}'")
    return found


@program("mkdir")
async def mkdir(process: Process, args: list[str]) -> int:
    """Make directories; -p those above them too."""
    found, names = options(args, "pvm:", ["parents", "mode="])
    files, mode = process.machine.files, 0o777 & ~process.umask
    wanted = found.get("m", found.get("mode"))
    for name in _operands(names, 1):
        path = process.path(name)
        if "p" in found or "parents" in found:
            files.make_directories(path, mode=mode, owner=process.user)
        elif files.find(path, follow=False):
            raise UsageError(f"cannot create directory '{name}': File exists")
        else:
            files.make_directory(path, mode=mode, owner=process.user)
        if wanted:
            files.resolve(path).mode = _mode(wanted, 0o777)
    return 0


@program("rm")
async def rm(process: Process, args: list[str]) -> int:
    """Remove files, with -r directories."""
    found, names = options(args, "rRfvdi", ["recursive", "force"])
    recursive = bool({"r", "R", "recursive"} & set(found))
    force = bool({"f", "force"} & set(found))
    status = 0
    for name in names if force else _operands(names, 1):
        path = process.path(name)
        node = process.machine.files.find(path, follow=False)
        if node is None:
            if not force:
                await process.err(f"rm: cannot remove '{name}': No such file or directory\n")
                status = 1
        elif isinstance(node, Directory) and not recursive:
            await process.err(f"rm: cannot remove '{name}': Is a directory\n")
            status = 1
        else:
            process.machine.files.remove(path)
    return status


@program("rmdir")
async def rmdir(process: Process, args: list[str]) -> int:
    """Remove empty directories."""
    for name in args:
        path = process.path(name)
        if process.machine.files.directory(path).names():
            raise failure(errno.ENOTEMPTY, name)
        process.machine.files.remove(path)
    return 0


def _inside(process: Process, target: str, source: str) -> str:
    """Return where `source` goes: into `target` if that is a directory, else `target` itself."""
    path = process.path(target)
    if isinstance(process.machine.files.find(path), Directory):
        return f"{path.rstrip('/')}/{parent_and_name(process.path(source))[1]}"
    return path


@program("mv")
async def mv(process: Process, args: list[str]) -> int:
    """Rename files, in one step."""
    found, names = options(args, "fnvT")
    *sources, target = _operands(names, 2)
    for source in sources:
        to = process.path(target) if "T" in found else _inside(process, target, source)
        if not process.machine.files.find(process.path(source), follow=False):
            raise UsageError(f"cannot stat '{source}': No such file or directory")
        if not ("n" in found and process.machine.files.find(to)):
            process.machine.files.rename(process.path(source), to)
    return 0


@program("cp")
async def cp(process: Process, args: list[str]) -> int:
    """Copy files, with -r or -a directories."""
    found, names = options(args, "rRafpvT")
    *sources, target = _operands(names, 2)
    for source in sources:
        node = process.machine.files.resolve(process.path(source))
        if isinstance(node, Directory) and not {"r", "R", "a"} & set(found):
            raise UsageError(f"-r not specified; omitting directory '{source}'")
        to = process.path(target) if "T" in found else _inside(process, target, source)
        copy = _copied(node, process)
        old = process.machine.files.find(to)
        if isinstance(old, File) and isinstance(copy, File):
            old.data[:] = copy.data
        else:
            process.machine.files.link(to, copy)
    return 0


def _copied(node: Node, process: Process) -> Node:
    if isinstance(node, Directory):
        entries = {name: _copied(inner, process) for name in node.names() if (inner := node.lookup(name))}
        return Directory(mode=node.mode, owner=process.user, entries=entries)
    if isinstance(node, Program):
        return Program(name=node.name, owner=process.user)
    if isinstance(node, Link):
        return Link(target=node.target)
    data = bytearray(node.data) if isinstance(node, File) else bytearray()
    return File(mode=node.mode & ~process.umask, owner=process.user, data=data)


@program("ln")
async def ln(process: Process, args: list[str]) -> int:
    """Link files, with -s symbolically."""
    found, names = options(args, "sfnvT")
    *sources, target = _operands(names, 2)
    for source in sources:
        to = process.path(target) if "n" in found else _inside(process, target, source)
        if process.machine.files.find(to, follow=False) and "f" not in found:
            raise UsageError(f"failed to create link '{target}': File exists")
        node = Link(target=source) if "s" in found else process.machine.files.resolve(process.path(source))
        process.machine.files.link(to, node)
    return 0


@program("touch")
async def touch(process: Process, args: list[str]) -> int:
    """Make files that are missing and set the time of those that are there."""
    found, names = options(args, "acmd:t:r:")
    for name in names:
        node = process.machine.files.find(process.path(name))
        if node is not None:
            node.touch()
        elif "c" not in found:
            process.open(name, "a").release()
    return 0


@program("chmod")
async def chmod(process: Process, args: list[str]) -> int:
    """Set modes, by number or letters."""
    recursive = {"-R", "--recursive"} & set(args)
    operands = [arg for arg in args if arg not in recursive and arg not in {"-v", "-f", "--"}]
    mode, *names = _operands(operands, 2)
    for name in names:
        path = process.path(name)
        nodes = [node for _, node in process.machine.files.walk(path)] if recursive else []
        for node in nodes or [process.machine.files.resolve(path)]:
            node.mode = _mode(mode, node.mode)
    return 0


@program("chown", "chgrp")
async def chown(process: Process, args: list[str]) -> int:
    """Set owners; groups are not kept."""
    found, names = options(args, "RvfhH")
    owner, *paths = _operands(names, 2)
    for name in paths:
        path = process.path(name)
        for node in (
            [n for _, n in process.machine.files.walk(path)] if "R" in found else [process.machine.files.resolve(path)]
        ):
            node.owner = re.split("[:.]", owner)[0] or node.owner
    return 0


@program("mktemp")
async def mktemp(process: Process, args: list[str]) -> int:
    """Make a file, or with -d a directory, of a new name, and print it."""
    found, names = options(args, "dqup:t", ["tmpdir="])
    folder = found.get("p") or found.get("tmpdir") or process.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the host's own
    template = names[0] if names else "tmp.XXXXXXXXXX"
    if not names or "p" in found or "t" in found or "tmpdir" in found:
        template = f"{folder}/{template}"
    if not template.endswith("XXX"):
        raise UsageError(f"too few X's in template '{template}'")
    path = _fresh(process.machine.files, template, process.machine.random)
    if "u" not in found:
        absolute = process.path(path)
        if "d" in found:
            process.machine.files.make_directory(absolute, mode=0o700, owner=process.user)
        else:
            process.machine.files.link(absolute, File(mode=0o600, owner=process.user))
    await process.out(f"{path}\n")
    return 0


def _fresh(files: FileSystem, template: str, source: random.Random) -> str:
    stem = template.rstrip("X")
    while True:
        path = stem + "".join(source.choices(string.ascii_letters + string.digits, k=len(template) - len(stem)))
        if not files.find(path):
            return path


@program("truncate")
async def truncate(process: Process, args: list[str]) -> int:
    """Cut or fill files to -s bytes."""
    found, names = options(args, "cs:")
    size = int(number(found.get("s", "0"), "size"))
    for name in names:
        process.open(name, "a").release()
        node = process.machine.files.resolve(process.path(name))
        if not isinstance(node, File):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        node.data[:] = node.data[:size].ljust(size, b"\0")
    return 0


@program("install")
async def install(process: Process, args: list[str]) -> int:
    """Copy a file with a mode (-m), or make directories (-d)."""
    found, names = options(args, "dm:o:g:D")
    mode = _mode(found.get("m", "755"), 0)
    if "d" in found:
        for name in names:
            process.machine.files.make_directories(process.path(name), mode=mode, owner=found.get("o", process.user))
        return 0
    source, target = _operands(names, 2)[:2]
    data = await process.contents([source])
    process.machine.files.write(_inside(process, target, source), data, mode=mode, owner=found.get("o", process.user))
    return 0
