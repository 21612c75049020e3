"""Cluster files for the tests: the least one, and changes of it."""

from __future__ import annotations

import json

import pytest

from flambed.desired import Cluster, parse
from flambed.errors import ClusterConfigurationError, Problem

LEAST = {
    "name": "c",
    "creator": "me",
    "factories_num": 4,
    "factories_type": "g5.xlarge",
    "orchestrator_type": "t3.large",
    "key_name": "k",
    "key": "/k",
    "security_group": "sg-1",
    "subnet_id": "subnet-1",
}


def text(**changes: object) -> str:
    """Return a right file, one key a line in the order of `LEAST`, changed keys coming last."""
    kept = {key: value for key, value in LEAST.items() if key not in changes}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in {**kept, **changes}.items())


def cluster(**changes: object) -> Cluster:
    """Return a cluster."""
    return parse(text(**changes))


def problems(document: str, *overrides: str) -> tuple[Problem, ...]:
    """Return what is wrong with a file."""
    with pytest.raises(ClusterConfigurationError) as caught:
        parse(document, overrides=overrides)
    return caught.value.problems


def told(**changes: object) -> str:
    """Return the one thing that is wrong with a right file once it is changed, without its place."""
    [problem] = problems(text(**changes))
    return problem.message
