"""systemd's journal, in its own protocol: a line of the log with fields that journalctl can be asked for.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TextIO

SOCKET: Final = Path("/run/systemd/journal/socket")

FIELDS: Final = ("event", "cluster", "instance", "action", "cause", "fact")
"""What of a line is a field of its own, FLAMBED_EVENT and so on, where it is not null."""

_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # of syslog(3)


def takes(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a stream leads to the journal, as `$JOURNAL_STREAM` says: its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is none of the system's
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Sender:
    """Writes entries to the journal."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, text: str, line: Mapping[str, Any]) -> None:
        """Write one line.

        Args:
            text: the line as it is written elsewhere, too.
            line: its fields.

        Raises:
            OSError: the journal does not take it; it may be too long for a datagram.
        """
        entry = {"MESSAGE": text, "PRIORITY": _PRIORITIES[line["level"]], "SYSLOG_IDENTIFIER": "flambed"}
        entry |= {f"FLAMBED_{name.upper()}": line[name] for name in FIELDS if line[name] is not None}
        self._socket.sendto(b"".join(_field(name, str(value)) for name, value in entry.items()), self._path)


def _field(name: str, value: str) -> bytes:
    """Return a field in the form that takes any value: its length stands before it."""
    data = value.encode("utf-8", "backslashreplace")
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
