"""What the blocking and the asyncio form of a class have in common without inheriting it: their docstrings."""

from __future__ import annotations


def share_docstrings(asyncio_class: type, blocking_class: type) -> None:
    """Give each public method of the first that has no docstring the one of its twin, so that it is written once."""
    for name, method in vars(asyncio_class).items():
        plain = getattr(method, "__func__", method)  # of a classmethod
        if not name.startswith("_") and callable(plain) and plain.__doc__ is None:
            plain.__doc__ = getattr(blocking_class, name).__doc__
