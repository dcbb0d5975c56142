"""Checks documents against the JSON schemas of docs/reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def names(folder: str = ".") -> list[str]:
    return sorted(path.name.removesuffix(".schema.json") for path in (FOLDER / folder).glob("*.schema.json"))


def load(name: str) -> dict[str, Any]:
    """A schema, which is itself checked."""
    schema: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return schema


def faults(value: Any, schema: Any) -> list[str]:
    """What is wrong with a value, each with its place."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(value)]


def fields(schema: dict[str, Any], within: str = "") -> set[str]:
    """The names of all fields in documents of a schema, with dots between them."""
    found = set()
    for name, inner in schema.get("properties", {}).items():
        found |= {f"{within}{name}", *fields(inner, f"{within}{name}.")}
    for inner in (schema.get("items"), *schema.get("oneOf", [])):
        found |= fields(inner, within) if inner else set()
    return found
