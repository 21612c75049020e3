"""Times as people say them: how long, how far away, and in the time of the place where the terminal is."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


def span(seconds: float) -> str:
    """Return a number of seconds in the two largest units that fit: "2 h 5 min"."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min" + (f" {whole % _MINUTE} s" if whole < 10 * _MINUTE and whole % _MINUTE else "")
    large, small, names = (whole // _DAY, whole % _DAY // _HOUR, ("d", "h"))
    if whole < _DAY:
        large, small, names = (whole // _HOUR, whole % _HOUR // _MINUTE, ("h", "min"))
    return f"{large} {names[0]}" + (f" {small} {names[1]}" if small else "")


def about(seconds: float) -> str:
    """Return a number of seconds, to the minute where there are several: what a person asked for a moment ago."""
    unit = _MINUTE if seconds >= 2 * _MINUTE else 1
    return span(round(seconds / unit) * unit)


def until(when: str | None, now: datetime) -> str:
    """Return how far away a time is: "in 2 h 5 min"; nothing for none."""
    if when is None:
        return ""
    seconds = _seconds(when, now)
    return f"in {span(seconds)}" if seconds > 0 else "now"


def away(when: str, now: datetime) -> str:
    """Return about how far away a time is, in either direction: "3 min ago", "in 2 h"."""
    seconds = _seconds(when, now)
    return f"in {about(seconds)}" if seconds > 0 else f"{about(-seconds)} ago"


def left(when: str, now: datetime) -> str:
    """Return about how long it is until a time: "4 h"."""
    return about(max(_seconds(when, now), 0))


def clock(when: str, now: datetime) -> str:
    """Return a time by the local clock: "16:33", with its date where that is another day's."""
    local, today = datetime.fromisoformat(when).astimezone(), now.astimezone().date()
    return f"{local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


def told(text: str, now: datetime) -> str:
    """Return a text with the times in it as people say them: "16:33 (in 59 min)"."""
    return _RFC3339.sub(lambda match: f"{clock(match[0], now)} ({away(match[0], now)})", text)


def _seconds(when: str, now: datetime) -> float:
    return (datetime.fromisoformat(when) - now).total_seconds()
