"""Durations as people write them ("90s", "15m", "4h", "2d", "1h30m", or a number of seconds) to seconds and back."""

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
_HELP: Final = "write it as 90s, 15m, 4h, 2d or 1h30m, or as a number of seconds"


def parse(text: str | float) -> float:
    """Return the seconds of a duration: "1h30m" -> 5400.0, "0.5h" -> 1800.0, "90" and 90 -> 90.0.

    Units stand in the order d, h, m, s, each at most once.

    Raises:
        ValueError: it is no duration, is negative, or is longer than a year.
    """
    seconds = _seconds(text)
    if not math.isfinite(seconds) or not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{shown(text)} is not between 0 seconds and 366 days")
    return seconds


def _seconds(text: str | float) -> float:
    if not isinstance(text, str):
        return float(min(text, _LONGEST + 1))  # a huge int would not fit a float
    bare = text.strip()
    if _BARE.fullmatch(bare):
        return float(bare)
    match = _SHAPE.fullmatch(bare)
    if not bare or match is None:
        raise ValueError(f"{shown(text)} is no duration: {_HELP}")
    return math.fsum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)


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


def _validated(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PydanticCustomError("duration", "{reason}", {"reason": f"{shown(value)} is no duration: {_HELP}"})
    try:
        return parse(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from None


SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "pattern": "^(?=.)([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s?)?$"},
        {"type": "number", "minimum": 0, "maximum": _LONGEST},
    ]
}

Duration = Annotated[
    float,
    BeforeValidator(_validated),
    PlainSerializer(text, return_type=str),
    WithJsonSchema(SCHEMA),
]
"""A pydantic field of seconds that is written as a duration."""
