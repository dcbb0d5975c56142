"""The names of owners as small numbers, so that a room keeps four bytes of its owner's name."""

from __future__ import annotations

from redis_kvpoll.validation import MAX_OWNER

MOST = 65_536
"""Names; owners that come after so many are not told apart from none."""


class OwnerNames:
    """Each name that a room has gets a number, from 1 on; 0 is no owner. What is only asked for gets none."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str | None] = [None]

    def find(self, name: str) -> int:
        """Return the number of a name; 0 if no room has had it."""
        return self._numbers.get(name, 0)

    def number(self, name: str) -> int:
        """Return the number of a room's owner, a new one if need be; 0 for a name that no lease can have."""
        number = self.find(name)
        if not number and len(self._names) <= MOST and len(name) <= MAX_OWNER:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def name(self, number: int) -> str | None:
        return self._names[number]
