"""What the service and systemd tell each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

The protocol is a datagram, two descriptors and a handful of environment variables, which systemd promises to keep: a module
of our own is shorter than the declaration of a library, and python-systemd needs a compiler and systemd's headers on the
bastion. Without systemd nothing of it does anything.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Final

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START: the first descriptor that systemd passes on."""

AWS_CREDENTIALS: Final = "flambed.aws"
"""The credential (LoadCredential=) that is an AWS credentials file."""

_SEND_SECONDS: Final = 1.0
"""For systemd to take a message: longer than it is ever busy, and short beside a watchdog's interval."""


class Manager:
    """The service manager that started this process; takes its variables out of the environment, so no child has them.

    Attributes:
        descriptors: the sockets that it opened for us.
        watchdog: in how many seconds it has to hear of us again; None: it does not care.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Read what it said. `environ` is changed."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = f"\0{self._address[1:]}"  # Linux's abstract namespace
        self.descriptors = tuple(_descriptors(environ))
        self.watchdog = _watchdog(environ)

    def ready(self, status: str) -> None:
        """Say that the service serves, or does so again after `reloading`."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the settings are being read again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """Say that the service is about to end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Say in one line what the service is about: `systemctl status` shows it."""
        self._send(f"STATUS={status}")

    async def feed(self, interval: float) -> None:
        """Feed the watchdog twice in each interval (seconds), until cancelled. A loop that is stuck feeds nobody."""
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval / 2)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SEND_SECONDS)
            try:
                sender.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), self._address)
            except OSError:  # it is gone, or too busy to listen: clusters go on all the same
                return


def _descriptors(environ: MutableMapping[str, str]) -> Iterable[int]:
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or pid != str(os.getpid()):  # they were meant for a process that started us
        return
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        yield descriptor


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Return in how many seconds the watchdog has to be fed; None without one."""
    microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    meant = pid in ("", str(os.getpid())) and microseconds.isdigit() and int(microseconds) > 0
    return int(microseconds) / 1e6 if meant else None


def use_credentials(environ: MutableMapping[str, str]) -> None:
    """Have the AWS SDK read the credentials file that systemd passed on, unless the environment names another one."""
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        file = Path(folder) / AWS_CREDENTIALS
        if os.access(file, os.R_OK):  # where nothing was passed on, the folder is closed to us
            environ.setdefault("AWS_SHARED_CREDENTIALS_FILE", str(file))


def earlier_end(file: Path) -> str | None:
    """Return how the service ended the last time, as ExecStopPost= wrote it down, if that was by itself; tell it once.

    Returns:
        systemd's $SERVICE_RESULT, such as "watchdog" or "core-dump"; None if it was stopped in order, or nothing is known.
    """
    try:
        result = file.read_text(encoding="ascii", errors="replace").strip()
        file.unlink()
    except OSError:  # there is none, or it is told twice
        return None
    return result if result not in ("", "success") else None
