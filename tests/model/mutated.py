"""A script with a piece of its text replaced, at every place: what the explorers must find."""

from __future__ import annotations


def mutated(source: str, good: str, bad: str) -> str:
    assert good in source, f"the script has changed: update the mutation of {good!r}"
    return source.replace(good, bad)
