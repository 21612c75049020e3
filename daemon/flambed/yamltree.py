"""A tree of a YAML file's values, each with its place. Pure; built on PyYAML's events, so no tag ever makes an object.

Scalars are read by the core schema of YAML 1.2, of which JSON is a part: `yes` and `2026-01-01` are text and `012` is
twelve. A key is always text, as it is written. What could be used to exhaust the reader - depth, numbers of values,
aliases of aliases - is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import yaml

from flambed.errors import Problem
from flambed.wording import shown

MOST_VALUES: Final = 20_000
DEEPEST: Final = 20
MOST_PROBLEMS: Final = 100

# libyaml is an order of magnitude faster; PyYAML is at times built without it.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE: Final = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNSENDABLE: Final = re.compile("[\\0\ud800-\udfff]")
_CORE: Final = "tag:yaml.org,2002:"
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,100}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a line and column that count from 1, or an override such as `--set name`."""

    line: int | None
    column: int | None
    override: str | None = None

    def problem(self, message: str, field_name: str | None = None) -> Problem:
        """Return a problem at this place."""
        text = f"{self.override}: {message}" if self.override else message
        return Problem(text, self.line, self.column, field_name)


def scalar(text: str) -> str | int | float | bool | None:
    """Return the value of a plain scalar by the core schema of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def place_in(text: str, index: int) -> Place:
    """Return the place of a character."""
    return Place(text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1)


def _at(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


class StopError(Exception):
    """What is wrong leaves nothing to go on with."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass(slots=True)
class Node:
    """One value of a document: text, a list of nodes, or nodes by key with the place of the key."""

    place: Place
    content: str | list[Node] | dict[str, tuple[Place, Node]]
    plain: bool = False  # of text: not quoted, so that it may be a number
    size: int = 1  # how many values it is, itself included
    height: int = 0  # how deep values are nested in it

    @property
    def kind(self) -> str:
        """What it is, as a message says it."""
        if isinstance(self.content, str):
            return "a text" if not self.plain else shown(self.content)
        return "a list" if isinstance(self.content, list) else "keys and values"


def _height(inner: Sequence[Node]) -> int:
    return 1 + max((node.height for node in inner), default=0)


class Builder:
    """Makes one tree of nodes out of PyYAML's events, and collects what can be told without stopping."""

    def __init__(self, root_tags: Sequence[str]) -> None:
        self.problems: list[Problem] = []
        self._root_tags = root_tags
        self._anchors: dict[str, Node | None] = {}  # None while the node is still being read
        self._count = 0

    def document(self, text: str) -> Node:
        """Return the root of the one document in a text, read as though what is in `problems` then had been mended.

        Raises:
            StopError: what is wrong leaves nothing to go on with.
            yaml.YAMLError: it is not YAML.
        """
        if match := _UNPRINTABLE.search(text):
            message = f"the character U+{ord(match[0]):04X} cannot stand in YAML: remove it"
            raise StopError(place_in(text, match.start()).problem(message))
        events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
        next(events)  # the start of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            return Node(Place(1, 1), "", plain=True)
        root = self._node(next(events), events, 0)
        next(events)  # the end of the document
        if not isinstance(more := next(events), yaml.StreamEndEvent):
            message = "a second document begins here: keep one in a file"
            raise StopError(_at(more.start_mark).problem(message))
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        place = _at(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(cast("str", event.anchor), place, depth)
        self._add(1, place)
        self._check_depth(depth, place)
        anchor = cast("yaml.NodeEvent", event).anchor
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(place, self._sendable(event.value, place), plain=self._is_plain(event, place, depth))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._tag(event.tag, "seq", place, depth)
            items = []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                items.append(self._node(inner, events, depth + 1))
            node = Node(place, items, size=1 + sum(item.size for item in items), height=_height(items))
        else:
            self._tag(cast("yaml.MappingStartEvent", event).tag, "map", place, depth)
            node = self._mapping(place, events, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _mapping(self, place: Place, events: Iterator[yaml.Event], depth: int) -> Node:
        entries: dict[str, tuple[Place, Node]] = {}
        merged: list[Node] = []
        while not isinstance(inner := next(events), yaml.MappingEndEvent):
            key = self._node(inner, events, depth + 1)
            value = self._node(next(events), events, depth + 1)
            if not isinstance(key.content, str):
                self._wrong(key.place.problem(f"a key must be a word, and {key.kind} stands here"))
            elif key.content == "<<" and key.plain:
                merged.extend(value.content if isinstance(value.content, list) else [value])
            elif key.content in entries:
                first = entries[key.content][0]
                message = f"the key {shown(key.content)} is given twice, first on line {first.line}: keep one of them"
                self._wrong(key.place.problem(message, key.content))
            else:
                entries[key.content] = (key.place, value)
        for node in merged:
            if isinstance(node.content, dict):
                entries = {**node.content, **entries}
            else:
                self._wrong(node.place.problem(f"`<<` merges keys and values, and {node.kind} stands here"))
        values = [value for _, value in entries.values()]
        return Node(place, entries, size=1 + sum(1 + value.size for value in values), height=_height(values))

    def _alias(self, anchor: str, place: Place, depth: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            what = "stands for a part that holds it" if anchor in self._anchors else "has no anchor before it"
            raise StopError(place.problem(f"the alias *{anchor[:60]} {what}: write the value out"))
        self._add(node.size, place)
        self._check_depth(depth + node.height, place)
        return replace(node, place=place)

    def _add(self, count: int, place: Place) -> None:
        self._count += count
        if self._count > MOST_VALUES:
            raise StopError(
                place.problem(f"there are more than {MOST_VALUES:,} values, aliases counted as written out")
            )

    def _wrong(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) >= MOST_PROBLEMS:
            raise StopError(replace(problem, message="more is wrong than is told here: begin with the first"))

    def _sendable(self, text: str, place: Place) -> str:
        # Only an escape in double quotes can name such a character; it would fail later, when it is sent.
        if match := _UNSENDABLE.search(text):
            self._wrong(place.problem(f"the character U+{ord(match[0]):04X} cannot stand in a text: remove it"))
        return _UNSENDABLE.sub("", text)

    def _check_depth(self, depth: int, place: Place) -> None:
        if depth > DEEPEST:
            raise StopError(place.problem(f"values are nested more than {DEEPEST} deep here: nothing needs that"))

    def _is_plain(self, event: yaml.ScalarEvent, place: Place, depth: int) -> bool:
        if event.tag is None or event.tag == "!":
            return event.tag is None and event.implicit[0]
        if event.tag == f"{_CORE}str":
            return False
        if event.tag.removeprefix(_CORE) not in {"int", "float", "bool", "null"}:
            self._tag(event.tag, "str", place, depth)
        return True

    def _tag(self, tag: str | None, expected: str, place: Place, depth: int) -> None:
        if tag is None or tag in {"!", _CORE + expected} or (depth == 0 and tag in self._root_tags):
            return
        name = tag.replace(_CORE, "!!")[:60]
        known = f" (only {', '.join(self._root_tags)}, before the first key)" if self._root_tags else ""
        self._wrong(place.problem(f"the tag {name} means nothing here: remove it{known}"))
