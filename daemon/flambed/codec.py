"""Facts as the journal keeps them: the name of the class, and JSON. Worlds, too, as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import GenericAlias
from typing import Any, Final, get_args, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from flambed.observed.facts import FACTS, Fact, Key
from flambed.observed.world import World

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


_EMPTY: Final[Mapping[str, Any]] = {}
_DOCUMENT: Final = TypeAdapter(dict[str, Any])
_WORLD: Final = TypeAdapter(World)


def _pairs(hint: Any) -> TypeAdapter[Any]:
    pairs: Any = GenericAlias(list, (GenericAlias(tuple, get_args(hint)),))
    return TypeAdapter(pairs)


_BY_KEY: Final[Mapping[str, TypeAdapter[Any]]] = {
    name: _pairs(hint) for name, hint in get_type_hints(World).items() if get_args(hint)[:1] == (Key,)
}
"""The fields of a world that JSON has no objects for, as their names are no texts: there they are lists of pairs."""


def encode_world(world: World) -> str:
    """Return a world's JSON.

    Raises:
        PydanticSerializationError: it holds a value of another type than its class declares, which is a bug.
    """
    plain = _WORLD.dump_python(_with(world, dict.fromkeys(_BY_KEY, _EMPTY)), mode="json", warnings="error")
    pairs = {
        name: adapter.dump_python(list(getattr(world, name).items()), mode="json", warnings="error")
        for name, adapter in _BY_KEY.items()
    }
    # Half a surrogate pair becomes "?", as in a fact.
    return json.dumps({**plain, **pairs}, ensure_ascii=False).encode(errors="replace").decode()


def decode_world(text: str) -> World:
    """Return the world out of its JSON. What it has beyond its class is ignored, as in a fact.

    So a field added to a world, or to what it holds, needs a default: the worlds of yesterday lack it.

    Raises:
        ValidationError: it is no world.
    """
    document = _DOCUMENT.validate_json(text)
    pairs = {name: document.pop(name, []) for name in _BY_KEY}
    world: World = _WORLD.validate_json(json.dumps(document), extra="ignore")
    return _with(
        world, {name: dict(_BY_KEY[name].validate_json(json.dumps(pairs[name]), extra="ignore")) for name in pairs}
    )


def _with(world: World, changes: Mapping[str, Any]) -> World:
    return replace(world, **changes)
