"""The identity of a handle: namespace, room and generation. Room and AsyncRoom add the calls."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError

D = TypeVar("D")


class Handle(Generic[D]):
    """One generation of a room. Handles of the same generation are equal in all stores and processes.

    An unpickled handle belongs to no store; ``store.attach(handle)`` returns one that does.
    """

    def __init__(self, dispatcher: D | None, namespace: str, room: int, generation: int, request: str | None) -> None:
        self._dispatcher = dispatcher
        self._namespace = namespace
        self._id = room
        self._generation = generation
        self._request = request

    @property
    def id(self) -> int:
        """The room id."""
        return self._id

    @property
    def generation(self) -> int:
        """The generation: microseconds of the server's time, higher for each later generation of the room."""
        return self._generation

    @property
    def request(self) -> str | None:
        """The request that the room was opened for; None if a plain write created it."""
        return self._request

    @property
    def namespace(self) -> str:
        """The namespace of the room."""
        return self._namespace

    def _require_dispatcher(self, operation: str) -> D:
        """Return the store's dispatcher; raise InvalidInputError for an unpickled handle."""
        if self._dispatcher is None:
            raise InvalidInputError(
                f"{operation}: this handle of room {self._id!r} was unpickled: bind it with store.attach(handle)"
            )
        return self._dispatcher

    def _key(self) -> tuple[str, int, int]:
        return self._namespace, self._id, self._generation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (None, *self._key(), self._request)

    def __repr__(self) -> str:
        request = "" if self._request is None else f" request={self._request!r}"
        return f"<{type(self).__name__} {self._id} of {self._namespace!r} generation={self._generation}{request}>"


def identity_of(handle: Handle[Any], namespace: str) -> tuple[str, int, int, str | None]:
    """Return namespace, room, generation and request of a handle, for one of a store of this namespace.

    A handle may have been unpickled from anywhere, so all parts are checked.

    Raises:
        InvalidInputError: the handle belongs to another namespace, or a part of it is nothing that a store made.
    """
    try:
        theirs = validation.namespace(handle.namespace)
        room, generation = validation.room(handle.id), validation.generation(handle.generation)
        request = None if handle.request is None else validation.request(handle.request)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"attach: this handle was not made by a store: {error}; open the room, or attach by its number"
        ) from None
    if theirs != namespace:
        what = f"this handle belongs to namespace {theirs!r}, and this store to {namespace!r}"
        raise InvalidInputError(f"attach: {what}")
    return theirs, room, generation, request
