"""The service's clock: the time of day, or the lab's when a lab minute is shorter than a real one.

It tells the time of everything that CloudWatch counts: points, alarms, votes, timeouts, and when a fact became known.
Pauses and deadlines of calls are real seconds on the loop's monotonic clock, and need no clock of ours.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flambed.errors import ClusterConfigurationError, Problem

ANCHOR: Final = 1_767_225_600.0
"""2026-01-01T00:00:00Z, at which the lab's time and the real one are the same."""

LAB_MINUTE: Final = "FLAMBED_LAB_MINUTE"
_ENDPOINT: Final = "AWS_ENDPOINT_URL"


@dataclass(frozen=True, slots=True)
class Clock:
    """Tells the time. `minute` is how many real seconds one minute of it lasts."""

    minute: float = 60.0

    def now(self) -> float:
        """Return the time, UNIX seconds."""
        real = time.time()
        return real if self.minute == 60.0 else ANCHOR + (real - ANCHOR) * 60.0 / self.minute

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
