"""Durations as people write them ("90s", "15m", "4h", "2d", "1h30m") to seconds and back."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from flambed.wording import shown

_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PATTERN: Final = "".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _SECONDS)
_SHAPE: Final = re.compile(_PATTERN)
_BARE: Final = re.compile(_NUMBER)
_LONGEST: Final = 366 * 86_400.0
_HELP: Final = "write it as 90s, 15m, 4h, 2d or 1h30m"


def parse(text: str | float) -> float:
    """Return the seconds of a duration: "1h30m" -> 5400.0, "0.5h" -> 1800.0, "0" and 0 -> 0.0.

    Units stand in the order d, h, m, s, each at most once. No other number goes without one: 4 could be hours or
    seconds to whoever wrote it.

    Raises:
        ValueError: it is no duration, has no unit, is negative, or is longer than a year.
    """
    bare = text.strip() if isinstance(text, str) else text
    if not isinstance(bare, str) or _BARE.fullmatch(bare):
        return _without_unit(text, bare)
    match = _SHAPE.fullmatch(bare)
    if not bare or match is None:
        raise ValueError(f"{shown(text)} is no duration: {_HELP}")
    seconds = math.fsum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)
    if seconds > _LONGEST:
        raise _out_of_bounds(text)
    return seconds


def _without_unit(text: str | float, number: str | float) -> float:
    value = float(number) if isinstance(number, str) else number
    if value == 0:
        return 0.0
    if not 0 < value <= _LONGEST:  # false for NaN as well
        raise _out_of_bounds(text)
    raise ValueError(f"{shown(text)} has no unit: write {number}h, {number}m or {number}s")


def _out_of_bounds(text: str | float) -> ValueError:
    return ValueError(f"{shown(text)} is not between 0 seconds and 366 days")


def text(seconds: float) -> str:
    """Return the shortest exact way to write a duration: 5400 -> "1h30m", 0.5 -> "0.5s", 0 -> "0s"."""
    rest = seconds
    parts = []
    for unit, size in _SECONDS.items():
        if unit == "s":
            break
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if rest or not parts:
        parts.append(f"{rest:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def words(seconds: float) -> str:
    """Return a duration in the largest unit up to hours that it is whole in: 360000 -> "100 h", 90 -> "90 s"."""
    for unit, name in (("h", "h"), ("m", "min")):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f} {name}"
    return f"{seconds:g} s"


def _validated(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PydanticCustomError("duration", "{reason}", {"reason": f"{shown(value)} is no duration: {_HELP}"})
    try:
        return parse(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from None


SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": "^(?=.)([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?$",
}

Duration = Annotated[
    float,
    BeforeValidator(_validated),
    PlainSerializer(text, return_type=str),
    WithJsonSchema(SCHEMA),
]
"""A pydantic field of seconds that is written as a duration."""
