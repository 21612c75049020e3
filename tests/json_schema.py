"""JSON Schema, as much of it as the schemas of flambed use."""

from __future__ import annotations

from typing import Any


def fits(document: Any, rule: dict[str, Any]) -> bool:
    """Whether a document is valid by the part of JSON Schema that our schema uses; a keyword beyond that is an error."""
    known = {
        "$schema", "title", "description", "oneOf", "type", "properties", "required", "additionalProperties", "items",
        "const", "enum", "maxLength", "format",
    }  # fmt: skip
    assert set(rule) <= known
    types = {
        "object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    if "oneOf" in rule and sum(fits(document, part) for part in rule["oneOf"]) != 1:
        return False
    if "type" in rule:
        names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        is_flag = isinstance(document, bool)
        if not any(isinstance(document, types[name]) and is_flag == (name == "boolean") for name in names):
            return False
    if ("const" in rule and document != rule["const"]) or ("enum" in rule and document not in rule["enum"]):
        return False
    if isinstance(document, str):
        longest: int = rule.get("maxLength", len(document))
        return len(document) <= longest
    if isinstance(document, list):
        return all(fits(item, rule.get("items", {})) for item in document)
    if isinstance(document, dict):
        rest = rule.get("additionalProperties", {})
        lacks = set(rule.get("required", ())) - set(document)
        return not lacks and all(
            fits(value, rule["properties"][name])
            if name in rule.get("properties", {})
            else rest is not False and fits(value, rest)
            for name, value in document.items()
        )
    return True
