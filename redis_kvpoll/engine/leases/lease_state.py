"""What a store must know of a lease that another store has taken, to go on with it."""

from __future__ import annotations

from typing import NamedTuple


class LeaseState(NamedTuple):
    """A lease, for another store that is to resume it."""

    incarnation: str
    epochs: tuple[tuple[str, str], ...]
    """Of each shard: its epoch as the lease's last holder knew it. A lease that is missing in it is lost."""
