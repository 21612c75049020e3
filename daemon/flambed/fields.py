"""The types of a cluster file's fields: what each may hold, told in words when it does not. Pure."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from flambed import durations, userdata
from flambed.wording import shown

OUR_TAGS: Final = (
    "creator",
    "Purpose",
    "Cluster-Name",
    "Role",
    "Name",
    "flambed:daemon",
    "flambed:instance",
    "flambed:owner",
    "flambed:cluster",
    "flambed:launch",
)
"""The tags that every instance carries beside the user's own."""

_MOST_TAGS: Final = 50
_TAG_PUNCTUATION: Final = "+-=._:/@"


def refuse(kind: str, reason: str) -> PydanticCustomError:
    """Return the error for a value that breaks a rule; its text is shown as it is."""
    return PydanticCustomError("rule", "{reason}", {"reason": reason, "rule": kind})


def _shape(pattern: str, what: str) -> tuple[AfterValidator, Any]:
    """Return a check that text has a shape, and the same shape for the JSON Schema."""
    expected = re.compile(pattern)

    def check(text: str) -> str:
        if not expected.fullmatch(text):
            raise refuse("shape", f"{shown(text)} is not {what}")
        return text

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


def _tag_problem(text: str, most: int, what: str) -> str | None:
    """Say why a tag's key or value cannot be one. AWS counts characters; all its services take these ones."""
    if len(text) > most:
        return f"{what} has {len(text)} characters and may have {most}"
    for character in text:
        if unicodedata.category(character)[0] not in "LNZ" and character not in _TAG_PUNCTUATION:
            return (
                f"{what} holds {character!r}, which a tag cannot carry: "
                f"use letters, digits, spaces and any of {_TAG_PUNCTUATION}"
            )
    return None


def _name(text: str) -> str:
    for character in text:
        if not (character.isascii() and (character.isalnum() or character in "-_.")):
            why = ", as CREATOR/NAME names a cluster of one creator" if character == "/" else ""
            raise refuse("name", f"the name holds {character!r}{why}: use letters, digits, '-', '_' and '.'")
    if not text or not text[0].isalnum():
        raise refuse("name", f"the name is {shown(text)}: it must begin with a letter or a digit")
    if len(text) > 63:
        raise refuse("name", f"the name has {len(text)} characters and may have 63")
    return text


def _creator(text: str) -> str:
    if not text.strip() or text != text.strip():
        raise refuse("creator", "the creator must be named, without blanks around it; for example user@company.com")
    if "/" in text:
        raise refuse("creator", "the creator holds '/', which separates creator and name in CREATOR/NAME: leave it out")
    if reason := _tag_problem(text, 256, "the creator"):
        raise refuse("creator", reason)
    return text


def _tag_key(key: str) -> str:
    if not key:
        raise refuse("tag", "a tag needs a key")
    if key.lower() in {"creator", "name"}:
        raise refuse("tag", f"the tag {key!r} is set from the field {key.lower()!r}: leave it out of tags")
    if key in OUR_TAGS:
        raise refuse("tag", f"the tag {key!r} is how flambed finds its instances: choose another key")
    for reserved in ("aws:", "flambed:"):
        if key.lower().startswith(reserved):
            raise refuse("tag", f"the tag {shown(key)} begins with {reserved!r}, which is reserved: choose another key")
    if reason := _tag_problem(key, 128, f"the key {shown(key)}"):
        raise refuse("tag", reason)
    return key


def _tag_text(value: object) -> object:
    # A tag's value is text to AWS, and people write `team: 7`. From a file it comes here as it was written.
    if isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return value


def _tag_value(value: str) -> str:
    if reason := _tag_problem(value, 256, f"the value {shown(value)}"):
        raise refuse("tag", reason)
    return value


def _few(tags: dict[str, str]) -> dict[str, str]:
    most = _MOST_TAGS - len(OUR_TAGS)
    if len(tags) > most:
        raise refuse(
            "tag", f"there are {len(tags)} tags and may be {most}: AWS takes {_MOST_TAGS}, the rest are flambed's"
        )
    return tags


def _whole(value: object) -> object:
    """Let 100.0 be 100: Flambé's own files write `100.`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _between(least: int, most: int) -> AfterValidator:
    def check(number: int) -> int:
        if not least <= number <= most:
            raise refuse("range", f"{shown(number)} is out of range: it must be between {least} and {most}")
        return number

    return AfterValidator(check)


def _hours(hours: float) -> float:
    if not math.isfinite(hours) or (hours < 0 and hours != -1):
        raise refuse(
            "hours", f"{hours:g} is no timeout: write hours (0.5 is half an hour), 0 for at once, or -1 for never"
        )
    if hours > 8784:
        raise refuse("hours", f"{hours:g} hours are more than a year: write -1 for never")
    return hours


def _minimum(value: object) -> object:
    """Normalise a least number of factories: a count as an int, a share as text such as "80%"."""
    help_text = "write a whole number of factories, or a share such as 80% or 0.8"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse("minimum", f"{shown(value)} is no number of factories: {help_text}")
    if isinstance(value, int):
        if not 1 <= value <= 10_000:
            raise refuse("minimum", f"{shown(value)} is not between 1 and 10000: {help_text}")
        return value
    if isinstance(value, float):
        if value == 1:
            raise refuse("minimum", "1.0 could mean one factory or all of them: write 1 or 100%")
        percent = value * 100
    else:
        match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", value.strip())
        if match is None:
            raise refuse("minimum", f"{shown(value)} is no number of factories: {help_text}")
        percent = float(match[1])
    if not 0 < percent <= 100:
        raise refuse("minimum", f"{shown(value)} is no share of the factories: {help_text}")
    return f"{percent:.10g}%"


def minimum_of(minimum: int | str, count: int) -> int:
    """Return a `launch.minimum` as a number of instances out of `count`; a share is rounded up."""
    if isinstance(minimum, int):
        return minimum
    return max(1, math.ceil(round(float(minimum.rstrip("%")) * count / 100, 6)))


_VOLUMES: Final = {"gp2": (1, 16_384), "gp3": (1, 65_536), "io1": (4, 16_384), "io2": (4, 65_536)}
_IOPS_PER_GIB: Final = {"io1": 50, "io2": 500}
IOPS: Final = 5000
"""The provisioned IOPS of every io1 and io2 volume (S07)."""


def volume_problem(kind: str, size: int) -> str | None:
    """Say why a volume of that type cannot have that size in GiB, or None. The limits are EBS's."""
    least, most = _VOLUMES[kind]
    if kind in _IOPS_PER_GIB:
        needed = math.ceil(IOPS / _IOPS_PER_GIB[kind])
        if size < needed:
            return (
                f"{size} GiB are too few: an {kind} volume with {IOPS} IOPS needs at least {needed} GiB: "
                "make it larger or choose gp3"
            )
    if not least <= size <= most:
        return f"{size} GiB are out of range: {kind} volumes have {least} to {most} GiB"
    return None


def _command_text(value: object) -> object:
    if isinstance(value, dict):
        raise refuse("command", "YAML reads keys and values here, because of a colon: put the whole command in quotes")
    return value


def _command(text: str) -> str:
    if not text.strip():
        raise refuse("command", "a set-up command is empty: leave it out")
    if "\0" in text:
        raise refuse("command", f"the command {shown(text)} holds a NUL character, which no shell can take")
    return text


def _path(text: str) -> str:
    if "\n" in text or "PRIVATE KEY" in text:
        # Not shown: it looks like the key itself, which belongs into no file that is sent, kept or told of.
        raise refuse(
            "path", "it is no path: name the file of the key pair's private key, do not write the key itself here"
        )
    if not text.strip() or "\0" in text:
        raise refuse("path", f"{shown(text)} is no path: name the private key of the key pair")
    return text


def _user_data(text: str) -> str:
    if reasons := userdata.problems(text):
        raise refuse("user_data", "; ".join(reasons))
    return text


def _hours_as_number(value: object) -> object:
    if isinstance(value, bool):
        raise refuse("type", f"expected a number, found {str(value).lower()}")
    if isinstance(value, str):
        try:
            hours = durations.parse(value) / 3_600
        except ValueError:
            return value  # no duration either: it is told as the text that it is
        raise refuse("type", f"{shown(value)} has a unit, and this is a number of hours: write {hours:.6g}")
    return value


ClusterName = Annotated[
    str,
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"}),
]
Creator = Annotated[
    str, AfterValidator(_creator), WithJsonSchema({"type": "string", "pattern": "^[^/]+$", "maxLength": 256})
]
Region = Annotated[str, *_shape(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}", "an AWS region, such as us-east-1")]
InstanceType = Annotated[
    str, *_shape(r"[a-z0-9][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}", "an instance type, such as g5.xlarge")
]
KeyName = Annotated[str, *_shape(r"[ -~]{1,255}", "the name of an EC2 key pair")]
KeyPath = Annotated[str, AfterValidator(_path), WithJsonSchema({"type": "string", "minLength": 1})]
SecurityGroup = Annotated[str, *_shape(r"sg-[0-9A-Za-z]+", "the id of a security group, such as sg-0123456789abcdef0")]
SubnetId = Annotated[str, *_shape(r"subnet-[0-9A-Za-z]+", "the id of a subnet, such as subnet-0123456789abcdef0")]
Image = Annotated[
    str,
    *_shape(
        r"ami-[0-9A-Za-z]+|ssm:/aws/service/[A-Za-z0-9._/-]+",
        "an image: write its id (ami-...) or a public parameter (ssm:/aws/service/...)",
    ),
]
Username = Annotated[str, *_shape(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", "a user to log in as, such as ubuntu")]
InstanceProfile = Annotated[
    str,
    *_shape(
        r"[A-Za-z0-9+=,.@_-]{1,128}|arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/[ -~]{1,512}",
        "an instance profile: write its name, or its ARN (arn:aws:iam::ACCOUNT:instance-profile/NAME)",
    ),
]
FactoriesNum = Annotated[
    int,
    BeforeValidator(_whole),
    _between(1, 10_000),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 10_000}),
]
VolumeSize = Annotated[
    int, BeforeValidator(_whole), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65_536})
]
Hours = Annotated[
    float,
    BeforeValidator(_hours_as_number),
    AfterValidator(_hours),
    WithJsonSchema({"type": "number", "anyOf": [{"const": -1}, {"minimum": 0, "maximum": 8784}]}),
]
Minimum = Annotated[
    int | str,
    BeforeValidator(_minimum),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 10_000},
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,6})? ?%$"},
            ]
        }
    ),
]
Tags = Annotated[
    dict[
        Annotated[str, AfterValidator(_tag_key)], Annotated[str, BeforeValidator(_tag_text), AfterValidator(_tag_value)]
    ],
    AfterValidator(_few),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _MOST_TAGS - len(OUR_TAGS),
            "propertyNames": {"minLength": 1, "maxLength": 128},
            "additionalProperties": {"type": ["string", "number", "boolean"], "maxLength": 256},
        }
    ),
]
Commands = Annotated[
    tuple[Annotated[str, BeforeValidator(_command_text), AfterValidator(_command)], ...],
    Field(strict=False),
]
UserData = Annotated[
    str,
    AfterValidator(_user_data),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": userdata.LIMIT}),
]
