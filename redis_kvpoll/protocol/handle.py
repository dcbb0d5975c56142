"""What the blocking and the asyncio handle of a room have in common: which generation it is."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from redis_kvpoll.errors import InvalidInputError

D = TypeVar("D")


class Handle(Generic[D]):
    """One generation of a room. Handles of the same generation are equal, wherever they are.

    A handle can be pickled; what comes out belongs to no store until ``store.attach(handle)`` gives one that does.
    """

    def __init__(self, dispatcher: D | None, namespace: str, room: int, generation: int, request: str | None) -> None:
        self._dispatcher = dispatcher
        self._namespace = namespace
        self._id = room
        self._generation = generation
        self._request = request

    @property
    def id(self) -> int:
        """The room."""
        return self._id

    @property
    def generation(self) -> int:
        """Which of the room's lives this is: microseconds of the server's time, higher for each later one."""
        return self._generation

    @property
    def request(self) -> str | None:
        """The request that the room was opened for; None when it was created by a plain write."""
        return self._request

    @property
    def namespace(self) -> str:
        """The table that it is a room of."""
        return self._namespace

    def _require_dispatcher(self, operation: str) -> D:
        if self._dispatcher is None:
            raise InvalidInputError(
                f"{operation}: this handle of room {self._id} was unpickled: bind it with store.attach(handle)"
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
