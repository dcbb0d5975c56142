"""kvpoll doctor finds what is wrong with a server. Each test breaks a real one in just one way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

import pytest
import redis

from chaos.proxy import Proxy
from redis_kvpoll.doctor import sampling
from redis_kvpoll.doctor.findings import Level
from tests.support import real
from tests.support.examining import HEALTHY, Disguised, by_check, doctor_of, examine, live_table, raised, user_of

NOTE, WARNING, PROBLEM = Level.NOTE, Level.WARNING, Level.PROBLEM


@pytest.fixture
def server(world):
    """A healthy server with a live table."""
    server = world.serve(*HEALTHY)
    with live_table(server):
        yield server


@pytest.fixture
def admin(server):
    with server.client() as client:
        yield client


@pytest.fixture
def disguised(server):
    with Disguised(server) as proxy:
        yield proxy


def found_by(check, url, **options):
    """The finding of a check, after making sure that no other found anything."""
    found = examine(url, **options)
    assert raised(found) == {check}
    return found[check]


@pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
def test_healthy_server_has_no_finding(world, kind):
    server = world.serve(*HEALTHY, kind=kind)
    with live_table(server):
        found = examine(server.tcp)
    assert raised(found) == set()
    assert {name for name, finding in found.items() if finding.level is Level.UNKNOWN} == {"persistence"}


def test_healthy_server_has_nothing_unknown_for_an_admin(world):
    server = world.serve(*HEALTHY)
    with live_table(server), user_of(server, rule="+@all ~*") as url:
        found = examine(url)
    assert raised(found) == set()
    assert all(finding.level >= Level.WELL for finding in found.values()), found


@pytest.mark.parametrize(("delay", "level"), [(0.006, WARNING), (0.03, PROBLEM)])
def test_slow_network_is_a_finding_of_latency(server, delay, level):
    """The delay is added in both directions; a slow machine adds more."""
    with Proxy(server.port) as proxy:
        proxy.delay = delay
        found = examine(proxy.url)
    assert found["latency"].level >= level
    assert raised(found) == set()


@pytest.mark.parametrize(("name", "version"), [("valkey_version", "7.0.9"), ("valkey_version", "6.9.9")])
def test_old_server_is_a_problem(disguised, name, version):
    disguised.fields[name] = version
    found = found_by("server", disguised.url)
    assert (found.level, found.found.partition(",")[0], found.wanted) == (PROBLEM, f"Valkey {version}", "7.2 or newer")


def test_old_redis_is_a_problem(world):
    server = world.serve(*HEALTHY, kind="redis62")
    with live_table(server), Disguised(server) as proxy:
        proxy.fields["redis_version"] = "6.0.16"
        assert found_by("server", proxy.url).found.startswith("Redis 6.0.16")


def test_replica_is_a_problem_of_role(server, admin):
    admin.replicaof("127.0.0.1", port := real.free_port())
    found = examine(server.tcp)
    admin.replicaof("NO", "ONE")
    assert (found["role"].level, f"127.0.0.1:{port}" in found["role"].found) == (PROBLEM, True)
    assert "redis+sentinel://" in found["role"].advice


def test_eviction_policy_is_a_problem(server, admin):
    admin.config_set("maxmemory-policy", "allkeys-lru")
    found = found_by("eviction", server.tcp)
    assert (found.level, found.advice) == (PROBLEM, "CONFIG SET maxmemory-policy noeviction")
    assert "allkeys-lru with maxmemory 1.0 GB" in found.found


class TestOthersKeys:
    """What changes the whole server may cost those their data whose server it is."""

    @pytest.fixture
    def broken(self, server, admin):
        """Eviction, snapshots, and a user who sees both."""
        admin.config_set("maxmemory-policy", "allkeys-lru")
        admin.config_set("save", "3600 1")
        with user_of(server, rule="+config|get") as url:
            yield url

    @pytest.mark.parametrize(("check", "name"), [("eviction", "maxmemory-policy"), ("persistence", "save")])
    def test_command_for_the_whole_server_says_whose_it_is(self, admin, broken, check, name):
        assert examine(broken)[check].advice.startswith(f"CONFIG SET {name}")
        with admin.pipeline() as pipe:
            for number in range(1000):
                pipe.set(f"session:{number}", "theirs", ex=1000)
            pipe.execute()
        advice = examine(broken)[check].advice
        assert advice.startswith("most keys are others': give kvpoll a server of its own; or, if they agree: CONFIG")

    def test_server_whose_keys_nobody_may_list_is_named(self, server, admin, broken):
        admin.acl_setuser("eyes", enabled=True, commands=["-scan"])
        advice = examine(broken)["persistence"].advice
        assert advice.startswith("if only kvpoll uses this server: CONFIG SET save")


class TestMemory:
    def test_no_limit_is_a_note(self, server, admin):
        admin.config_set("maxmemory", 0)
        found = found_by("memory", server.tcp)
        assert (found.level, found.advice.partition(":")[0]) == (NOTE, "CONFIG SET maxmemory 1024mb")

    def test_limit_is_never_below_what_is_used(self, disguised):
        """Pasted, it would refuse each write, or evict what is above it."""
        disguised.fields |= {"maxmemory": "0", "used_memory": str(3 * 2**30)}
        assert found_by("memory", disguised.url).advice.startswith("CONFIG SET maxmemory 6144mb:")

    @pytest.mark.parametrize(("share", "level"), [(0.87, WARNING), (0.98, PROBLEM)])
    def test_nearly_full_server_is_found(self, server, admin, share, level):
        """The ballast makes what connections take small."""
        admin.setrange("ballast", 64 * 2**20, "x")
        admin.expire("ballast", 1000)
        admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] / share))
        assert found_by("memory", server.tcp).level is level

    def test_fragmentation_is_a_note(self, disguised):
        disguised.fields |= {"mem_fragmentation_ratio": "2.50", "used_memory_rss": str(200 * 2**20)}
        found = found_by("memory", disguised.url)
        assert (found.level, "2.5 times" in found.found) == (NOTE, True)

    def test_evicted_keys_are_a_warning(self, server, admin):
        admin.set("victim", "x", ex=1000)
        admin.config_set("maxmemory-policy", "allkeys-random")
        admin.config_set("maxmemory", 1)
        with contextlib.suppress(redis.ResponseError):
            admin.set("victim", "y", ex=1000)
        admin.config_set("maxmemory", 2**30)
        admin.config_set("maxmemory-policy", "noeviction")
        found = examine(server.tcp)["evicted"]
        assert (found.level, "CONFIG RESETSTAT when all owners are back" in found.advice) == (WARNING, True)
        assert "EvictionWarning" in found.found


class TestPersistence:
    def test_snapshots_are_a_note(self, server, admin):
        admin.config_set("save", "3600 1")
        with user_of(server, rule="+config|get") as url:
            found = found_by("persistence", url)
        assert (found.level, "(save 3600 1)" in found.found) == (NOTE, True)

    def test_snapshots_that_were_switched_off_are_well(self, server, admin):
        admin.save()
        assert int(admin.info("persistence")["rdb_saves"]) == 1
        with user_of(server, rule="+config|get") as url:
            assert examine(url)["persistence"].level is Level.WELL

    def test_aof_is_a_note_for_any_user(self, server, admin):
        admin.config_set("appendonly", "yes")
        real.until(lambda: not admin.info("persistence")["aof_rewrite_in_progress"], "it is written")
        assert "the AOF is on" in found_by("persistence", server.tcp).found
        admin.config_set("appendonly", "no")

    def test_disk_that_takes_nothing_is_a_problem(self, world, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        server = world.serve(*HEALTHY, "--dir", str(folder))
        with live_table(server), server.client() as admin:
            folder.rmdir()
            admin.bgsave()
            real.until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "saving fails")
            found = found_by("persistence", server.tcp)
            assert (found.level, "rdb_last_bgsave_status is err" in found.found) == (PROBLEM, True)
            assert "stays err until a BGSAVE succeeds" in found.advice
            with user_of(server, rule="+config|get") as url:
                admin.config_set("save", "3600 1")
                with pytest.raises(redis.ResponseError, match="MISCONF"):
                    admin.set("x", "y", ex=100)
                assert found_by("persistence", url).level is PROBLEM
                admin.config_set("save", "")
                admin.set("x", "y", ex=100)
                found = found_by("persistence", url)
            assert (found.level, "no write is refused" in found.found) == (NOTE, True)

    def test_failure_of_an_aof_that_is_off_is_none(self, disguised):
        disguised.fields["aof_last_write_status"] = "err"
        assert examine(disguised.url)["persistence"].level is Level.UNKNOWN
        disguised.fields["aof_enabled"] = "1"
        assert examine(disguised.url)["persistence"].level is PROBLEM

    def test_slow_fork_is_a_warning(self, disguised):
        disguised.fields["latest_fork_usec"] = "214000"
        found = examine(disguised.url)["fork"]
        assert (found.level, "214 ms" in found.found) == (WARNING, True)
        assert "CONFIG RESETSTAT clears the number" in found.advice

    def test_slow_fork_is_over_once_nothing_forks(self, server, disguised):
        disguised.fields["latest_fork_usec"] = "214000"
        with user_of(server, rule="+config|get") as url:
            there = url.replace(f":{server.port}", f":{disguised.port}")
            assert examine(there)["fork"].level is Level.WELL
            disguised.fields["connected_slaves"] = "1"
            found = examine(there)["fork"]
        assert (found.level, "synchronization of a replica" in found.advice) == (WARNING, True)

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_resetstat_clears_the_last_fork(self, world, kind):
        with world.serve(*HEALTHY, kind=kind).client() as admin:
            admin.bgsave()
            real.until(lambda: admin.info("stats")["latest_fork_usec"], "it has forked")
            admin.config_resetstat()
            assert admin.info("stats")["latest_fork_usec"] == 0


class TestClock:
    @pytest.mark.parametrize(("ahead", "level"), [(10, NOTE), (-10, NOTE), (100, WARNING)])
    def test_other_time_than_ours_is_found(self, disguised, ahead, level):
        disguised.clock_ahead = ahead
        found = examine(disguised.url)["clock"]
        assert found.level is level
        assert ("ahead of" if ahead > 0 else "behind") in found.found

    def test_clock_that_goes_back_is_a_problem(self, disguised):
        doctor = doctor_of(disguised.url)
        doctor.examine()
        disguised.clock_ahead = -30
        found = by_check(doctor.examine())["clock"]
        assert (found.level, "went back by" in found.found) == (PROBLEM, True)


class TestCalls:
    def test_refused_calls_during_the_look_are_a_warning(self, server, admin):
        doctor = doctor_of(server.tcp)
        doctor.examine()
        admin.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            admin.set("x", "y", ex=100)
        admin.config_set("maxmemory", 2**30)
        found = by_check(doctor.examine())
        assert raised(found) == {"errors"}
        assert (found["errors"].level, "1 OOM" in found["errors"].found) == (WARNING, True)
        assert raised(by_check(doctor.examine())) == set()

    def test_own_calls_are_no_finding(self, server, admin):
        """The first look makes the server load scripts, and each asks what the user is denied."""
        admin.script_flush()
        doctor = doctor_of(server.tcp)
        for _ in range(2):
            assert raised(by_check(doctor.examine())) == set()

    def test_look_without_an_end_makes_old_errors_no_new_ones(self, server, admin, monkeypatch):
        """The user may not call INFO when the first examination ends."""
        admin.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            admin.set("x", "y", ex=100)
        admin.config_set("maxmemory", 2**30)
        look_at = sampling.look_at

        def look_at_and_deny(*arguments):
            admin.acl_setuser("eyes", enabled=True, commands=["-info"])
            return look_at(*arguments)

        with user_of(server) as url:
            doctor = doctor_of(url)
            with monkeypatch.context() as denied:
                denied.setattr(sampling, "look_at", look_at_and_deny)
                assert by_check(doctor.examine())["acl"].found == "this user is denied INFO"
            admin.acl_setuser("eyes", enabled=True, commands=["+info"])
            assert by_check(doctor.examine())["errors"].level is Level.WELL

    def test_busy_script_is_a_problem(self, world):
        server = world.serve(*HEALTHY, "--lua-time-limit", "5")
        with server.client() as killer, server.client() as client:
            thread = threading.Thread(target=loop_forever, args=[client])
            thread.start()
            real.until(lambda: real.is_busy(killer), "it is busy")
            found = examine(server.tcp)
            killer.script_kill()
            thread.join()
        assert (found["busy"].level, "SCRIPT KILL" in found["busy"].advice) == (PROBLEM, True)
        assert raised(found) == {"busy"}

    def test_flushed_scripts_are_a_note(self, server, admin):
        doctor = doctor_of(server.tcp)
        doctor.examine()
        admin.script_flush()
        found = by_check(doctor.examine())
        assert raised(found) == {"scripts"}
        assert found["scripts"].level is NOTE

    def test_generated_scripts_are_a_warning(self, server, admin):
        for number in range(501):
            admin.script_load(f"return {number}")
        found = found_by("scripts", server.tcp)
        assert (found.level, "generates them" in found.found) == (WARNING, True)
        admin.script_flush()


def loop_forever(client):
    with contextlib.suppress(redis.ResponseError):
        client.eval("while true do end", 0)


class TestReplicas:
    def test_required_replica_is_a_warning(self, server, admin):
        admin.config_set("min-replicas-to-write", 1)
        found = examine(server.tcp)["replicas"]
        admin.config_set("min-replicas-to-write", 0)
        assert (found.level, "CONFIG SET min-replicas-to-write 0" in found.advice) == (WARNING, True)

    def test_sentinel_without_replica_is_a_note(self, server, tmp_path):
        with real.Sentinel(tmp_path, server.port) as sentinel:
            found = examine(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
        assert found["replicas"].level is NOTE

    def test_replica_that_stands_still_is_a_warning(self, server, admin, world):
        replica = world.serve("--replicaof", "127.0.0.1", str(server.port))
        real.until(lambda: admin.info("replication").get("slave0", {}).get("state") == "online", "it is in step")
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            real.until(lambda: admin.info("replication")["slave0"]["lag"] > 1, "it is late")
            found = examine(server.tcp)["replicas"]
        finally:
            os.kill(replica.pid, signal.SIGCONT)
            with replica.client() as client:
                client.replicaof("NO", "ONE")
        assert (found.level, f"127.0.0.1:{replica.port} is" in found.found) == (WARNING, True)


class TestClients:
    def test_many_connections_are_a_warning(self, server, admin):
        admin.config_set("maxclients", 20)
        with contextlib.ExitStack() as stack:
            for _ in range(14):
                client = stack.enter_context(server.client())
                client.ping()
            found = found_by("clients", server.tcp)
        assert (found.level, "of maxclients 20" in found.found) == (WARNING, True)

    def test_client_that_reads_nothing_is_a_warning(self, server, admin):
        admin.setrange("large", 16 * 2**20, "x")
        admin.expire("large", 1000)
        admin.execute_command("ACL", "SETUSER", "reader", "on", "nopass", "+get", "~large")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket))
            client.sendall(b"AUTH reader x\r\n" + b"GET large\r\n" * 6)
            real.until(
                lambda: admin.info("clients")["client_recent_max_output_buffer"] > 64 * 2**20, "its replies wait"
            )
            found = found_by("clients", server.tcp)
        assert (found.level, "replies wait" in found.found) == (WARNING, True)
