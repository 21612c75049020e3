"""What of a fact may be shown to whoever studies a journal.

People put secrets into two places: what a cluster file says beyond `SHOWN`, and the values of tags. So of a cluster only
those fields are shown that are named here (a new one is none of them), and of every mapping only the keys. The rest is
what the log shows, scrubbed as it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel

from flambed.desired import OUR_TAGS, Cluster
from flambed.eventkind import REDACTED, scrub
from flambed.observed.facts import Fact

SHOWN: Final = frozenset({
    "name", "creator", "region_name", "factories_num", "factories_type", "orchestrator_type", "key_name",
    "security_group", "subnet_id", "volume_type", "volume_size", "volume_encrypted", "username", "orchestrator_ami",
    "factory_ami", "dedicated", "orchestrator_timeout", "factories_timeout", "launch", "setup",
})  # fmt: skip
"""The fields of a cluster file that hold no secret."""


def redacted(fact: Fact) -> dict[str, Any]:
    """Return a fact as a JSON document, without what may be a secret."""
    return {field.name: _shown(getattr(fact, field.name)) for field in fields(fact)}


def _shown(value: Any) -> Any:
    match value:
        case Cluster():
            return {name: _shown(one) if name in SHOWN else _hidden(one) for name, one in value}
        case BaseModel():
            return {name: _shown(one) for name, one in value}
        case Mapping():
            return {str(name): one if name in OUR_TAGS else REDACTED for name, one in value.items()}
        case tuple():
            return [_shown(one) for one in value]
        case Enum():
            return value.value
        case str():
            return scrub(value)
        case _ if is_dataclass(value):
            return {field.name: _shown(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


def _hidden(value: Any) -> Any:
    return REDACTED if value else value  # that nothing was given is no secret
