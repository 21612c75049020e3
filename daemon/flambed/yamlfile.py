"""YAML as plain values with the place of each: what cluster files and settings are read with. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from flambed.errors import ClusterConfigurationError, Problem
from flambed.yamltree import Builder, Node, Place, StopError, place_in, scalar

MOST_BYTES: Final = 1 << 20

# JSON writes a character beyond U+FFFF as two escapes, which YAML does not know as one.
_PAIR: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")

Path = tuple[str | int, ...]
"""The keys and indices that lead to a value from the top of a document."""


@dataclass(slots=True)
class Document:
    """A mapping out of a file, with the place of each key and value, and each scalar as it was written."""

    value: dict[str, Any]
    start: Place
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)

    def put(self, keys: Sequence[str], value: Any, place: Place) -> None:
        """Set what stands under a path of keys, making the mappings that lead to it; `place` becomes its place."""
        target = self.value
        for depth, part in enumerate(keys[:-1], start=1):
            if not isinstance(target.get(part), dict):
                self._forget(tuple(keys[:depth]))
                target[part] = {}
                self.keys[tuple(keys[:depth])] = self.values[tuple(keys[:depth])] = place
            target = target[part]
        path = tuple(keys)
        self._forget(path)
        target[path[-1]] = value
        self.keys[path] = self.values[path] = place

    def _forget(self, path: Path) -> None:
        for places in (self.keys, self.values):
            for old in [old for old in places if old[: len(path)] == path]:
                del places[old]
        for old in [old for old in self.written if old[: len(path)] == path]:
            del self.written[old]


def decode(raw: bytes, source: str) -> str:
    """Return a file's bytes as text.

    Raises:
        ClusterConfigurationError: there are more than 1 MiB of them, or they are not UTF-8.
    """
    _check_size(len(raw), source)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(errors="replace")
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise ClusterConfigurationError([place_in(before, len(before)).problem(message)], source) from None


def load(
    text: str,
    *,
    source: str,
    root_tags: Sequence[str] = (),
    empty: bool = False,
    mendable: list[Problem] | None = None,
) -> Document:
    """Read a file that holds one mapping.

    Args:
        text: the file.
        source: its name, for the error.
        root_tags: the tags that its mapping may carry, such as `!AWSCluster`.
        empty: whether a file without anything in it is an empty mapping and no mistake.
        mendable: takes the mistakes after which the rest can still be read, as though each had been mended as its message
            says, so that the caller can tell them along with what is wrong with the values; without it they are raised.

    Raises:
        ClusterConfigurationError: it is no such file; it carries everything that can be told at once.
    """
    if text.lstrip().startswith("{"):
        text = _PAIR.sub(_joined, text)
    _check_size(len(text.encode(errors="surrogatepass")), source)
    builder = Builder(root_tags)
    problems = builder.problems
    try:
        root = builder.document(text)
    except StopError as stop:
        raise ClusterConfigurationError(in_order([*problems, stop.problem]), source) from None
    except yaml.YAMLError as error:
        raise ClusterConfigurationError(in_order([*problems, _broken(error, text)]), source) from None
    if problems and mendable is None:
        raise ClusterConfigurationError(in_order(problems), source)
    document = Document({}, root.place)
    if isinstance(root.content, dict):
        document.value = _plain(root, (), document)
    elif not (root.content == "" and root.plain):
        message = f"expected keys and values, such as `name: value`, and found {root.kind}"
        raise ClusterConfigurationError(in_order([*problems, root.place.problem(message)]), source)
    elif not empty:
        message = "the file is empty: expected keys and values, such as `name: value`"
        raise ClusterConfigurationError(in_order([*problems, root.place.problem(message)]), source)
    if mendable is not None:
        mendable += problems
    return document


def load_value(text: str) -> tuple[Any, dict[Path, str]]:
    """Return a value given on a command line, and the scalars in it as they were written.

    It is YAML where it begins with a quote or a bracket, else a plain scalar, whatever signs it holds.

    Raises:
        ClusterConfigurationError: it begins so and is no YAML.
    """
    if text.lstrip()[:1] not in {'"', "'", "[", "{"}:
        return scalar(text.strip()), {(): text.strip()}
    indented = text.strip().replace("\n", "\n ")
    document = load(f"value: {indented}", source="value")
    return document.value["value"], {path[1:]: written for path, written in document.written.items()}


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems in the order of their document; those without a place come last."""
    return sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0, problem.column or 0))


def _joined(pair: re.Match[str]) -> str:
    high, low = int(pair[2], 16), int(pair[3], 16)
    return f"{pair[1]}{chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))}"


def _check_size(size: int, source: str) -> None:
    if size > MOST_BYTES:
        message = f"the file has {size:,} bytes and may have {MOST_BYTES:,}: is it the right one?"
        raise ClusterConfigurationError([Problem(message, 1, 1)], source)


def _plain(node: Node, path: Path, document: Document) -> Any:
    """Return a node's value, and note in the document where everything in it stands."""
    document.values[path] = node.place
    if isinstance(node.content, str):
        document.written[path] = node.content
        return scalar(node.content) if node.plain else node.content
    if isinstance(node.content, list):
        return [_plain(item, (*path, index), document) for index, item in enumerate(node.content)]
    for key, (place, _) in node.content.items():
        document.keys[(*path, key)] = place
    return {key: _plain(value, (*path, key), document) for key, (_, value) in node.content.items()}


def _broken(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or str(error)
    if mark is None:
        return Problem(f"this is not YAML: {what}", 1, 1)
    line = [*text.splitlines(), "", ""][mark.line]
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or line[mark.column : mark.column + 1] == "\t":
        return Problem("a tab stands here: YAML is indented with spaces", mark.line + 1, line.index("\t") + 1)
    context = getattr(error, "context", None)
    context_mark = getattr(error, "context_mark", None)
    since = f", {context} from line {context_mark.line + 1}" if context and context_mark else ""
    return Place(mark.line + 1, mark.column + 1).problem(
        f"this is not YAML: {what}{since}; check the indentation, and quote what holds ': ' or begins with a sign"
    )
