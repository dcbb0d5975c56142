"""Checks a document against a JSON schema: the few words of draft 2020-12 that docs/reference uses, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_KNOWN = {"$schema", "title", "description", "type", "properties", "required", "additionalProperties", "items"}
_KNOWN |= {"enum", "oneOf"}


def names() -> list[str]:
    return sorted(path.name.removesuffix(".schema.json") for path in FOLDER.glob("*.schema.json"))


def load(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    return schema


def faults(value: Any, schema: Any, at: str = "$") -> list[str]:
    """What is wrong with a value, each with its place."""
    if unknown := schema.keys() - _KNOWN:
        return [f"{at}: this checker does not know {unknown}"]
    if "oneOf" in schema:
        tried = [faults(value, each, at) for each in schema["oneOf"]]
        return [] if sum(not found for found in tried) == 1 else [f"{at}: fits not one of oneOf: {tried}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        return [f"{at}: {value!r} is no {' or '.join(types)}"]
    if isinstance(value, dict):
        return _faults_in_object(value, schema, at)
    if isinstance(value, list):
        return [fault for n, each in enumerate(value) for fault in faults(each, schema["items"], f"{at}[{n}]")]
    return []


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def _faults_in_object(value: dict[str, Any], schema: dict[str, Any], at: str) -> list[str]:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    found = [f"{at}: lacks {name}" for name in schema.get("required", []) if name not in value]
    for name, each in value.items():
        if name in properties:
            found += faults(each, properties[name], f"{at}.{name}")
        elif more is False:
            found.append(f"{at}: has {name}, too")
        elif isinstance(more, dict):
            found += faults(each, more, f"{at}.{name}")
    return found
