"""kvpoll doctor finds what is wrong with a table. Each test breaks a real one in just one way."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.doctor import permissions, sampling, table_look
from redis_kvpoll.doctor.facts import Expected
from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.protocol import acl
from tests.support import real
from tests.support.examining import (
    HEALTHY,
    Disguised,
    by_check,
    doctor_of,
    examine,
    live_table,
    raised,
    user_of,
)
from tests.support.leasing import ManualLease, now_ms, pass_time, reap_lost

NOTE, WARNING, PROBLEM = Level.NOTE, Level.WARNING, Level.PROBLEM
ROOM = "kvpoll:{default}:room:%d"


@pytest.fixture
def store(server):
    """The store of a live table in namespace default, with rooms 1 (plain) and 2 (opened)."""
    with live_table(server) as store:
        yield store


def found_by(check, server, **options):
    """The finding of a check, after making sure that no other found anything."""
    found = examine(server.tcp, **options)
    assert raised(found) == {check}
    return found[check]


def make_older(client, room, seconds, *fields):
    """Let a room's times be so many seconds ago."""
    for field in fields or ("opened_ms", "updated_ms"):
        client.hset(ROOM % room, field, now_ms(client) - 1000 * seconds)


class TestSettings:
    def test_absent_namespace_is_a_warning(self, server):
        found = found_by("settings", server, namespace="prod")
        assert (found.level, "namespace 'prod' not found" in found.found) == (WARNING, True)

    def test_name_of_the_deployment_leads_to_its_tables(self, server):
        with live_table(server, "prod-decode"):
            found = found_by("settings", server, namespace="prod")
        assert (found.level, found.advice) == (PROBLEM, "-n prod-decode")

    def test_table_beside_that_of_the_other_role_may_be_yet_to_come(self, server):
        with live_table(server, "prod-prefill"):
            found = found_by("settings", server, namespace="prod-decode")
        assert (found.level, found.advice) == (WARNING, "-n prod-prefill")

    @pytest.mark.parametrize(("name", "value"), [("policy", "strict"), ("shards", "4"), ("feed_length", "7")])
    def test_other_setting_than_expected_is_a_problem(self, server, store, name, value):
        found = found_by("settings", server, expected=Expected({name: value}))
        assert (found.level, f"not {value} as expected" in found.found) == (PROBLEM, True)

    def test_expected_settings_are_well(self, server, store):
        wanted = Expected({"policy": "compat", "shards": "1", "mode": "none", "feed_length": "100000", "schema": "3"})
        assert raised(examine(server.tcp, expected=wanted)) == set()

    @pytest.mark.parametrize(("schema", "advice"), [("4", "upgrade redis-kvpoll"), ("2", "an older version")])
    def test_other_schema_is_a_problem(self, server, store, client, schema, advice):
        client.hset("kvpoll:{default}:settings", "schema", schema)
        found = found_by("library", server)
        client.hset("kvpoll:{default}:settings", "schema", "3")
        assert (found.level, advice in found.advice) == (PROBLEM, True)

    def test_setting_that_nobody_writes_is_a_problem(self, server, store, client):
        client.hset("kvpoll:{default}:settings", "policy", "lax")
        found = found_by("settings", server)
        client.hset("kvpoll:{default}:settings", "policy", "compat")
        assert (found.level, "policy=lax" in found.found) == (PROBLEM, True)


class TestNamespaces:
    def test_other_deployment_is_a_note(self, server):
        with live_table(server, "prod-prefill"), live_table(server, "prod-decode"), live_table(server, "other"):
            found = found_by("namespaces", server, namespace="prod-prefill")
        assert (found.level, found.found) == (NOTE, "the server has other namespaces: other")

    def test_pair_of_a_deployment_is_well(self, server):
        with live_table(server, "prod-prefill"), live_table(server, "prod-decode"):
            assert raised(examine(server.tcp, "prod-prefill")) == set()

    def test_deployment_beside_its_tables_is_a_warning(self, server):
        with live_table(server, "prod-prefill"), live_table(server, "prod-decode"), live_table(server, "prod"):
            found = found_by("namespaces", server, namespace="prod-prefill")
        assert (found.level, "somebody uses prod itself" in found.found) == (WARNING, True)


class TestKeys:
    @pytest.mark.parametrize("key", [ROOM % 1, "kvpoll:{default}:epoch", "kvpoll:{default}:prefix:1"])
    def test_key_without_ttl_is_a_warning(self, server, store, client, key):
        store.set_decode_prefix_len(1, 5)
        client.persist(key)
        found = found_by("ttls", server)
        client.expire(key, 900)
        assert (found.level, key in found.found) == (WARNING, True)

    def test_old_prefix_without_a_room_is_a_warning(self, server, store, client):
        store.set_decode_prefix_len(77, 5)
        assert raised(examine(server.tcp)) == set(), "it may have come before its room"
        client.expire("kvpoll:{default}:prefix:77", 200)
        assert found_by("leaks", server).level is WARNING

    @pytest.mark.parametrize("ttl", [100.0, 9000.0])
    def test_prefix_is_old_by_the_ttl_of_its_table(self, server, client, ttl):
        with StatusStore.from_url(server.tcp, ttl=ttl) as store:
            store.update_status(1, KVPoll.Bootstrapping)
            store.set_decode_prefix_len(77, 5)
            assert examine(server.tcp)["leaks"].level is Level.WELL
            client.expire("kvpoll:{default}:prefix:77", int(0.3 * ttl))
            assert examine(server.tcp)["leaks"].level is WARNING

    def test_owned_room_that_is_gone_is_a_note(self, server, store, client):
        """It may have ended, and expired without a clear. Its owner's next touch drops the entry."""
        client.delete(ROOM % 2)
        found = found_by("leaks", server)
        assert (found.level, "1 of 1 sampled entries" in found.found) == (NOTE, True)

    @pytest.mark.parametrize("how", ["type", "status", "no status"])
    def test_room_that_nobody_writes_like_this_is_corrupt(self, server, store, client, how):
        if how == "type":
            client.set(ROOM % 9, "x", ex=1000)
        else:
            client.hset(ROOM % 9, "status" if how == "status" else "x", "Melted")
            client.expire(ROOM % 9, 1000)
        found = found_by("corrupt", server)
        assert (found.level, "kvpoll clear 9 -n default" in found.advice) == (WARNING, True)

    def test_foreign_and_odd_keys_are_left_alone(self, server, store, client):
        for key in ("kvpoll:x", "kvpoll:{default}:room:007", "kvpoll:{default}:room:", "kvpoll:{}:settings"):
            client.set(key, "x", ex=1000)
        client.set(b"kvpoll:{default}:room:\xff", "x", ex=1000)
        client.set(ROOM % 2**64, "x", ex=1000)
        assert raised(examine(server.tcp)) == set()

    def test_text_of_others_cannot_control_a_terminal(self, server, store, client):
        client.set("kvpoll:{default}:room:\x1b[31mred", "x")
        found = found_by("ttls", server)
        client.delete("kvpoll:{default}:room:\x1b[31mred")
        assert found.found.endswith(r"room:\x1b[31mred")

    def test_sample_is_bounded(self, server, store, monkeypatch):
        monkeypatch.setattr(sampling, "SAMPLE", 1000)
        store.update_many(dict.fromkeys(range(3, 3000), KVPoll.Success))
        found = examine(server.tcp)["ttls"].found
        assert found == "each of 1,000 sampled keys has one"


class TestRooms:
    @pytest.mark.parametrize(("seconds", "level"), [(90, WARNING), (400, PROBLEM)])
    def test_room_that_stands_still_is_stuck(self, server, store, client, seconds, level):
        make_older(client, 1, seconds)
        found = found_by("stuck", server)
        assert (found.level, "room 1 at Bootstrapping" in found.found) == (level, True)
        assert "decode has not asked" in found.advice

    def test_one_stuck_room_among_thousands_is_found(self, server, store, client):
        store.update_many(dict.fromkeys(range(1000, 4000), KVPoll.Bootstrapping))
        make_older(client, 1, 90)
        assert "room 1 at Bootstrapping" in found_by("stuck", server).found

    def test_rooms_beyond_the_sample_are_a_note(self, server, store, client, monkeypatch):
        store.update_many(dict.fromkeys(range(1000, 1500), KVPoll.Bootstrapping))
        assert examine(server.tcp)["stuck"].level is Level.WELL
        monkeypatch.setattr(sampling, "SAMPLE", 100)
        found = examine(server.tcp)["stuck"]
        assert (found.level, "there are more rooms" in found.found) == (Level.NOTE, True)
        assert "kvpoll ls -n default --stuck" in found.advice

    def test_ended_room_is_not_stuck(self, server, store, client):
        store.update_status(1, KVPoll.Success)
        make_older(client, 1, 5000)
        assert raised(examine(server.tcp)) == set()

    def test_old_room_without_an_owner_is_an_orphan(self, server, store, client):
        make_older(client, 1, 600, "opened_ms")
        found = found_by("orphans", server)
        assert (found.level, "room 1 for 10 min" in found.found) == (WARNING, True)

    def test_old_room_with_an_owner_is_well(self, server, store, client):
        client.hset(ROOM % 2, "opened", f"{now_ms(client) - 600_000}-0")
        assert raised(examine(server.tcp)) == set()


class TestLeases:
    def test_lease_that_nobody_looks_at_is_a_problem(self, server, store, client):
        pass_time(client, 1000)
        found = found_by("leases", server)
        assert (found.level, "no process has noticed" in found.found) == (PROBLEM, True)
        assert "See whether its process runs" in found.advice

    def test_lease_that_has_just_expired_is_no_finding(self, server, store, client):
        pass_time(client, 610)
        assert raised(examine(server.tcp)) == set()

    def test_suspected_owner_is_a_warning(self, server, store, client):
        pass_time(client, 1000)
        store.reap()
        found = found_by("leases", server)
        assert (found.level, "prefill-0 is suspected" in found.found) == (WARNING, True)

    def test_lost_owner_with_live_rooms_is_a_warning(self, server, store, client, monkeypatch):
        """The process that found it lost has died before it failed the rooms."""
        client.hdel("kvpoll:{default}:leases", "prefill-0")
        incarnation = client.hget("kvpoll:{default}:leases", "last incarnation")
        client.hset("kvpoll:{default}:leases", f"lost {incarnation}", "owner prefill-0 lost")
        found = found_by("leases", server)
        assert (found.level, "lost, and 1 live room left" in found.found) == (WARNING, True)
        reap_lost(store, {incarnation: "owner prefill-0 lost"})
        found = found_by("leases", server)
        assert (found.level, "1 room failed" in found.found) == (WARNING, True)

    def test_two_processes_with_one_name_are_a_warning(self, server, store):
        store.clear(2)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                assert raised(examine(server.tcp)) == set(), "it may have been started again"
                ManualLease(stack.enter_context(StatusStore.from_url(server.tcp)), ttl=600.0).take()
            found = found_by("leases", server)
        assert (found.level, "stop all but one" in found.advice) == (WARNING, True)


class TestInstances:
    def test_missing_instance_is_a_problem(self, server):
        with contextlib.ExitStack() as stack, server.client(decode_responses=True) as client:

            def open_in(name):
                namespace = f"prod-{name.partition('/')[0]}"
                return stack.enter_context(StatusStore.from_url(server.tcp, namespace=namespace))

            names = ["prefill/10.0.0.1:8998@10.0.0.1:4000/tp0", "prefill/10.0.0.1:8998@10.0.0.1:4001/tp1"]
            names += ["prefill/10.0.0.2:8998@10.0.0.2:4000", "decode/10.0.0.9:30000@10.0.0.9:4000"]
            leases = [ManualLease(open_in(name), name, ttl=600.0).take() for name in names]
            for name in ("prod", "prod-decode"):
                wanted = Expected(instances={"prefill": 2, "decode": 1})
                assert examine(server.tcp, name, expected=wanted)["instances"].level is Level.WELL
            pass_time(client, 1000, ["prod-prefill"])
            leases[0].heartbeat()
            found = examine(server.tcp, "prod-decode", expected=wanted)["instances"]
        assert found.level is PROBLEM
        assert found.found == "1 of 2 prefill (missing: prefill/10.0.0.2:8998; there: prefill/10.0.0.1:8998)"
        assert found.advice.startswith("start it, or see its log for lines of redis_kvpoll; ")

    def test_several_missing_instances_are_several(self, server):
        with live_table(server, "prod-prefill"), live_table(server, "prod-decode"):
            wanted = Expected(instances={"prefill": 1, "decode": 1})
            found = examine(server.tcp, "prod-prefill", expected=wanted)["instances"]
        assert found.advice == (
            "start them, or see their logs for lines of redis_kvpoll; without KVPOLL_URL they run without the table"
        )

    def test_table_that_the_user_may_not_read_is_not_known(self, server):
        options = ("-n", "prod-prefill")
        with live_table(server, "prod-prefill"), live_table(server, "prod-decode"), user_of(server, *options) as url:
            for role, level in (("prefill", PROBLEM), ("decode", Level.UNKNOWN)):
                wanted = Expected(instances={role: 1})
                assert examine(url, "prod-prefill", expected=wanted)["instances"].level is level


class TestFeed:
    def test_namespace_without_a_feed_is_a_note(self, server):
        with live_table(server, feed_length=0):
            assert found_by("feed", server).level is NOTE

    def test_live_rooms_without_a_change_for_long_are_a_warning(self, server, store, client):
        with Disguised(server) as proxy:
            proxy.clock_ahead = 4000
            found = examine(proxy.url)["feed"]
        assert (found.level, "no change for" in found.found) == (WARNING, True)

    def test_feed_that_is_full_in_minutes_is_a_warning(self, server):
        with live_table(server, feed_length=100) as store, user_of(server, rule="-xlen") as limited:
            for _ in range(5):
                store.update_many(dict.fromkeys(range(1000, 2000), KVPoll.Bootstrapping))
                store.clear_many(range(1000, 2000))
            found = examine(server.tcp)["feed"]
            assert examine(limited)["feed"].level is Level.UNKNOWN
        assert (found.level, "KVPOLL_FEED_LENGTH" in found.advice) == (WARNING, True)

    def test_reader_that_cannot_keep_up_is_a_warning(self, server, store, monkeypatch):
        """It has time for one page only; the server's clock is ahead, so that the rest is old."""
        look_at = sampling.look_at

        def look_at_busy_table(*arguments):
            for room in range(1500):
                store.update_status(100 + room, KVPoll.Success)
            return look_at(*arguments)

        monkeypatch.setattr(table_look, "READ_SECONDS", 0.0)
        monkeypatch.setattr(sampling, "look_at", look_at_busy_table)
        with Disguised(server) as proxy:
            proxy.clock_ahead = 30
            found = examine(proxy.url)["feed_lag"]
        assert found.level is WARNING

    def test_lag_of_the_caller_is_used(self, server, store):
        doctor = doctor_of(server.tcp)
        assert by_check(doctor.examine(lag=2.5))["feed_lag"].level is WARNING
        assert by_check(doctor.examine(lag=0.4))["feed_lag"].level is Level.WELL


def keys_of(server):
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter(count=1000)}


@pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
class TestUser:
    def test_reader_of_one_namespace_is_enough(self, world, kind):
        server = world.serve(*HEALTHY, kind=kind)
        with live_table(server, "prod"), user_of(server, "--read-only", "-n", "prod") as url:
            before = keys_of(server)
            found = examine(url, "prod")
            assert keys_of(server) == before
        assert raised(found) == set()
        unknown = {name for name, finding in found.items() if finding.level is Level.UNKNOWN}
        assert unknown == {"persistence"}
        assert found["acl"].found == "this user may look, and not write"

    def test_later_looks_call_nothing_that_was_denied(self, world, kind):
        """Each denied call is an entry of ACL LOG, where an operator looks for intruders."""
        server = world.serve(*HEALTHY, kind=kind)
        with server.client() as admin:
            admin.flushall()  # then a look also wants to know who has flushed
            with live_table(server, "prod"), user_of(server, "--read-only", "-n", "prod") as url:
                doctor = doctor_of(url, "prod")
                first = by_check(doctor.examine())
                admin.acl_log_reset()
                again = by_check(doctor.examine())
                assert admin.acl_log() == []
                for check in ("acl", "persistence"):
                    assert again[check] == first[check]
                admin.acl_setuser("eyes", enabled=True, commands=["-hgetall"])
                assert by_check(doctor.examine())["acl"].found == "this user is denied HGETALL"

    def test_denied_command_is_a_problem(self, world, kind):
        server = world.serve(*HEALTHY, kind=kind)
        for command, option in (("xadd", ""), ("zrem", ""), ("hdel", ""), ("hgetall", "--read-only")):
            with live_table(server, "prod"), user_of(server, "-n", "prod", rule=f"-{command}") as url:
                found = examine(url, "prod")["acl"]
            assert (found.level, found.found) == (PROBLEM, f"this user is denied {command.upper()}")
            assert f"+{command} (" in found.advice
            assert option in found.advice

    def test_user_of_another_namespace_lacks_keys_and_no_command(self, world, kind):
        server = world.serve(*HEALTHY, kind=kind)
        for options in (("-n", "other"), ("-n", "other", "--read-only")):
            with live_table(server, "prod"), user_of(server, *options) as url, server.client() as admin:
                found = examine(url, "prod")["acl"]
                assert (found.level, found.found) == (PROBLEM, "this user is denied the keys of prod")
                words = found.advice.partition(" (")[0].replace("NAME", "eyes").split()
                admin.execute_command(*words)
                assert examine(url, "prod")["acl"].level is Level.WELL

    def test_user_without_any_right_gets_no_error(self, world, kind):
        server = world.serve(*HEALTHY, kind=kind)
        with live_table(server, "prod"), user_of(server, rule="-@all") as url:
            found = examine(url, "prod")
        assert raised(found) == {"acl"}
        assert found["reach"].level is Level.WELL


def test_every_command_of_the_rule_is_asked():
    assert {*permissions.CALLS, *permissions.NOT_ASKED, "eval", "evalsha"} == set(acl.commands())


def test_table_on_a_replica_is_examined(server, store, client, world):
    replica = world.serve(*HEALTHY, "--replicaof", "127.0.0.1", str(server.port))
    with replica.client() as there:
        real.until(lambda: there.info("replication")["master_link_status"] == "up", "it is in step")
        assert raised(examine(replica.tcp)) == {"role"}
        there.replicaof("NO", "ONE")


def test_memory_url_is_examined():
    found = examine("memory://")
    assert raised(found) <= {"settings"}


def test_sharded_table_is_examined(server):
    with live_table(server, shards=5) as store:
        store.update_many(dict.fromkeys(range(10, 400), KVPoll.Success))
        assert raised(examine(server.tcp)) == set()
    with StatusStore.from_url(server.tcp) as reader:
        assert reader.settings().shards == 5
