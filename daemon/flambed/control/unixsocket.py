"""A Unix socket in the file system: opening it without stealing it, and knowing who is at its other end."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from flambed.access import Caller
from flambed.errors import FlambedError

MODE: Final = 0o666  # everybody may knock: who may do what is decided by the caller's credentials
_UCRED: Final = struct.Struct("iII")  # struct ucred of socket(7): pid, uid, gid


class SocketError(FlambedError):
    """The socket cannot be opened; the message says which, why, and what to do."""


def listen(path: Path) -> socket.socket:
    """Return a socket that is bound to a path and ready to listen, with mode 0666.

    A socket that nobody listens on any more is replaced; missing folders are made.

    Raises:
        SocketError: another process listens there, something else has that name, or the path cannot be used.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _make_folder(path.parent)
        _remove_stale(path)
        server.bind(str(path))
        # Nobody can connect yet: that needs listen(), which comes with the server.
        path.chmod(MODE)
    except OSError as error:
        server.close()
        raise SocketError(
            f"cannot open the control socket {path}: {error.strerror or error}; give another one with `socket` in the settings"
        ) from error
    except SocketError:
        server.close()
        raise
    server.setblocking(False)
    return server


def _make_folder(path: Path) -> None:
    """Make a folder, and those above it, that everybody may pass through, whatever the umask is."""
    if path.exists():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


def inherited(descriptor: int) -> socket.socket:
    """Return the socket that a service manager opened and passed on.

    Raises:
        SocketError: the descriptor is no Unix stream socket.
    """
    try:
        server = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SocketError(
            f"file descriptor {descriptor} is no socket: {error.strerror}; the socket unit must pass a ListenStream"
        ) from error
    if server.family != socket.AF_UNIX or server.type != socket.SOCK_STREAM:
        server.detach()  # it is not ours to close
        raise SocketError(
            f"file descriptor {descriptor} is no Unix stream socket: the socket unit needs a ListenStream with a path"
        )
    server.setblocking(False)
    return server


def inode(path: Path) -> int:
    """Return what tells a socket in the file system from another one of the same name."""
    return path.lstat().st_ino


def remove(path: Path, ours: int) -> None:
    """Remove a socket from the file system, unless another one took its name meanwhile."""
    try:
        if inode(path) == ours:
            path.unlink()
    except FileNotFoundError:
        return


def caller_of(connection: socket.socket) -> Caller:
    """Return who opened the other end of a connection.

    It looks users and groups up in the user database, which can take a while where that is in a network: call it in a
    thread.
    """
    pid, uid, gid = credentials(connection)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a uid without a user: it has the group that the process runs in, and no others
        return Caller(uid=uid, gid=gid, pid=pid, name=str(uid), groups=_names({gid}))
    return Caller(uid=uid, gid=gid, pid=pid, name=name, groups=_names({gid, *os.getgrouplist(name, gid)}))


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process that opened the other end, as the kernel recorded them then."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def _names(gids: set[int]) -> frozenset[str]:
    names = set()
    for gid in gids:
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:  # a number without a name can be no admin group
            continue
    return frozenset(names)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"cannot open the control socket {path}: something else has that name; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # left behind by a process that is gone
            return
    raise SocketError(f"another service listens on {path}: stop it, or give this one another `socket` in the settings")
