"""How a host is used, as one command over SSH tells it. Pure: text in, values out.

The command is `steps/probe.sh`, which is sent with each call, so that there is nothing to be kept up to date on the
hosts. It also renews the host's idle timer (`steps/idle-timer.sh`), where the host was launched with one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Final, TypeVar

from flambed.errors import FlambedError

_STEPS: Final = resources.files("flambed.steps")
PROBE: Final = "".join(_STEPS.joinpath(name).read_text(encoding="utf-8") for name in ("activity.sh", "probe.sh"))
"""The script: sh -c PROBE flambed MINUTES PERCENT SECONDS [EXPERIMENT]."""

T = TypeVar("T")


class ProbeError(FlambedError):
    """A host's answer is not one of the probe's: it was cut off, or something else answered. It says nothing."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What the host could not tell, and why. It is neither use nor idleness."""

    why: str


class Timer(StrEnum):
    """What the host said about its idle timer."""

    RENEWED = "renewed"  # it runs, and keeps the lease that the probe brought
    OFF = "off"  # it will not end the host before it is told otherwise, not after a reboot either
    ABSENT = "absent"  # there is none: the host was launched without


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One host at one moment.

    Attributes:
        timer: of the host.
        gpu: percent that the busiest GPU was used, None without a GPU. The maximum since the timer was last renewed;
            without a timer that of this moment.
        terminal: seconds since the last input at a terminal, None if there was none since the boot or nobody is there.
        experiment: whether the program that was asked for runs.
        uptime: seconds since the boot.
    """

    timer: Timer | Unknown
    gpu: int | Unknown | None
    terminal: int | Unknown | None
    experiment: bool | Unknown
    uptime: int | Unknown


def command(*, minutes: int | None, percent: float, hold: float, experiment: str | None) -> str:
    """Return the command line that probes a host and renews its lease; the login shell may be any.

    Args:
        minutes: of idleness after which the host ends, None for never.
        percent: of CPU below which it counts as idle, at a resolution of 0.001.
        hold: seconds for which a person holds it from now on, 0 for none.
        experiment: the name of a program to look for, None for none.
    """
    lease = [str(-1 if minutes is None else minutes), decimal(percent), str(max(0, round(hold)))]
    return shlex.join(["sh", "-c", PROBE, "flambed", *lease, experiment or ""])


def decimal(percent: float) -> str:
    """Return a percentage as the timer reads it: with up to three decimals and never with an exponent."""
    return f"{percent:.3f}".rstrip("0").rstrip(".")


def parse(text: str) -> Probe:
    """Return what a host answered; what its login shell printed before does not matter.

    Raises:
        ProbeError: the answer is not whole, or a line of it is not as it should be; the message names the line.
    """
    lines = text.splitlines()
    if _BEGIN not in lines:
        raise ProbeError(f"the host's answer does not begin with {_BEGIN!r}: is there a shell on it that knows sh?")
    start = len(lines) - lines[::-1].index(_BEGIN)
    if "end" not in lines[start:]:
        raise ProbeError(f"the host's answer was cut off after line {len(lines)}: it has no line 'end'")
    told = dict.fromkeys(_SIGNALS, "")
    for number, line in enumerate(lines[start : lines.index("end", start)], start + 1):
        name, _, value = line.partition(" ")
        if told.get(name) != "" or not value:
            raise ProbeError(f"line {number} of the host's answer, {line[:80]!r}, is none of {', '.join(_SIGNALS)}")
        told[name] = value
    if missing := [name for name, value in told.items() if not value]:
        raise ProbeError(f"the host's answer lacks {', '.join(missing)}")
    return Probe(
        timer=_read(told, "timer", Timer),
        gpu=_read(told, "gpu", _number_or_none),
        terminal=_read(told, "terminal", _number_or_none),
        experiment=_read(told, "experiment", _running),
        uptime=_read(told, "uptime", _number),
    )


_BEGIN: Final = "flambed-probe"
_SIGNALS: Final = ("timer", "gpu", "terminal", "experiment", "uptime")


def _read(told: dict[str, str], name: str, meaning: Callable[[str], T]) -> T | Unknown:
    value = told[name]
    if value.startswith("failed "):
        return Unknown(value.removeprefix("failed ")[:200])
    try:
        return meaning(value)
    except ValueError:
        raise ProbeError(f"the line {f'{name} {value}'[:80]!r} of the host's answer cannot be read") from None


def _number(value: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", value):
        raise ValueError(value)
    return int(value)


def _number_or_none(value: str) -> int | None:
    return None if value == "none" else _number(value)


def _running(value: str) -> bool:
    if value not in {"running", "none"}:
        raise ValueError(value)
    return value == "running"
