"""Facts as the journal keeps them: the name of the class, and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from flambed.observed.facts import FACTS, Fact

_ADAPTERS: Final[Mapping[str, TypeAdapter[Any]]] = {name: TypeAdapter(kind) for name, kind in FACTS.items()}


def encode(fact: Fact) -> tuple[str, str]:
    """Return a fact's kind and its JSON.

    Raises:
        PydanticSerializationError: the fact holds a value of another type than its class declares, which is a bug:
            it would be read back as something else.
    """
    kind = type(fact).__name__
    adapter = _ADAPTERS[kind]
    try:
        text = adapter.dump_json(fact, warnings="error")
    except PydanticSerializationError:
        # Half a surrogate pair, as a careless sender's JSON can bring, is no UTF-8: it becomes "?". A wrong type raises
        # again.
        document = adapter.dump_python(fact, mode="json", warnings="error")
        text = json.dumps(document, ensure_ascii=False).encode(errors="replace")
    return kind, text.decode()


def decode(kind: str, text: str) -> Fact:
    """Return the fact out of its kind and JSON. What it has beyond its class is ignored: a newer version wrote it.

    So a field added to a fact needs a default, and a field of a cluster file may only be judged more strictly than it
    was together with a migration; else the journals of yesterday cannot be read.

    Raises:
        KeyError: there is no such kind.
        ValidationError: it is no fact of that kind.
    """
    fact: Fact = _ADAPTERS[kind].validate_json(text, extra="ignore")
    return fact
