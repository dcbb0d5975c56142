"""Statistics are those of a SCAN, after any history: expiry, clears, rooms used again, flushes, failovers, gaps."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from redis.exceptions import TryAgainError

from redis_kvpoll import KVPoll
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol import keys
from tests.support.fuzzing import LONG, examples
from tests.support.statistics_machine import NS, START, Machine

EXAMPLES = 40


def test_statistics_are_those_of_a_scan_after_any_history():
    how_many = settings(
        examples(EXAMPLES),
        stateful_step_count=40,
        phases=tuple(Phase) if LONG else (Phase.explicit, Phase.generate),  # shrinking takes minutes
    )
    run_state_machine_as_test(Machine, settings=how_many)


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    machine.teardown()


def test_feed_of_another_server_is_not_read_on(machine):
    """Its clock is behind, so its entries have the same ids."""
    machine.begin(shards=1, feed_length=1000, lookback=False)
    machine.update(1, KVPoll.Bootstrapping)
    machine.look()
    machine.client.flushall()
    machine.moved.move_to(START)
    machine.make_store().counts()
    machine.update(2, KVPoll.Success)
    machine.look()


def test_no_feed_turns_over_unread_during_a_walk(machine):
    """A walk may be at the rooms of one shard for minutes, as it is in a cluster."""
    machine.begin(shards=2, feed_length=1000, lookback=False)
    first, last = keys.tags(NS, 2)
    rooms = [room for room in range(200) if keys.tag(NS, 2, room) == first][:60]
    other = next(room for room in range(200) if keys.tag(NS, 2, room) == last)
    machine.store.update_many({**dict.fromkeys(rooms, KVPoll.Bootstrapping), other: KVPoll.Bootstrapping})
    machine.store.clear(other)
    while not machine.aggregates.is_walked:
        machine.step()
        machine.pass_time(0.2)
        machine.update(other, KVPoll.Bootstrapping)
        machine.clear(other)
        machine.client.xtrim(keys.feed(last), maxlen=40, approximate=False)
    machine.look()
    assert (machine.aggregates.totals.gaps, machine.aggregates.totals.resyncs) == (0, 0)


def test_walk_that_is_cut_short_misses_no_change(machine):
    """The next session reads on in the feed where this one was, and does not begin at its end."""
    machine.begin(shards=1, feed_length=1000, lookback=True)
    for room in range(10):
        machine.update(room, KVPoll.Bootstrapping)
        machine.update(room, KVPoll.Transferring)
    while sum(machine.aggregates.totals.transitions().values()) < 8:  # two pages
        machine.step()
    machine.cut()
    machine.look()
    totals = machine.aggregates.totals
    assert totals.transitions() == {("absent", "Bootstrapping"): 10, ("Bootstrapping", "Transferring"): 10}
    assert (totals.gaps, totals.resyncs) == (0, 0)


def test_what_a_cut_walk_has_met_stays_known(machine):
    machine.begin(shards=1, feed_length=1000, lookback=False)
    machine.update_many(dict.fromkeys(range(8), KVPoll.Bootstrapping))
    while not machine.found():
        machine.step()
    met = min(machine.found())
    machine.cut()
    machine.update(met, KVPoll.Transferring)
    machine.go_on(8)
    assert not machine.aggregates.is_walked
    machine.update(met, KVPoll.Success)
    machine.look()
    totals = machine.aggregates.totals
    assert totals.transitions() == {("Bootstrapping", "Transferring"): 1, ("Transferring", "Success"): 1}
    assert (totals.gaps, totals.resyncs) == (0, 0)


def test_due_room_of_a_moving_slot_is_read_later(machine, monkeypatch):
    """Its keys are on two nodes. Nothing else waits for it."""
    machine.begin(shards=1, feed_length=1000, lookback=False)
    machine.update(1, KVPoll.Bootstrapping)
    machine.look()
    perform, session = machine.transport.perform, machine.session

    def refuse_scripts(effect):
        if isinstance(effect, Send) and effect.words[0].startswith("EVAL"):
            raise TryAgainError("Multiple keys request during rehashing of slot")
        return perform(effect)

    with monkeypatch.context() as patch:
        patch.setattr(machine.transport, "perform", refuse_scripts)
        machine.pass_time(901.0)
        machine.go_on(200)
    assert machine.session is session, "it goes on"
    machine.pass_time(30.0)
    machine.look()
    assert machine.aggregates.totals.transitions() == {("Bootstrapping", "expired"): 1}


def test_loss_of_all_shards_is_one_gap_and_one_walk(machine):
    machine.begin(shards=2, feed_length=1000, lookback=False)
    machine.update_many(dict.fromkeys(range(8), KVPoll.Bootstrapping))
    machine.look()
    machine.flush()
    machine.look()
    assert (machine.aggregates.totals.gaps, machine.aggregates.totals.resyncs) == (1, 1)


def test_feed_whose_ttl_has_ended_is_no_gap(machine):
    """Nothing happens for a day."""
    machine.begin(shards=1, feed_length=1000, lookback=False)
    machine.update(1, KVPoll.Success)
    machine.look()
    machine.pass_time(3600.0)
    machine.look()
    machine.pass_time(24 * 3600.0)
    assert not machine.client.exists("kvpoll:{default}:feed")
    machine.look()
    machine.update(2, KVPoll.Bootstrapping)
    machine.look()
    snapshot = machine.aggregates.snapshot(machine.now)
    assert (snapshot.gaps, snapshot.resyncs, snapshot.counts[KVPoll.Bootstrapping]) == (0, 0, 1)
    assert snapshot.transitions["absent", "Bootstrapping"] == 1


@pytest.mark.parametrize("lost", ["feed", "all"])
@pytest.mark.parametrize("idle", [1.0, 3600.0])
def test_feed_that_is_gone_beside_a_change_is_a_gap(machine, lost, idle):
    machine.begin(shards=1, feed_length=1000, lookback=False)
    machine.update(1, KVPoll.Success)
    machine.look()
    machine.pass_time(idle)
    machine.look()
    machine.update(2, KVPoll.Success)
    machine.client.flushall() if lost == "all" else machine.client.delete("kvpoll:{default}:feed")
    machine.look()
    assert machine.aggregates.totals.gaps == 1
