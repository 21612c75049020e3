"""Facts of every kind, made up by hypothesis out of the types of their fields."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from flambed.desired import Cluster
from flambed.observed.facts import FACTS, Fact

TIMES = st.floats(min_value=0, max_value=4e9)
_WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
CLUSTERS = st.builds(
    Cluster,
    name=_WORDS,
    creator=st.builds("{}@{}.com".format, _WORDS, _WORDS),
    region_name=st.sampled_from([None, "us-east-1", "eu-central-1"]),
    factories_num=st.integers(1, 1000),
    factories_type=st.sampled_from(["g5.xlarge", "p4d.24xlarge"]),
    orchestrator_type=st.just("t3.large"),
    key_name=_WORDS,
    key=st.just("~/.ssh/key.pem"),
    security_group=st.just("sg-0123456789abcdef0"),
    subnet_id=st.just("subnet-0123456789abcdef0"),
    volume_type=st.sampled_from(["gp2", "gp3", "io2"]),
    tags=st.dictionaries(st.builds("team-{}".format, _WORDS), _WORDS, max_size=3),
    factory_ami=st.sampled_from([None, "ami-0123456789abcdef0"]),
    dedicated=st.booleans(),
    factories_timeout=st.sampled_from([-1.0, 0.0, 0.5, 7.25]),
    setup_cmds=st.lists(
        st.builds("echo {}".format, st.text(st.characters(codec="utf-8", exclude_characters="\0"))), max_size=3
    ).map(tuple),
    user_data=st.sampled_from([None, "#!/bin/sh\necho hello\n"]),
    launch=st.fixed_dictionaries({"deadline": st.integers(1, 100_000).map("{}s".format), "minimum": st.just("80%")}),
)


def _of(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return st.one_of([st.none() if argument is type(None) else _of(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(_of(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(_of(arguments[0]), _of(arguments[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: _of(hints[field.name]) for field in dataclasses.fields(hint)})
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(0, 2**40),
        float: TIMES,
        str: st.text(max_size=30),
        Cluster: CLUSTERS,
    }
    return simple[hint]


def facts_of(kind: type[Fact]) -> st.SearchStrategy[Fact]:
    """Facts of one kind."""
    facts: st.SearchStrategy[Fact] = _of(kind)
    return facts


ANY_FACT = st.one_of([facts_of(kind) for kind in FACTS.values()])
