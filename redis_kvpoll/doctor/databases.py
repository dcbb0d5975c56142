"""The keys of a server by its numbered databases: INFO counts those of all, and SCAN passes those of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class KeyCounts(NamedTuple):
    """How many keys a server has, or all nodes of a cluster."""

    database: int
    """The number of the database that the URL names."""
    here: int
    """Keys in this one."""
    elsewhere: Mapping[int, int]
    """Keys in each other database that has any."""

    @property
    def total(self) -> int:
        return self.here + sum(self.elsewhere.values())

    @property
    def in_others(self) -> str:
        """Which other databases have keys, in words."""
        return ", ".join(f"database {number} has {keys:,}" for number, keys in sorted(self.elsewhere.items()))

    @property
    def wrong_number(self) -> str:
        """That all keys are in other databases than the URL's, in words; empty if not."""
        if self.here or not self.elsewhere:
            return ""
        return f"database {self.database} has no keys, and {self.in_others}: is the number in the URL right?"


def count(info: Mapping[str, str] | None, database: int) -> KeyCounts:
    """Return the keys of a server by the fields of INFO keyspace; none without an answer."""
    found = {}
    for name, value in (info or {}).items():
        number, keys = name.removeprefix("db"), value.partition(",")[0].removeprefix("keys=")
        if number != name and number.isdigit() and keys.isdigit():
            found[int(number)] = int(keys)
    return KeyCounts(database, found.pop(database, 0), found)


def of_all(nodes: Sequence[KeyCounts]) -> KeyCounts:
    """Return the keys of all nodes."""
    elsewhere: Counter[int] = Counter()
    for node in nodes:
        elsewhere.update(node.elsewhere)
    return KeyCounts(nodes[0].database if nodes else 0, sum(node.here for node in nodes), elsewhere)
