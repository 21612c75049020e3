"""The shipped CloudFormation template as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

TEMPLATE: Final = Path(__file__).parent.parent / "config" / "flambed.cloudformation.yaml"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: `!Sub x` is {"Sub": "x"}."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.SequenceNode):
        return {suffix: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.ScalarNode)
    return {suffix: loader.construct_scalar(node)}


_Loader.add_multi_constructor("!", _short_form)


def template() -> dict[str, Any]:
    """The template."""
    with TEMPLATE.open() as file:
        read: dict[str, Any] = yaml.load(file, _Loader)
    return read
