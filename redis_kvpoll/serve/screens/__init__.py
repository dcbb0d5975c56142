"""The pages. Each module has a SCREEN: its address, how its View is made, and its HTML.

A View is for all viewers of a page; so it depends on the namespace and the address alone, not on who looks.
"""

from __future__ import annotations

from redis_kvpoll.serve.screens import doctor, failed, feed, one_room, overview, owners
from redis_kvpoll.serve.screens.base import Screen

SCREENS: tuple[Screen, ...] = (
    overview.SCREEN,
    owners.SCREEN,
    failed.SCREEN,
    feed.SCREEN,
    doctor.SCREEN,
    one_room.SCREEN,
)
TABS = SCREENS[:-1]
"""Those that every page links to, in this order."""
