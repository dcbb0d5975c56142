"""Reading 1,000 statuses, by the fastest call of each way."""

from __future__ import annotations

import contextlib

from bench.measure import Contender, interleave
from bench.peers.contest import OURS, WAYS, Contest
from bench.results import Row, Section, cheaper

BATCH = 1000
_TWICE = ("lock", "watch")
"""They read by MGET, as the unguarded way does."""


def measure(contest: Contest, rounds: int) -> Section:
    section = Section(
        "peers_reading", f"Reading {BATCH:,} statuses, a room", "times faster", pictured="theirs", ours="store.poll"
    )
    rooms = contest.ground.ids(BATCH)
    shown = {name: way.shown for name, way in WAYS.items() if name not in _TWICE} | {"naive": "MGET (WATCH, lock)"}
    contenders = []
    with contextlib.ExitStack() as closing:
        for name in shown:
            if not contest.is_available(name):
                continue
            (shared,) = contest.turn(name, "read", 1)
            with contest.may_fail(name):
                way = WAYS[name](shared._replace(lock=contest.lock))
                closing.callback(way.close)
                for room in rooms:
                    way.merge(room, 3)
                if way.read(rooms) != [3] * BATCH:
                    raise RuntimeError("the written statuses were not read back")
                contenders.append(Contender(name, lambda way=way: way.read(rooms), BATCH))  # type: ignore[misc]
        times = interleave(contenders, rounds)
    for name, title in shown.items():
        if contest.is_available(name):
            section.rows.append(cheaper(title, OURS, "", name, times))
        else:
            section.rows.append(Row(title, "", "us", None, None, None, note=contest.missing[name]))
    return section
