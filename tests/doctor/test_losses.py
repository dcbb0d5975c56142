"""kvpoll doctor after data was lost, with a replica, and under refused writes. Each test does it to a real server."""

from __future__ import annotations

import contextlib
import re

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, Outcome, ServerRefusedError, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.doctor import losses
from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.doctor.replica import read_replica
from redis_kvpoll.protocol import keys
from tests.support import real
from tests.support.examining import HEALTHY, by_check, doctor_of, examine, raised, user_of
from tests.support.leasing import pass_time

NOTE, WARNING, PROBLEM, UNKNOWN = Level.NOTE, Level.WARNING, Level.PROBLEM, Level.UNKNOWN
BOOT, DONE = KVPoll.Bootstrapping, KVPoll.Success


def age_epoch(client, seconds):
    """Let the table's data have begun so much earlier."""
    micros, _, nonce = client.hget(keys.epoch("default"), "epoch").partition("-")
    client.hset(keys.epoch("default"), "epoch", f"{int(micros) - int(seconds * 1e6)}-{nonce}")


def restored_long_after(client, lease, seconds=100):
    """Let the lease, and the room that it restored, be older than the data."""
    fields = client.hgetall(keys.leases("default"))
    old, new = lease.incarnation, str(int(lease.incarnation) - int(seconds * 1e6))
    client.hset(keys.leases("default"), "prefill-0", fields["prefill-0"].replace(old, new, 1))


def evict_something(client):
    """Let the server evict keys that are not the table's: their TTL is the shortest.

    A server compares a sample of its keys. There are a hundred, so that no sample is without one of them.
    """
    client.mset({f"victim:{number}": "x" * 40_000 for number in range(100)})
    for number in range(100):
        client.expire(f"victim:{number}", 200)
    client.config_set("lazyfree-lazy-eviction", "no")  # else another key may go before its memory is free
    client.config_set("maxmemory-samples", 64)
    client.config_set("maxmemory-policy", "volatile-ttl")
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 100_000)
    client.ping()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 2**30)
    evicted = client.info("stats")["evicted_keys"]
    assert 0 < evicted == 100 - len(client.keys("victim:*"))


def lost_long_after_a_restart(world, server, lease, monkeypatch, lose):
    """Let owners lose their data again who are older than the server: they have survived its restart, too."""
    monkeypatch.setattr(losses, "RESTORE_SECONDS", -10.0)
    server = world.restart(server, *HEALTHY)
    lease.heartbeat()
    with server.client(decode_responses=True) as client:
        lose(client)
        lease.heartbeat()
        real.until(lambda: client.exists("kvpoll:{default}:room:2"), "restored")
        restored_long_after(client, lease)
    return server


class TestDataLoss:
    def test_flushed_table_with_living_owners_is_a_warning(self, server, client, lease, monkeypatch):
        monkeypatch.setattr(losses, "CLOSE_SECONDS", 0.0)
        client.flushall()
        lease.heartbeat()
        found = examine(server.tcp)["data_loss"]
        assert (found.level, "FLUSHALL once" in found.found) == (WARNING, True)
        assert "1 lease and 1 sampled room" in found.found
        assert "SLOWLOG GET" in found.advice

    def test_rooms_alone_show_that_data_was_lost(self, server, client, lease):
        client.flushdb()
        lease.heartbeat()
        assert "FLUSHDB once" in examine(server.tcp)["data_loss"].found

    def test_server_started_empty_under_owners_is_a_warning(self, world, server, lease):
        server = world.restart(server, *HEALTHY)
        lease.heartbeat()
        with server.client(decode_responses=True) as client:
            real.until(lambda: client.exists("kvpoll:{default}:room:2"), "restored")
            restored_long_after(client, lease)
        found = examine(server.tcp)["data_loss"]
        assert (found.level, "started anew, without it, and the table began anew at" in found.found) == (WARNING, True)
        assert "lost at" not in found.found
        assert "when and why did the server go down? See its log" in found.advice

    def test_flush_long_after_a_restart_is_a_flush(self, world, server, lease, monkeypatch):
        server = lost_long_after_a_restart(world, server, lease, monkeypatch, lambda client: client.flushall())
        assert "FLUSHALL once" in examine(server.tcp)["data_loss"].found

    def test_eviction_long_after_a_restart_is_an_eviction(self, world, server, lease, monkeypatch):
        def evict(client):
            evict_something(client)
            client.delete(*client.keys("kvpoll:*"))

        server = lost_long_after_a_restart(world, server, lease, monkeypatch, evict)
        assert "keys were evicted" in examine(server.tcp)["data_loss"].found

    def test_deletion_long_after_a_restart_is_no_restart(self, world, server, lease, monkeypatch):
        """The server counts neither DEL nor UNLINK: the cause is not known."""

        def delete(client):
            client.delete(*client.keys("kvpoll:*"))

        server = lost_long_after_a_restart(world, server, lease, monkeypatch, delete)
        found = examine(server.tcp)["data_loss"]
        assert "its keys are gone" in found.found
        assert "who deletes keys" in found.advice

    def test_long_replay_after_a_restart_is_a_restart(self, world, server, lease):
        """Of many rooms, the last are restored long after the start."""
        server = world.restart(server, *HEALTHY)
        lease.heartbeat()
        with server.client(decode_responses=True) as client:
            real.until(lambda: client.exists("kvpoll:{default}:room:2"), "restored")
            restored_long_after(client, lease)
            client.hset("kvpoll:{default}:room:2", "opened_ms", (client.time()[0] + 60) * 1000)
        assert "started anew" in examine(server.tcp)["data_loss"].found

    def test_flush_beside_evictions_names_both(self, server, client, lease):
        client.flushall()
        evict_something(client)
        lease.heartbeat()
        finding = examine(server.tcp)["data_loss"]
        assert "FLUSHALL once" in finding.found
        assert "evicted" in finding.found
        assert "who was it?" in finding.advice or "sent FLUSHALL" in finding.advice
        assert "CONFIG SET maxmemory-policy noeviction" in finding.advice

    def test_deleted_keys_have_no_known_cause(self, server, client, lease):
        client.delete(*client.keys("kvpoll:*"))
        lease.heartbeat()
        found = examine(server.tcp)["data_loss"]
        assert (found.level, "its keys are gone" in found.found) == (WARNING, True)

    def test_loss_of_long_ago_is_a_note(self, server, client, lease):
        client.flushall()
        lease.heartbeat()
        restored_long_after(client, lease, 10_000)
        age_epoch(client, 5000)
        client.delete("kvpoll:{default}:room:2")
        assert examine(server.tcp)["data_loss"].level is NOTE

    def test_table_that_began_after_a_flush_is_a_note(self, server, client):
        client.flushall()
        with StatusStore.from_url(server.tcp) as store:
            store.update_status(1, BOOT)
            found = examine(server.tcp)["data_loss"]
        assert (found.level, "it may have been dropped" in found.found) == (NOTE, True)
        assert "began at" not in found.found

    def test_table_of_plain_updates_has_no_known_beginning(self, server, store):
        """Only what opens a room, or takes a lease, notes when the data began."""
        store.update_status(1, BOOT)
        found = examine(server.tcp)["data_loss"]
        assert (found.level, "when the table began is not known" in found.found) == (Level.WELL, True)
        assert "began at" not in found.found
        store.open(2)
        assert "the table began at" in examine(server.tcp)["data_loss"].found

    def test_namespace_that_was_flushed_away_is_a_problem(self, server, client, store):
        store.update_status(1, BOOT)
        client.flushall()
        found = examine(server.tcp)["settings"]
        assert (found.level, "FLUSHALL once" in found.found) == (PROBLEM, True)
        assert "nobody has used it yet" in found.found
        assert "restart those that run" in found.advice

    def test_namespace_that_was_evicted_is_a_problem(self, server, client, store):
        store.update_status(1, BOOT)
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", 1)
        with contextlib.suppress(Exception):
            client.set("victim", "x", ex=1000)
        client.config_set("maxmemory", 2**30)
        client.config_set("maxmemory-policy", "noeviction")
        found = examine(server.tcp)["settings"]
        assert (found.level, "evicted" in found.found) == (PROBLEM, True)

    def test_namespace_that_nobody_used_is_a_warning(self, server):
        found = examine(server.tcp)["settings"]
        assert (found.level, "nobody has used it" in found.found) == (WARNING, True)
        assert "connected" not in found.found

    def test_start_that_may_have_lost_a_namespace_is_named(self, server):
        """Restarted empty, and no process is left: nothing but its uptime tells."""
        found = examine(server.tcp)["settings"]
        start = r"or its data is gone: the server was started [\d.]+ m?s ago, and what it held before is gone unless it"
        assert re.search(start, found.found)

    def test_loss_before_resetstat_is_not_denied(self, server, client, store, monkeypatch):
        """The counters were cleared: nothing shows that the namespace was in use, nor that it was not."""
        monkeypatch.setattr(losses, "RECENT_SECONDS", 0.0)  # else the start explains it
        store.update_status(1, BOOT)
        client.flushall()
        client.config_resetstat()
        open_now = len(client.client_list())
        found = examine(server.tcp)["settings"]
        assert (found.level, "or its data is gone" in found.found) == (WARNING, True)
        assert "no loss since its start" in found.found
        assert "or CONFIG RESETSTAT" in found.found
        assert f"{open_now} other clients are connected" in found.found
        assert "restart those that run" in found.advice


class TestReplica:
    @pytest.fixture
    def replica(self, world, server, client, lease):
        replica = world.serve(*HEALTHY, "--replicaof", "127.0.0.1", str(server.port))
        with replica.client() as eyes:
            real.until(lambda: eyes.info("replication").get("master_link_status") == "up", "linked")
            real.until(lambda: eyes.exists("kvpoll:{default}:room:2"), "copied")
        world.forget(replica)  # it cannot be emptied
        return replica

    def test_linked_replica_names_its_primary(self, server, replica):
        found = examine(replica.tcp)
        assert (found["role"].level, f"127.0.0.1:{server.port}" in found["role"].advice) == (PROBLEM, True)
        assert "since when it is a replica is in its log" in found["role"].advice
        assert found["leases"].level is Level.WELL

    def test_replica_without_its_primary_says_nothing_of_leases(self, world, server, replica, client):
        """Its data is old: the owners may be alive, and nobody can reap there."""
        pass_time(client, 1000)
        with replica.client(decode_responses=True) as eyes:
            record = client.hget(keys.leases("default"), "prefill-0")
            real.until(lambda: eyes.hget(keys.leases("default"), "prefill-0") == record, "copied")
            world.forget(server)
            server.stop()
            real.until(lambda: eyes.info("replication")["master_link_status"] == "down", "the link is down")
        found = examine(replica.tcp)
        assert "no link" in found["role"].found
        assert "REPLICAOF NO ONE" in found["role"].advice
        assert {found[name].level for name in ("leases", "stuck", "orphans", "leaks", "data_loss")} == {UNKNOWN}
        assert not [finding for finding in found.values() if "kvpoll reap" in finding.advice]

    def test_reader_learns_of_a_replica(self, server, replica):
        found = read_replica(replica.tcp, 60.0)
        assert (found.primary, found.is_linked) == (f"127.0.0.1:{server.port}", True)
        assert read_replica(server.tcp, 60.0) is None
        assert read_replica(f"redis://127.0.0.1:{real.free_port()}", 0.5) is None


class TestRefused:
    def test_refused_writes_are_counted_with_the_last(self, server, store, lease):
        doctor, handle = doctor_of(server.tcp), store.open(7)
        with StatusStore.from_url(server.tcp) as other:
            other.clear(7)
        doctor.examine()
        assert handle.update(DONE).outcome is Outcome.STALE
        found = by_check(doctor.examine())["refused"]
        assert found.level is NOTE
        assert "stale 1 refused" in found.found
        assert "room 7, from prefill-0" in found.found
        assert by_check(doctor.examine())["refused"].level is Level.WELL

    def test_flood_of_refused_writes_is_a_warning(self, server, client, store):
        store.update_status(1, BOOT)
        doctor = doctor_of(server.tcp)
        doctor.examine()
        client.hincrby(keys.refused("default"), "skipped", 1_000_000)
        client.expire(keys.refused("default"), 1000)
        found = by_check(doctor.examine())["refused"]
        assert (found.level, "skipped 1,000,000 refused" in found.found) == (WARNING, True)
        assert "It points at messages that come after the clear" in found.advice

    def test_refusals_beside_evictions_name_these_first(self, server, client, store):
        """A handle to an evicted room is STALE, though nobody sent a message late."""
        handle, doctor = store.open(7), doctor_of(server.tcp)
        doctor.examine()
        evict_something(client)
        client.delete("kvpoll:{default}:room:7")
        handle.update(DONE)
        findings = by_check(doctor.examine())
        assert "since when: writes to rooms that were gone (first at " in findings["evicted"].found
        found = findings["refused"]
        assert "It points at rooms and leases that were evicted under their owners (" in found.advice

    def test_settings_evicted_alone_come_back_after_the_policy(self, server, client, lease):
        evict_something(client)
        client.delete("kvpoll:{default}:settings")
        found = examine(server.tcp)["settings"]
        assert found.advice.startswith("first CONFIG SET maxmemory-policy noeviction")
        assert "; then a heartbeat of an owner writes them again" in found.advice


class TestMemory:
    def test_full_server_is_told_what_to_paste(self, server, client, store):
        store.update_status(1, BOOT)
        for number in range(100):
            client.set(f"ballast:{number}", "x" * 100_000, ex=1000)
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.98))
        found = examine(server.tcp)["memory"]
        assert found.level is PROBLEM
        assert "% of its keys are kvpoll's" in found.found
        assert found.advice.startswith("CONFIG SET maxmemory ")
        assert "if its host or pod has that much" in found.advice, "else it is killed"
        assert "--memkeys" in found.advice

    def test_heartbeat_tells_since_when_it_is_full(self, server, client, lease):
        client.config_set("maxmemory", 1)
        lease.heartbeat()
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.98))
        found = examine(server.tcp)["memory"]
        assert (found.level, "new rooms and leases are refused since" in found.found) == (PROBLEM, True)
        client.config_set("maxmemory", 2**30)
        found = examine(server.tcp)["memory"]
        assert (found.level, "it was full from" in found.found) == (NOTE, True)

    def test_without_heartbeats_the_logs_know_when(self, server, client, store):
        store.update_status(1, BOOT)
        client.config_set("maxmemory", 1)
        with contextlib.suppress(ServerRefusedError):
            store.update_status(2, BOOT)
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.98))
        assert "got OOM since the server's start; since when is in the logs" in examine(server.tcp)["memory"].found

    def test_full_server_of_ours_is_told_what_to_clear(self, server, client, store):
        store.update_many(dict.fromkeys(range(300), DONE))
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.98))
        assert "kvpoll clear -n default" in examine(server.tcp)["memory"].advice
        assert "kvpoll clear" not in examine(server.tcp, "gone")["memory"].advice

    def test_advice_clears_what_ended_a_minute_ago(self, server, client, store):
        """As it is written, and however many there are; what ended just now stays."""
        store.update_many(dict.fromkeys(range(1100), DONE))
        with client.pipeline(transaction=False) as calls:
            for room in range(1, 1100):
                calls.hincrby(f"kvpoll:{{default}}:room:{room}", "updated_ms", -60_000)
            calls.execute()
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.98))
        advice = examine(server.tcp)["memory"].advice
        words = advice[advice.index("kvpoll clear") :].split()[1:]
        result = CliRunner().invoke(kvpoll, [*words, "--redis", server.tcp], catch_exceptions=False)
        assert (result.exit_code, result.stdout) == (0, "Cleared 1,099 rooms of 1,099 that matched.\n")
        assert list(store.rooms()) == [0]


def test_smallest_user_sees_losses_too(server, client, lease):
    client.flushall()
    lease.heartbeat()
    restored_long_after(client, lease)
    with user_of(server, "--read-only") as url:
        found = examine(url)
    assert found["data_loss"].level is WARNING
    assert "memory" not in raised(found)
