"""Actions on a lease whose reply was lost are repeated: what the first one has done is completed."""

from __future__ import annotations

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys
from tests.support.internals import context_of, executor_of, run
from tests.support.leasing import NS, ManualLease, begin_long_ago

BOOT, FAIL = KVPoll.Bootstrapping, KVPoll.Failed


def act(held, action):
    """Perform an action on a lease in its shard, and drop the reply."""
    call = held.keeper.config.call(context_of(held.store), NS, action, held.incarnation)
    run(held.store, executor_of(held.store).send_calls("lease", [call]))


def test_rooms_fail_if_the_first_leave_got_no_reply(client, make_store):
    """No other process has a lease, and so none would fail them."""
    begin_long_ago(client)
    held = ManualLease(make_store()).take()
    held.store.update_status(1, BOOT)
    act(held, "leave")
    held.release()
    assert held.store.get(1) is FAIL
    assert held.store.failure_reason(1) == "owner prefill-0 left"
    assert client.hgetall(keys.leases(NS)).keys() == {"last incarnation"}


def test_leave_after_its_rooms_have_failed_names_nothing(client, make_store):
    begin_long_ago(client)
    held = ManualLease(make_store()).take()
    held.store.update_status(1, BOOT)
    held.release()
    act(held, "leave")
    assert client.zcard(keys.due(NS)) == 0
