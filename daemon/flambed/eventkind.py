"""What an event of the log is made of: declared fields, each of one shape, and no secret in any of them. Pure."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any, Final, Literal

from flambed.observed.facts import Fact

Level = Literal["debug", "info", "warning", "error"]

LONGEST: Final = 2000
"""The most characters that one text has in the log."""

REDACTED: Final = "[redacted]"

_BASE64: Final = "[A-Za-z0-9/+]"
_SECRET: Final = re.compile(
    # A PEM block, also one without its end.
    r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|\Z)"
    # A secret access key has 40 characters; session tokens and lines of keys have more. Digests have no capitals.
    rf"|(?<!{_BASE64})(?={_BASE64}*[a-z])(?={_BASE64}*[A-Z])(?:{_BASE64}{{60,}}|{_BASE64}{{40}})(?!{_BASE64})=*",
    re.DOTALL,
)
_NAMED_SECRET: Final = re.compile(
    r"(secret_?access_?key|session_?token|security-token|signature|authorization|flambed-key|passw(?:or)?d|passphrase)"
    r"([\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|aws4-hmac-sha256)\s+)?)[^\s\"',;&]+",
    re.IGNORECASE,
)


def scrub(text: str) -> str:
    """Return a text without what looks like a private key, or like a credential of AWS.

    A second net: no secret is given to the log on purpose, but messages of others are quoted.
    """
    if len(text) >= 30:  # shorter is no key
        text = _SECRET.sub(REDACTED, text)
    if "=" in text or ":" in text:
        text = _NAMED_SECRET.sub(rf"\1\2{REDACTED}", text)
    return text


def rfc3339(at: float) -> str:
    """Return UNIX seconds as RFC 3339 in UTC, to the millisecond: 0 -> "1970-01-01T00:00:00.000Z"."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Shape(StrEnum):
    """What the value of a field is, and thereby all that it can be."""

    TEXT = "text"
    TRACE = "traceback"
    TIME = "time"
    NUMBER = "number"
    WHOLE = "whole number"
    FLAG = "true or false"
    TEXTS = "list of texts"
    NAMED_TEXTS = "texts by name"
    NAMED_WHOLES = "whole numbers by name"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of such a value."""
        text: dict[str, Any] = {"type": "string", "maxLength": LONGEST}
        whole: dict[str, Any] = {"type": "integer"}
        schemas: dict[Shape, dict[str, Any]] = {
            Shape.TEXT: text,
            Shape.TRACE: text,
            Shape.TIME: {"type": "string", "format": "date-time"},
            Shape.NUMBER: {"type": "number"},
            Shape.WHOLE: whole,
            Shape.FLAG: {"type": "boolean"},
            Shape.TEXTS: {"type": "array", "items": text},
            Shape.NAMED_TEXTS: {"type": "object", "additionalProperties": text},
            Shape.NAMED_WHOLES: {"type": "object", "additionalProperties": whole},
        }
        return schemas[self]

    def clean(self, value: object) -> Any:
        """Return a value as the log writes it: plain JSON, scrubbed, cut. A time is given in UNIX seconds,
        a traceback as its exception or as text.

        Raises:
            TypeError: it is not of this shape. The message tells its type and not the value, which may be anything.
        """
        match self, value:
            case (Shape.TEXT, str(text)):
                return _cut(scrub(text))
            case (Shape.TRACE, str(text)):
                return _cut(scrub(text), end=True)
            case (Shape.TRACE, BaseException()):
                return self.clean("".join(traceback.format_exception(value)))
            case (Shape.FLAG, bool(flag)):
                return flag
            case (Shape.WHOLE, int(whole)) if not isinstance(whole, bool):
                return int(whole)
            case (Shape.NUMBER, int() | float()) if _is_finite(value):
                return value
            case (Shape.TIME, int() | float()) if _is_finite(value) and 0 <= value < 253_402_300_800:  # the year 10000
                return rfc3339(value)
            case (Shape.TEXTS, list() | tuple()):
                return [Shape.TEXT.clean(item) for item in value]
            case (Shape.NAMED_TEXTS, Mapping()):
                return {Shape.TEXT.clean(name): Shape.TEXT.clean(item) for name, item in value.items()}
            case (Shape.NAMED_WHOLES, Mapping()):
                return {Shape.TEXT.clean(name): Shape.WHOLE.clean(item) for name, item in value.items()}
        raise TypeError(f"is of the type {type(value).__name__}, which is no {self}")


def _is_finite(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value)


def _cut(text: str, *, end: bool = False) -> str:
    if len(text) <= LONGEST:
        return text
    return f"…{text[-LONGEST + 1 :]}" if end else f"{text[: LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event.

    Attributes:
        shape: what its value is.
        doc: what it says, for an operator.
        of: where it is in the fact: a path of attributes, or a function; None: the attribute of the same name.
        optional: it may be null.
    """

    shape: Shape
    doc: str
    of: str | Callable[[Any], object] | None = None
    optional: bool = False

    def taken(self, name: str, fact: Fact) -> object:
        """Return the field's value out of a fact."""
        take = self.of if callable(self.of) else attrgetter(self.of or name)
        return take(fact)


text = partial(Field, Shape.TEXT)
trace = partial(Field, Shape.TRACE)
time = partial(Field, Shape.TIME)
number = partial(Field, Shape.NUMBER)
whole = partial(Field, Shape.WHOLE)
flag = partial(Field, Shape.FLAG)
texts = partial(Field, Shape.TEXTS)
named_texts = partial(Field, Shape.NAMED_TEXTS)
named_wholes = partial(Field, Shape.NAMED_WHOLES)


@dataclass(frozen=True, slots=True)
class EventKind:
    """One kind of event.

    Attributes:
        name: dotted; what comes before the dot is what it is about.
        level: how much an operator should care.
        doc: one sentence for an operator.
        fields: the event's own fields, beside the ones that every line has; one that is not optional is always given.
        fact: the kind of fact that it tells; None: the service tells it by itself.
    """

    name: str
    level: Level
    doc: str
    fields: Mapping[str, Field] = field(default_factory=dict)
    fact: type[Fact] | None = None

    def taken(self, fact: Fact) -> dict[str, object]:
        """Return the values of the own fields out of a fact of its kind."""
        return {name: declared.taken(name, fact) for name, declared in self.fields.items()}

    def clean(self, values: Mapping[str, object]) -> tuple[dict[str, Any], list[str]]:
        """Return the own fields as the log writes them, all declared ones and no other, and what was wrong with them.

        What does not fit is null.
        """
        cleaned: dict[str, Any] = {}
        wrong = [f"{name!r} is not declared" for name in values if name not in self.fields]
        for name, declared in self.fields.items():
            value = values.get(name)
            cleaned[name] = None
            if value is None:
                wrong += [] if declared.optional else [f"{name!r} is missing"]
                continue
            try:
                cleaned[name] = declared.shape.clean(value)
            except TypeError as error:
                wrong.append(f"{name!r} {error}")
        return cleaned, wrong
