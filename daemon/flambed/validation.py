"""A located document against a pydantic model: the model, or every problem with its place and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flambed import durations, yamlfile
from flambed.errors import ClusterConfigurationError, Problem
from flambed.wording import closest, nearest, shown
from flambed.yamlfile import Document, Path
from flambed.yamltree import MOST_PROBLEMS, Place

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}
"""What pydantic's kinds of errors expect, in words."""


_ITEMS: Final[Mapping[str | int, str]] = {"setup_cmds": "command", "owners": "owner"}
"""What the items of a list are called."""


def override(document: Document, settings: Sequence[str], option: str = "--set") -> list[Problem]:
    """Apply `key=value` settings to a document, dots separating the keys; return what is wrong with them."""
    problems = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        keys = name.strip().split(".")
        place = Place(None, None, f"{option} {name.strip() or setting}")
        if not equals and all(keys):
            problems.append(place.problem(f"it has no value: write {option} {name.strip()[:60]}=VALUE", name.strip()))
            continue
        if not all(keys):
            problems.append(
                place.problem(f"{shown(setting)} is no setting: write {option} key=value", name.strip() or None)
            )
            continue
        # A tag's key may hold dots of its own.
        keys = [keys[0], ".".join(keys[1:])] if keys[0] == "tags" and len(keys) > 2 else keys
        problems += put(document, keys, text, place)
    return problems


def put(document: Document, keys: Sequence[str], text: str, place: Place) -> list[Problem]:
    """Set one value of a document from its text, a YAML scalar or flow; return what is wrong with the text."""
    name = ".".join(keys)
    if re.search("[\0\ud800-\udfff]", text):  # an argument that is not UTF-8
        return [place.problem("the value is not UTF-8 text: write it anew", name)]
    try:
        value, written = yamlfile.load_value(text)
    except ClusterConfigurationError:
        return [place.problem("the value opens a quote or a bracket and is no YAML: close it, or quote it all", name)]
    document.put(keys, value, place)
    document.written.update({(*keys, *path): as_written for path, as_written in written.items()})
    return []


def validate(model: type[Model], document: Document, *, source: str, earlier: Sequence[Problem] = ()) -> Model:
    """Return the model of a document.

    Raises:
        ClusterConfigurationError: carries all problems, after `earlier` ones, in the order of the document.
    """
    try:
        valid = model.model_validate(document.value)
    except ValidationError as error:
        details = _without_slips(model, error.errors(include_url=False))
        found = [_problem(model, document, detail) for detail in details[:MOST_PROBLEMS]]
        if more := len(details) - len(found):
            found.append(Problem(f"and {more} more: begin with the first"))
        raise ClusterConfigurationError(yamlfile.in_order([*earlier, *found]), source) from None
    if earlier:
        raise ClusterConfigurationError(yamlfile.in_order(earlier), source)
    return valid


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a model's documents, for editors: durations are shown as people write them."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    for definition in (schema, *schema.get("$defs", {}).values()):
        for field in definition.get("properties", {}).values():
            field.pop("title", None)  # the key again, in capitals
            if field.get("pattern") == durations.SCHEMA["pattern"]:
                field["default"] = durations.text(field["default"])
    return schema


def _without_slips(model: type[BaseModel], details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out what is missing only because its key is misspelt: the unknown key's own problem says so."""
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    slips = {(*at[:-1], closest(str(at[-1]), _known(model, at[:-1]))) for at in unknown[:MOST_PROBLEMS]}
    return [detail for detail in details if detail["type"] != "missing" or detail["loc"] not in slips]


def _problem(model: type[BaseModel], document: Document, detail: ErrorDetails) -> Problem:
    kind, location = detail["type"], detail["loc"]
    of_key = bool(location) and location[-1] == "[key]"
    path: Path = location[:-1] if of_key else location
    name = ".".join(str(part) for part in path)
    if kind == "missing":
        place = document.values.get(path[:-1]) or document.start
        about = _description(model, path)
        return place.problem(f"{name!r} is missing: add it" + (f" ({about})" if about else ""), name)
    if kind == "extra_forbidden":
        known = _known(model, path[:-1])
        where = f" in {'.'.join(str(part) for part in path[:-1])!r}" if len(path) > 1 else ""
        place = document.keys.get(path, document.start)
        return place.problem(f"unknown key {shown(path[-1])}{where}: {nearest(str(path[-1]), known)}", name)
    at = str((detail.get("ctx") or {}).get("at", ""))
    place = _nearest_place(document, path, of_key=of_key, instead=at)
    name = at if at.startswith(f"{name}.") else name
    message = _message(detail, document.written.get(path))
    said = place.override is not None and place.override.endswith(f" {name}")
    return place.problem(message if said else f"{_label(path, name)[:200]}: {message}", name)


def _label(path: Path, name: str) -> str:
    """Return what a message calls a value: "setup_cmds, command 1" for the first of a list, else its dotted name."""
    if len(path) > 1 and isinstance(path[-1], int):
        return f"{'.'.join(map(str, path[:-1]))}, {_ITEMS.get(path[-2], 'item')} {path[-1] + 1}"
    return name


def _nearest_place(document: Document, path: Path, *, of_key: bool, instead: str) -> Place:
    """Return the place of a value; for a default, of the value it does not go with; else of what holds it."""
    at: Path | None = tuple(instead.split(".")) if instead else None
    if at and len(at) > 1 and at in document.values:
        return document.values[at]
    if of_key and path in document.keys:
        return document.keys[path]
    if path in document.values:
        return document.values[path]
    if at and at in document.values:
        return document.values[at]
    while path and path not in document.values:
        path = path[:-1]
    return document.values.get(path, document.start)


def _message(detail: ErrorDetails, written: str | None) -> str:
    kind, value = detail["type"], detail["input"]
    if kind in _EXPECTED:
        quote = "; put it in quotes" if kind == "string_type" and isinstance(value, bool | int | float) else ""
        return f"expected {_EXPECTED[kind]}, found {_found(value, written)}{quote}"
    if kind == "literal_error":
        known = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = nearest(value, known) if isinstance(value, str) else f"known are {', '.join(known)}"
        return f"{_found(value, written)} is none of them: {hint}"
    if kind.startswith(("greater_than", "less_than")):
        return f"{_found(value, written)} is out of range: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    return detail["msg"]


def _found(value: object, written: str | None) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return written[:60] if written is not None else shown(value)


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    for part in path:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def _known(model: type[BaseModel], path: Path) -> list[str]:
    found = _model_at(model, path)
    return list(found.model_fields) if found is not None else []


def _description(model: type[BaseModel], path: Path) -> str | None:
    found = _model_at(model, path[:-1])
    field = found.model_fields.get(str(path[-1])) if found is not None else None
    return field.description.rstrip(".") if field is not None and field.description else None
