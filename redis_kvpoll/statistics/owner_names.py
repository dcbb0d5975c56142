"""The names of owners as small numbers, so that a room keeps four bytes of its owner's name."""

from __future__ import annotations

MOST = 65_536
"""Names; owners that come after so many are not told apart from none."""


class OwnerNames:
    """Each name has a number, from 1 on; 0 is no owner."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str | None] = [None]

    def number(self, name: str) -> int:
        number = self._numbers.get(name, 0)
        if not number and len(self._names) <= MOST:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def name(self, number: int) -> str | None:
        return self._names[number]
