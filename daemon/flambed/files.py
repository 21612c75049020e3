"""Files of the state folder: private, and whole or not there at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def part(name: str) -> str:
    """`name` again, if it may be one part of a path below the state folder.

    Raises:
        ValueError: it is empty, too long, or could lead out of its folder.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a file in the state folder: letters, digits, '_', '.' and '-' can"
        )
    return name


def make_private(folder: Path) -> Path:
    """Make `folder` and what lacks above it, for the service's user alone (0700), and return it."""
    for missing in [parent for parent in reversed(folder.parents) if not parent.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    return folder


def write_atomically(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace `path` by `data`, mode 0600: whoever reads it sees the old bytes or the new ones.

    Args:
        durable: also survive a power cut right after the return; costs two fsyncs.

    Raises:
        OSError: it could not be written; the old file stands, and no temporary one is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove `folder` and all in it; nothing happens where there is none."""
    if folder.exists():
        shutil.rmtree(folder)
