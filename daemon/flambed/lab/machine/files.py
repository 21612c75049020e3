"""The files of one pretend host: a tree in memory, with the errors of a real one.

Modes and owners are kept and shown, but nobody is refused for want of a permission.
"""

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import PurePosixPath

from flambed.lab.machine.streams import FileLock, Null, Signal, Stream

OTHER_DISKS = ("/run", "/dev", "/proc", "/sys", "/var/run")  # what is below is not on the root's file system
FILE_LIMIT = 64 << 20  # bytes in a file; the disk is full then, before the lab's memory is
MAX_LINKS = 40  # symbolic links followed in one path, as on Linux

_inodes = itertools.count(1000)


def failure(code: int, path: str) -> OSError:
    """Return the OSError of `code` about `path`, worded as the C library words it."""
    return OSError(code, os.strerror(code), path)


@dataclass(eq=False, kw_only=True)
class Node:
    """What a name in a directory stands for; `mode` holds the permission bits only."""

    mode: int
    owner: str = "root"
    modified: float = field(default_factory=time.time)
    inode: int = field(default_factory=lambda: next(_inodes))

    kind = "?"  # the letter that ls -l shows

    @cached_property
    def lock(self) -> FileLock:
        """The advisory lock; few files are ever locked, so it is made when first asked for."""
        return FileLock()

    @cached_property
    def changed(self) -> Signal:
        """Woken when contents are written."""
        return Signal()

    def touch(self) -> None:
        """Note that the contents have changed just now."""
        self.modified = time.time()
        if "changed" in self.__dict__:
            self.changed.wake()

    def size(self) -> int:
        """Return the size in bytes."""
        return 0


@dataclass(eq=False, kw_only=True)
class File(Node):
    """A regular file."""

    data: bytearray = field(default_factory=bytearray)
    mode: int = 0o644
    kind = "-"

    def size(self) -> int:
        """Return the size in bytes."""
        return len(self.data)


@dataclass(eq=False, kw_only=True)
class Program(File):
    """An executable that the lab itself provides, under the name it is known by."""

    name: str
    mode: int = 0o755


@dataclass(eq=False, kw_only=True)
class Virtual(Node):
    """A file whose contents are made up when it is read, as those of /proc are."""

    make: Callable[[], str]
    mode: int = 0o444
    kind = "-"


@dataclass(eq=False, kw_only=True)
class NullDevice(Node):
    """/dev/null."""

    mode: int = 0o666
    kind = "c"


@dataclass(eq=False, kw_only=True)
class Console(NullDevice):
    """/dev/console: what is written to it is shown."""

    show: Callable[[str], None]
    mode: int = 0o600


class ConsoleStream(Null):
    """An opened console."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    async def write(self, data: bytes) -> None:
        """Show it."""
        self._show(data.decode(errors="replace"))


@dataclass(eq=False, kw_only=True)
class Link(Node):
    """A symbolic link."""

    target: str
    mode: int = 0o777
    kind = "l"


@dataclass(eq=False, kw_only=True)
class Directory(Node):
    """Names and what they stand for."""

    entries: dict[str, Node] = field(default_factory=dict)
    mode: int = 0o755
    kind = "d"

    def lookup(self, name: str) -> Node | None:
        """Return what `name` stands for."""
        return self.entries.get(name)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self.entries)


@dataclass(eq=False, kw_only=True)
class VirtualDirectory(Directory):
    """A directory with further entries that come and go by themselves, as the processes in /proc do."""

    find: Callable[[str], Node | None]
    current: Callable[[], list[str]]

    def lookup(self, name: str) -> Node | None:
        """Return what `name` stands for."""
        return self.entries.get(name) or self.find(name)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted([*self.entries, *self.current()])


class FileStream(Stream):
    """An opened regular file, with the position that all descriptors of it share."""

    def __init__(self, node: File, *, append: bool, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises OSError where the disk takes no more."""
        super().__init__()
        self.node = node
        self._append = append
        self._check = check
        self._position = 0

    async def read(self, size: int) -> bytes:
        """Return what follows the position."""
        data = bytes(self.node.data[self._position : self._position + size])
        self._position += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Write at the position, or at the end of a file opened for appending."""
        self._check()
        node = self.node
        start = len(node.data) if self._append else self._position
        if start + len(data) > FILE_LIMIT:
            raise failure(errno.ENOSPC, "write error")
        if start > len(node.data):
            node.data += bytes(start - len(node.data))
        node.data[start : start + len(data)] = data
        node.touch()
        self._position = start + len(data)

    def _close(self) -> None:
        self.node.lock.drop(self)


def parent_and_name(path: str) -> tuple[str, str]:
    """Split `path` into its directory and its last name; ('/', '') for the root."""
    pure = PurePosixPath(path)
    return str(pure.parent), pure.name


class FileSystem:
    """A tree of nodes. Paths are absolute; errors are the OSErrors of a real system, naming the path."""

    def __init__(self) -> None:
        self.root = Directory()
        self.disk: int | None = None  # ENOSPC or EROFS: what the root's file system answers to who writes to it

    def check(self, path: str, *, growth: bool = True) -> None:
        """Raise the OSError of a disk that takes no more at `path`; without `growth` a full one takes it all the same."""
        if self.disk is None or (self.disk == errno.ENOSPC and not growth):
            return
        if not any(path == other or path.startswith(f"{other}/") for other in OTHER_DISKS):
            raise failure(self.disk, path)

    def resolve(self, path: str, *, follow: bool = True) -> Node:
        """Return the node at `path`; of a link at its end the link itself unless `follow`.

        Raises FileNotFoundError, NotADirectoryError, or OSError (ELOOP).
        """
        links = 0
        pending = _names(path)
        trail: list[Node] = [self.root]
        while pending:
            name = pending.pop(0)
            if name == "..":
                trail = trail[:-1] or [self.root]
                continue
            directory = trail[-1]
            if not isinstance(directory, Directory):
                raise failure(errno.ENOTDIR, path)
            node = directory.lookup(name)
            if node is None:
                raise failure(errno.ENOENT, path)
            if isinstance(node, Link) and (pending or follow):
                links += 1
                if links > MAX_LINKS:
                    raise failure(errno.ELOOP, path)
                pending = _names(node.target) + pending
                if node.target.startswith("/"):
                    trail = [self.root]
                continue
            trail.append(node)
        return trail[-1]

    def find(self, path: str, *, follow: bool = True) -> Node | None:
        """Return the node at `path`, or None where there is none."""
        try:
            return self.resolve(path, follow=follow)
        except OSError:
            return None

    def directory(self, path: str) -> Directory:
        """Return the directory at `path`.

        Raises NotADirectoryError besides what `resolve` raises.
        """
        node = self.resolve(path)
        if not isinstance(node, Directory):
            raise failure(errno.ENOTDIR, path)
        return node

    def open(self, path: str, mode: str, *, create: int = 0o644, owner: str = "root") -> Stream:
        """Open `path` with `mode` 'r', 'w' (empty it), 'a' (append) or '+' (read and write).

        A file that is missing is created with the mode `create`, except for 'r'. Raises OSError.
        """
        node = self.find(path)
        if mode != "r" and (node is None or isinstance(node, File)):
            self.check(path, growth=False)
        if node is None:
            if mode == "r":
                self.resolve(path)
            node = File(mode=create, owner=owner)
            self.link(self._target(path), node)
        return self._opened(node, path, mode)

    def read(self, path: str) -> bytes:
        """Return the contents of the file at `path`."""
        node = self.resolve(path)
        if isinstance(node, Directory):
            raise failure(errno.EISDIR, path)
        if isinstance(node, Virtual):
            return node.make().encode()
        return bytes(node.data) if isinstance(node, File) else b""

    def write(self, path: str, data: bytes, *, mode: int = 0o644, owner: str = "root") -> None:
        """Put `data` into the file at `path`, making it and the directories above it as needed."""
        self.check(path)
        self.make_directories(parent_and_name(path)[0], owner=owner)
        node = self.find(path)
        if isinstance(node, Directory):
            raise failure(errno.EISDIR, path)
        if not isinstance(node, File):
            node = File(owner=owner)
            self.link(path, node)
        node.data[:] = data
        node.mode = mode
        node.touch()

    def link(self, path: str, node: Node) -> None:
        """Let `path` stand for `node`, in place of what it stood for."""
        self.check(path, growth=isinstance(node, Directory))
        above, name = parent_and_name(path)
        try:
            directory = self.directory(above)
        except OSError as error:
            raise failure(error.errno or errno.ENOENT, path) from None
        directory.entries[name] = node
        directory.modified = time.time()

    def make_directory(self, path: str, *, mode: int = 0o755, owner: str = "root") -> None:
        """Make one directory. Raises FileExistsError."""
        if self.find(path, follow=False) is not None:
            raise failure(errno.EEXIST, path)
        self.link(path, Directory(mode=mode, owner=owner))

    def make_directories(self, path: str, *, mode: int = 0o755, owner: str = "root") -> None:
        """Make a directory and those above it, where they are missing. Raises NotADirectoryError."""
        if path == "/" or isinstance(self.find(path), Directory):
            return
        self.make_directories(parent_and_name(path)[0], mode=0o755, owner=owner)
        if self.find(path) is not None:
            raise failure(errno.ENOTDIR, path)
        self.make_directory(path, mode=mode, owner=owner)

    def remove(self, path: str) -> None:
        """Take away the name `path` and, of a directory, all below it."""
        self.resolve(path, follow=False)
        self.check(path, growth=False)
        above, name = parent_and_name(path)
        directory = self.directory(above)
        if directory.entries.pop(name, None) is None:
            raise failure(errno.EPERM, path)
        directory.modified = time.time()

    def rename(self, source: str, target: str) -> None:
        """Move `source` to `target` in one step, replacing a file there.

        Raises IsADirectoryError, NotADirectoryError, or OSError (ENOTEMPTY, EINVAL).
        """
        node = self.resolve(source, follow=False)
        there = self.find(target, follow=False)
        if there is node:
            return
        if isinstance(node, Directory):
            if target.startswith(source.rstrip("/") + "/"):
                raise failure(errno.EINVAL, target)
            if there is not None and not isinstance(there, Directory):
                raise failure(errno.ENOTDIR, target)
            if isinstance(there, Directory) and there.entries:
                raise failure(errno.ENOTEMPTY, target)
        elif isinstance(there, Directory):
            raise failure(errno.EISDIR, target)
        self.link(target, node)
        self.remove(source)

    def walk(self, path: str) -> Iterator[tuple[str, Node]]:
        """Yield what is at and below `path`, links not followed, parents before children."""
        node = self.resolve(path, follow=False)
        yield path, node
        if isinstance(node, Directory):
            for name in node.names():
                yield from self.walk(f"{path.rstrip('/')}/{name}")

    def _target(self, path: str) -> str:
        """Follow the links at the end of `path`, also to where nothing is yet."""
        for _ in range(MAX_LINKS):
            node = self.find(path, follow=False)
            if not isinstance(node, Link):
                return path
            path = os.path.normpath(os.path.join(parent_and_name(path)[0], node.target))  # noqa: PTH118 - no real path
        raise failure(errno.ELOOP, path)

    def _opened(self, node: Node, path: str, mode: str) -> Stream:
        if isinstance(node, Console):
            return ConsoleStream(node.show)
        if isinstance(node, NullDevice):
            return Null()
        if isinstance(node, Virtual):
            return FileStream(File(data=bytearray(node.make().encode())), append=False)
        if isinstance(node, Directory) and mode == "r":
            stand_in = File()
            stand_in.__dict__["lock"] = node.lock  # enough for flock DIRECTORY
            return FileStream(stand_in, append=False)
        if not isinstance(node, File):
            raise failure(errno.EISDIR, path)
        if mode == "w":
            node.data.clear()
            node.touch()
        return FileStream(node, append=mode == "a", check=partial(self.check, path))


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]
