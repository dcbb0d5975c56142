"""The position of a listing: what another server does to it. Listings on real servers are elsewhere."""

from __future__ import annotations

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
