"""The position of a listing: what another server does to it. Listings on real servers are elsewhere."""

from __future__ import annotations

import itertools

import pytest

from redis_kvpoll.protocol.scan import MAX_RESTARTS, Scan
from tests.support.contexts import context

CONTEXT = context(namespace="ns")
UNFINISHED, LAST = [b"17", [b"kvpoll:{ns}:room:1"]], [b"0", [b"kvpoll:{ns}:room:1", b"kvpoll:{ns}:room:2"]]


@pytest.mark.parametrize("clustered", [False, True], ids=["one server", "cluster"])
def test_shard_is_scanned_again_on_another_server(clustered):
    scan = Scan(clustered)
    cursors, found = [], []
    for reply in (UNFINISHED, None, LAST):
        if clustered and scan.request(CONTEXT, 1)[1][0] == "EXISTS":
            scan.page(0, 1, b"one")
        cursors.append(scan.request(CONTEXT, 1)[1][1])
        if reply is None:
            scan.server_changed()
        else:
            found += scan.page(reply, 1, b"one")
    if clustered:
        scan.page(0, 1, b"one")
    assert (cursors, sorted(found)) == (["0", "17", "0"], [1, 2])
    assert scan.request(CONTEXT, 1) is None


@pytest.mark.parametrize("clustered", [False, True], ids=["one server", "cluster"])
def test_listing_ends_while_servers_keep_changing(clustered):
    scan, restarts = Scan(clustered), 0
    replies = {"0": UNFINISHED, "17": LAST}
    while (request := scan.request(CONTEXT, 1)) is not None:
        if scan.server is None:
            scan.page(replies.get(request[1][1], 0), 1, b"one")
        else:
            scan.server_changed()
            restarts += 1
    assert 0 < restarts <= MAX_RESTARTS + 1


class MovingSlot:
    """Two nodes, a slot that moves from one to the other, room by room, and a client's belief of where it is."""

    STEPS = ("begin", 1, 2, 3, "end")

    def __init__(self):
        self.rooms = {b"one": {1, 2, 3}, b"other": set()}
        self.owner = self.believed = b"one"
        self.is_moving, self.map_version = False, 0

    def step(self, step):
        if step == "begin":
            self.is_moving = True
        elif step == "end":
            self.is_moving, self.owner = False, b"other"
        else:
            self.rooms[b"one"].remove(step)
            self.rooms[b"other"].add(step)

    def answer(self, words, asking):
        """The reply to a request, the node that gave it, and the one that an ASK named; SCAN returns one room."""
        if words[0] == "EXISTS":
            self.map_version += self.believed != self.owner
            self.believed = self.owner
            return (0, b"other", ("other", 1)) if self.is_moving else (0, self.owner, None)
        node = b"other" if asking else self.believed
        page = sorted(room for room in self.rooms[node] if room > int(words[1]))[:1]
        return [b"%d" % (page or [0])[0], [b"kvpoll:{ns}:room:%d" % room for room in page]], node, asking


def test_every_room_of_a_moving_slot_is_listed_once():
    """Whichever step of the move comes before whichever request."""
    for due in itertools.combinations_with_replacement(range(16), len(MovingSlot.STEPS)):
        slot, scan, found = MovingSlot(), Scan(True), []
        steps = list(zip(due, MovingSlot.STEPS, strict=True))
        for number in itertools.count():
            while steps and steps[0][0] <= number:
                slot.step(steps.pop(0)[1])
            if (request := scan.request(CONTEXT, slot.map_version)) is None:
                break
            reply, node, asked = slot.answer(request[1], scan.asking)
            if scan.server not in (None, node):
                scan.server_changed()
            else:
                found += scan.page(reply, slot.map_version, node, asked)
        assert sorted(found) == [1, 2, 3], due
        assert number <= 40, due


def test_page_of_another_node_than_asked_for_counts_for_nothing():
    """The connection to the target was lost, and the request was sent again, to the slot's own node."""
    scan = Scan(True)
    target = "other", 1
    scan.request(CONTEXT, 1)
    scan.page(0, 1, b"other", target)
    scan.request(CONTEXT, 1)
    assert scan.page(LAST, 1, b"one") == [1, 2]
    assert scan.asking == target
    scan.request(CONTEXT, 1)
    assert scan.page([b"0", [b"kvpoll:{ns}:room:3"]], 1, b"one") == []
    assert scan.request(CONTEXT, 1)[1][0] == "EXISTS"
