"""The list of a lease's rooms, read in pages while rooms come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys, lease_commands
from redis_kvpoll.protocol.lease_commands import OwnedPages
from tests.support.fuzzing import examples
from tests.support.leasing import NS, ManualLease, begin_long_ago, die

PAGE = 5
entries = st.integers(0, 6 * PAGE).map(b"%02d".__mod__)
"""So few that those which go have most likely been listed."""


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(lease_commands, "MAX_REAPED", PAGE)


@given(
    listed=st.sets(entries, max_size=4 * PAGE),
    changes=st.lists(st.tuples(st.sets(entries, max_size=8), st.sampled_from(["gone", "new"])), max_size=12),
)
@examples(300)
def test_what_is_listed_throughout_is_read_once(listed, changes):
    pages, found, there, throughout = OwnedPages(), [], set(listed), set(listed)
    size, lease_commands.MAX_REAPED = lease_commands.MAX_REAPED, PAGE
    try:
        while pages.offset is not None:
            found += pages.take(sorted(there)[pages.offset : pages.offset + PAGE])
            if changes:
                some, what = changes.pop()
                there = there - some if what == "gone" else there | some
                throughout &= there
    finally:
        lease_commands.MAX_REAPED = size
    assert throughout <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.usefixtures("small_pages")
def test_parts_in_another_leases_rooms_fail_in_pages(client, make_store):
    """The second rank is listed by an entry that points to the first's rooms, of which there are many pages."""
    begin_long_ago(client)
    ranks = [ManualLease(make_store(rank=rank, world_size=2), f"prefill-{rank}").take() for rank in range(2)]
    for room in range(PAGE * 3 + 1):
        for one in ranks:
            one.store.open(room, request="rid").update(KVPoll.Transferring)
    other = make_store()
    ranks[1].release()
    assert [other.get(room) for room in range(PAGE * 3 + 1)] == [KVPoll.Failed] * (PAGE * 3 + 1)
    ranks[0].release()
    assert not client.exists(keys.owned(NS))
    assert die(client, other) == 0
