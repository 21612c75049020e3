"""The service's clock: the time of day, or the lab's when a lab minute is shorter than a real one.

It tells the time of everything that CloudWatch counts: points, alarms, votes, timeouts, and when a fact became known.
Pauses between tries last as long as it says; deadlines of calls are real seconds, and need no clock of ours.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from flambed.errors import ClusterConfigurationError, Problem

ANCHOR: Final = 1_767_225_600.0
"""2026-01-01T00:00:00Z, at which the lab's time and the real one are the same."""

LAB_MINUTE: Final = "FLAMBED_LAB_MINUTE"
_ENDPOINT: Final = "AWS_ENDPOINT_URL"


def since_boot() -> float:
    """Return the seconds since this machine booted, those in which it was suspended among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Clock:
    """Tells the time: what the machine's clock said when it was made, and the seconds that have passed since.

    So whoever sets the machine's clock while the service runs changes nothing: every pause, deadline and timeout that is
    reckoned from an earlier time would be wrong by as much. How far AWS's own clock is from ours a region learns itself.

    Attributes:
        minute: how many real seconds one minute of it lasts.
        ahead: seconds by which the time of day is ahead of `since_boot`.
    """

    minute: float = 60.0
    ahead: float = field(default_factory=lambda: time.time() - since_boot())

    def system(self) -> float:
        """Return the time of day as this machine had it at the start, UNIX seconds, whatever a minute lasts."""
        return since_boot() + self.ahead

    def now(self) -> float:
        """Return the time, UNIX seconds."""
        real = self.system()
        return real if self.minute == 60.0 else ANCHOR + (real - ANCHOR) * 60.0 / self.minute

    def not_before(self, at: float) -> Clock:
        """Return this clock, or one that is so far ahead of it that what is written down as of `at` has happened."""
        return replace(self, ahead=self.ahead + max(0.0, self.real(at - self.now())))

    def real(self, seconds: float) -> float:
        """Return how many real seconds these seconds of the clock last."""
        return seconds * self.minute / 60.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Clock:
        """Return the clock that `FLAMBED_LAB_MINUTE` asks for, or the real one without it.

        Raises:
            ClusterConfigurationError: it is no positive number, or AWS is not a lab on this machine.
        """
        text = environ.get(LAB_MINUTE)
        if text is None:
            return cls()
        try:
            minute = float(text)
        except ValueError:
            minute = math.nan
        if not (math.isfinite(minute) and minute > 0):
            raise _refused(
                f"{LAB_MINUTE} is {text!r}: write how many real seconds one minute of the lab lasts, such as 2"
            )
        if not is_loopback_endpoint(environ):
            raise _refused(
                f"{LAB_MINUTE} is set, but AWS is not a lab on this machine: with another clock than AWS's, machines would "
                f"be ended too early. Unset it, or set {_ENDPOINT} to the lab's endpoint"
            )
        return cls(minute)


def is_loopback_endpoint(environ: Mapping[str, str]) -> bool:
    """Whether every call to AWS goes to this machine, as the SDK reads its environment."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return False
    own = [url for name, url in environ.items() if name.startswith(f"{_ENDPOINT}_")]
    return all(_is_loopback(url) for url in [environ.get(_ENDPOINT, ""), *own])


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may resolve to anything
        return False


def _refused(message: str) -> ClusterConfigurationError:
    return ClusterConfigurationError([Problem(message, field=LAB_MINUTE)], source="environment")
