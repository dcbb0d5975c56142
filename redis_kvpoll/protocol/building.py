"""What all functions that form a command have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from redis_kvpoll.errors import InvalidInputError

V = TypeVar("V")
C = TypeVar("C")
P = ParamSpec("P")


def named(build: Callable[P, C]) -> Callable[P, C]:
    """Put the operation's name before what is said of its arguments."""

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> C:
        try:
            return build(*args, **kwargs)
        except InvalidInputError as error:
            raise InvalidInputError(f"{build.__name__}: {error}") from None

    return checked


# What a caller gets from the values of all rooms


def only(_: list[int], values: list[V]) -> V:
    return values[0]


def by_room(rooms: list[int], values: list[V]) -> dict[int, V]:
    return dict(zip(rooms, values, strict=True))
