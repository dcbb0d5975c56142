"""The user that ``kvpoll acl`` prints may do all that this library does, and nothing else.

All stores and commands of the other tests run as this user too (see support/servers.py).
"""

from __future__ import annotations

import contextlib
import re
import shlex
import uuid
from functools import cache

import pytest
import redis
from click.testing import CliRunner
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import NoPermissionError, ResponseError

from chaos.proxy import Proxy
from redis_kvpoll import InvalidInputError, KVPoll, ServerRefusedError, StatusStore
from redis_kvpoll.agent.client import open_channel
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.protocol import acl, keys, scripts
from redis_kvpoll.transport.embedded import EmbeddedServer
from tests.support import cluster, real
from tests.support.calls import DESTROYING, REPEATED, works
from tests.support.internals import calls_without_comments, make_touch_due
from tests.support.leasing import ManualLease
from tests.support.local_channel import open_local
from tests.support.servers import KINDS, program, why_absent
from tests.support.standin import joined, learn_servers, manager

REAL = [kind for kind in KINDS if kind != "fakeredis"]
FOR_ALL = {"auth", "hello", "quit", "reset"}
"""Commands that no rule can deny."""
CLUSTER_ONLY = {"exists", "cluster|slots", "asking", "command", "readonly"}
CONTAINERS = {
    "client": "caching getname getredir id info kill list no-evict pause reply setinfo setname tracking trackinginfo "
    "unblock unpause maint_notifications",
    "cluster": "addslots bumpepoch count-failure-reports countkeysinslot delslots failover flushslots forget "
    "getkeysinslot info keyslot links meet myid nodes replicas replicate reset saveconfig set-config-epoch setslot "
    "shards slaves slots",
}
"""Redis 6.2 does not list its subcommands; these are those of the rule's commands."""


def printed(*options):
    result = CliRunner().invoke(kvpoll, ["acl", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


@contextlib.contextmanager
def user(server, *options):
    """(name, password) of a user that the printed line made, as it is pasted."""
    name = f"try-{uuid.uuid4().hex[:8]}"
    with server.client() as client:
        line = printed("--user", name, *options).replace("PASSWORD", "pa55")
        assert client.execute_command(*shlex.split(line)) in (True, b"OK")
        try:
            yield name, "pa55"
        finally:
            client.execute_command("ACL", "DELUSER", name)


@contextlib.contextmanager
def connected(server, name, password):
    """Send raw commands over one connection of a user."""
    client = redis.Redis(port=server.port, username=name, password=password, protocol=2, driver_info=None)
    connection = client.connection_pool.get_connection()

    def send(*words):
        connection.send_command(*words, check_health=False)
        return connection.read_response()

    try:
        yield send
    finally:
        connection.disconnect()
        client.close()


@cache
def all_commands(kind):
    """{command or subcommand: its arity} of a server."""
    with real.shared(kind).client(protocol=2) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("COMMAND")
        found = connection.read_response()
        client.connection_pool.release(connection)
    commands = {}
    for name, arity, *rest in found:
        subcommands = rest[7] if len(rest) > 7 else []
        # A command with subcommands is not one by itself.
        commands |= {of.decode(): abs(many) for of, many, *_ in subcommands or [(name, arity)]}
    for container, names in CONTAINERS.items():
        if not any(name.startswith(f"{container}|") for name in commands):
            del commands[container]
            commands |= {f"{container}|{name}": 2 for name in names.split()}
    return commands


def is_allowed(command):
    return command in acl.commands() or command.partition("|")[0] in acl.commands()


class TestRule:
    def test_script_commands_are_read_from_source(self, monkeypatch):
        source = "-- redis.call('FLUSHALL')\nredis.call('ZADD', KEYS[1])\nlocal x = redis.pcall( 'HINCRBY', KEYS[2])"
        monkeypatch.setattr(scripts, "names", lambda: iter(["new"]))
        monkeypatch.setattr(scripts, "load", lambda name: scripts.Script(name, source, ""))
        assert acl.called() == {"zadd", "hincrby"}
        assert {"zadd", "hincrby", *acl.SENT} == set(acl.commands())

    def test_every_script_call_is_found(self):
        for name in scripts.names():
            calls, code = calls_without_comments(scripts.load(name).source)
            assert len(calls) == code.count("redis."), name

    def test_rule_has_no_duplicate_and_no_category(self):
        words = acl.rule(["prod", "prod-2", "prod"]).split()
        assert len(words) == len(set(words))
        assert not [word for word in words if "@" in word and word != "-@all"]

    @pytest.mark.parametrize("bad", ["", "a b", "a\n", "a'b", 'a"b', "ä", "a" * 65, "\0", None, 1, b"a", "\x1b[31m"])
    def test_user_name_that_needs_quotes_is_refused(self, bad):
        with pytest.raises(InvalidInputError, match="a user name is") as caught:
            acl.user_name(bad)
        assert str(caught.value).isprintable()

    BAD_NAMES = (["--user", "a b"], ["-n", "a b"], ["-n", ""], ["-n", "a", "-n", "a b"])
    BAD_DEPLOYMENTS = (["-n", "a" * 120, "--roles"], ["-n", "", "--roles"])

    @pytest.mark.parametrize("options", [*BAD_NAMES, *BAD_DEPLOYMENTS])
    def test_command_refuses_bad_name_and_prints_nothing(self, options):
        result = CliRunner().invoke(kvpoll, ["acl", *options], catch_exceptions=False)
        assert (result.exit_code, result.stdout) == (2, "")

    def test_rule_of_a_reader_has_a_user_of_its_own(self):
        assert [printed(*options).split()[2] for options in ((), ("--read-only",))] == ["kvpoll", "kvpoll-read"]

    def test_roles_need_a_deployment(self):
        result = CliRunner().invoke(kvpoll, ["acl", "--roles"])
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--roles needs -n NAME" in result.stderr

    @pytest.mark.parametrize(("name", "said"), [("prod-prefill", True), ("prod-decode", True), ("prod", False)])
    def test_name_of_a_table_is_no_deployment(self, name, said):
        result = CliRunner().invoke(kvpoll, ["acl", "-n", name, "--roles"])
        assert (result.exit_code, "takes -n prod\n" in result.stderr) == (0, said)


@pytest.mark.parametrize("kind", REAL)
class TestAllowed:
    @pytest.mark.parametrize("options", [(), ("--namespace", "prod")])
    @pytest.mark.parametrize("protocol", [2, 3])
    def test_store_works_without_acl_log_entry(self, world, kind, options, protocol):
        server = world.shared(kind)
        with user(server, *options) as (name, password), server.client() as client:
            client.execute_command("ACL", "LOG", "RESET")
            url = f"redis://{name}:{password}@127.0.0.1:{server.port}/1?protocol={protocol}&client_name=mine"
            works(world.open(url, namespace="prod", shards=3))
            store = world.open(url, namespace="prod", shards=3)
            store.update_status(1, 1)
            for _, call, _ in [*REPEATED.values(), *DESTROYING.values()]:
                call(store)
            store.update_status(1, KVPoll.Success)
            assert store.wait(1) is KVPoll.Success
            assert store.history(1)
            assert not client.execute_command("ACL", "LOG")

    def test_rule_matches_sent_commands(self, world, kind):
        """On one server; for the commands of a cluster see below."""
        server = world.shared(kind)
        with user(server) as (name, password), Proxy(server.socket) as proxy, server.client() as client:
            client.script_flush()
            url = f"redis://{name}:{password}@127.0.0.1:{proxy.port}/1?client_name=mine&protocol=3"
            with StatusStore.from_url(url) as store:
                assert store.settings() is None
                works(store)
                with store.mirror() as mirror:
                    mirror.wait(2, KVPoll.WaitingForInput)
                news = store.tail(1)
                next(news)
                store.update_status(7, 1)
                assert next(news).room == 7
                assert store.history(2)
                with store.statistics() as statistics:
                    real.until(lambda: statistics.snapshot().feeds, "the feed's size was read")
                held = ManualLease(store).take()
                store.update_status(8, 1)
                make_touch_due(held.keeper)
                assert not held.heartbeat().lost
                assert store.owners()[0].rooms == 1
                assert store.reap() == 0
                with server.client(db=1) as other:  # the data was lost, so the shard is verified
                    other.hset(keys.epoch("default"), "epoch", "1700000000000000-another")
                store.update_status(8, 2)
                assert store.get(8) is KVPoll.WaitingForInput
                held.release()
            sent = {sent_word(command) for command in proxy.commands}
        assert sent - {"auth"} == acl.SENT.keys() - CLUSTER_ONLY

    def test_both_roles_of_sglang_work(self, world, kind, monkeypatch):
        """Each role reads the other's failures; a rule for fewer namespaces than were given would not do."""
        server = world.shared(kind)
        name = f"roles-{uuid.uuid4().hex[:8]}"
        monkeypatch.setattr(open_channel, "open_channel", open_local)
        monkeypatch.setenv("KVPOLL_NAMESPACE", name)
        for options in (("-n", name, "--roles"), ("-n", f"{name}-prefill", "-n", f"{name}-decode")):
            with user(server, *options) as (user_name, password), server.client() as client:
                client.execute_command("ACL", "LOG", "RESET")
                url = f"redis://{user_name}:{password}@127.0.0.1:{server.port}/1"
                monkeypatch.setenv("KVPOLL_URL", url)
                with joined(manager(), manager("decode")) as (prefill, decode):
                    decode.request_status[7] = int(KVPoll.WaitingForInput)
                    learn_servers(decode, 7, prefill)
                    prefill.request_status[7] = int(KVPoll.Bootstrapping)
                    store = world.open(url, namespace=f"{name}-prefill")
                    real.until(lambda store=store: store.get(7) is not None, "prefill's room")
                    prefill.request_status[7] = int(KVPoll.Failed)
                    real.until(lambda decode=decode: decode.request_status[7] == KVPoll.Failed, "its failure on decode")
                denied = world.open(url, namespace=name)
                with pytest.raises(ServerRefusedError, match="NOPERM"):
                    denied.update_status(1, 1)
                assert all(name in str(entry) for entry in client.execute_command("ACL", "LOG"))

    def test_aclfile_line_works(self, kind, tmp_path):
        if program(kind) is None:
            pytest.skip(why_absent(kind))
        file = tmp_path / "users.acl"
        file.write_text(printed("--aclfile", "-n", "prod").replace("PASSWORD", "pa55") + "\n")
        with EmbeddedServer(program(kind), ["--aclfile", str(file)]) as server:
            with StatusStore.from_url(f"unix://kvpoll:pa55@{server.socket}", namespace="prod") as store:
                works(store)
            kvpoll_user = {"username": "kvpoll", "password": "pa55"}
            client = redis.Redis(unix_socket_path=str(server.socket), **kvpoll_user)
            with client, pytest.raises(NoPermissionError):
                client.get("kvpoll:{prod}:room:1")


def sent_word(command):
    """The name of a sent command in a rule."""
    first, *rest = b" ".join(command[:2]).decode().lower().split()
    return f"{first}|{rest[0]}" if first in CONTAINERS else first


def test_cluster_commands_are_in_rule(world):
    nodes = cluster.shared_in(world)
    for client in nodes.clients:
        client.config_resetstat()
    strategy = LoadBalancingStrategy.RANDOM_REPLICA
    over = redis.RedisCluster(host="127.0.0.1", port=nodes.nodes[0].port, load_balancing_strategy=strategy)
    with contextlib.closing(over), StatusStore(over, namespace="moving", deadline=60.0) as store:
        store.update_status(1, 1)
        nodes.start_moving("moving")
        try:
            assert store.get(2) is None  # it is not there: ASK
            assert list(store.rooms()) == [1]
        finally:
            nodes.finish_moving("moving")
    executed = set()
    for client in nodes.clients:
        stats = client.info("commandstats")
        executed |= {name.removeprefix("cmdstat_") for name, of in stats.items() if of["calls"]}
    assert executed >= CLUSTER_ONLY


@pytest.mark.parametrize("kind", REAL)
class TestDenied:
    def test_every_other_command_is_denied(self, kind):
        server = real.shared(kind)
        not_denied = []
        with user(server) as (name, password), connected(server, name, password) as send, server.client() as client:
            others = [c for c in all_commands(kind) if not is_allowed(c) and c not in FOR_ALL]
            assert len(others) > 150
            for command in others:
                words = command.split("|")
                words += ["1"] * (all_commands(kind)[command] - len(words))
                try:
                    answer = send(*words)
                except ResponseError as error:
                    if isinstance(error, NoPermissionError) or "NOPERM" in str(error):  # inside the error of an EXEC
                        continue
                    # From 7.0 on, DEBUG and MODULE LOAD are denied to every user before the rule is checked.
                    answer = client.execute_command("ACL", "DRYRUN", name, *words)
                    if b"no permissions" in answer:
                        continue
                not_denied.append((command, answer))
        assert not_denied == []

    def test_other_keys_are_denied(self, kind):
        """Also keys that a script does not declare."""
        server = real.shared(kind)
        foreign = [
            "other",
            "kvpoll:x",
            "kvpoll:prod:room:1",
            "xkvpoll:{prod}:room:1",
            "KVPOLL:{prod}:room:1",
            "kvpoll:{",
        ]
        of_others = [
            "kvpoll:{prod2}:room:1",
            "kvpoll:{pro}:feed",
            "kvpoll:{other}:settings",
            "kvpoll:{x}:{prod}:room:1",
        ]
        of_others += ["kvpoll:{prod:feed", "kvpoll:{prod.}:room:1", "kvpoll:{PROD}:room:1", "kvpoll:{other/prod}:feed"]
        own = ["kvpoll:{prod}:room:1", "kvpoll:{prod/7}:feed", "kvpoll:{prod}:settings", "kvpoll:{prod/1023}:prefix:5"]
        for options, denied, allowed in (
            ((), foreign, own + of_others[:3]),
            (("-n", "prod"), foreign + of_others, own),
        ):
            with user(server, *options) as (name, password), connected(server, name, password) as send:
                for key in denied:
                    for words in (
                        ("HGET", key, "status"),
                        ("XRANGE", key, "-", "+"),
                        ("XREAD", "STREAMS", key, "0"),
                        ("EVAL", "return redis.call('HGET', KEYS[1], 'status')", "1", key),
                        ("EVAL", "return redis.call('HSET', ARGV[1], 'status', 'x')", "0", key),
                        ("EVAL", "return redis.call('DEL', KEYS[1], ARGV[1])", "1", own[0], key),
                    ):
                        with pytest.raises(ResponseError, match=r"NOPERM|permissions|can't access|[Nn]o permission"):
                            send(*words)
                for key in allowed:
                    assert send("HGET", key, "status") is None

    def test_script_is_denied_other_commands(self, kind):
        server = real.shared(kind)
        with user(server) as (name, password), connected(server, name, password) as send:
            for call in (
                "'FLUSHALL'",
                "'SET', KEYS[1], 'x'",
                "'PUBLISH', 'x', 'y'",
                "'CONFIG', 'GET', '*'",
                "'KEYS', '*'",
            ):
                with pytest.raises(ResponseError, match=r"NOPERM|permissions|can't run|not allowed"):
                    send("EVAL", f"return redis.call({call})", "1", "kvpoll:{prod}:room:1")

    def test_other_namespace_is_refused_with_remedy(self, world, kind):
        server = world.shared(kind)
        with user(server, "-n", "prod") as (name, password), server.client() as client:
            store = world.open(f"redis://{name}:{password}@127.0.0.1:{server.port}", namespace="prod2")
            for call in (lambda: store.update_status(1, 1), lambda: store.settings(), lambda: store.clear(1)):
                with pytest.raises(ServerRefusedError, match=r"NOPERM.*kvpoll acl prints"):
                    call()
            assert client.dbsize() == 0

    def test_other_side_of_the_wrong_user_is_not_called_absent(self, world, kind):
        server = world.shared(kind)
        with (
            StatusStore.from_url(server.tcp, namespace="p-prefill") as prefill,
            StatusStore.from_url(server.tcp, namespace="p-decode") as decode,
            user(server, "-n", "p-prefill") as (name, word),
        ):
            prefill.update_status(7, 1)
            decode.update_status(7, 1)
            words = ["7", "--redis", f"redis://{name}:{word}@127.0.0.1:{server.port}", "-n", "p-prefill"]
            shown = CliRunner().invoke(kvpoll, ["show", *words], catch_exceptions=False).stdout
            assert "has no such room" not in shown
            assert re.search(r"p-decode: could not be read: .*NOPERM", shown), shown

    def test_command_that_a_reader_may_not_run_has_a_remedy(self, world, kind):
        """Inside a script, a server denies without the code NOPERM."""
        server = world.shared(kind)
        with StatusStore.from_url(server.tcp, namespace="prod") as store, user(server, "--read-only") as (name, word):
            store.update_status(7, 1)
            url = f"redis://{name}:{word}@127.0.0.1:{server.port}"
            for command in (["abort", "7"], ["clear", "7"], ["reap"]):
                shown = CliRunner().invoke(kvpoll, [*command, "--redis", url, "-n", "prod"], catch_exceptions=False)
                assert shown.exit_code == 1
                assert re.match(rf"Error: {command[0]}\b.*: NOPERM .*kvpoll acl prints", shown.stderr), shown.stderr

    def test_repeated_rule_replaces_rights_and_keeps_password(self, kind):
        server = real.shared(kind)
        with user(server) as (name, password), server.client() as client:
            client.execute_command("ACL", "SETUSER", name, "~*", "&*", "+@all")
            line = printed("--user", name, "-n", "prod").replace(" >PASSWORD", "")
            client.execute_command(*shlex.split(line))
            with connected(server, name, password) as send:
                assert send("HGET", "kvpoll:{prod}:room:1", "status") is None
                for words in (
                    ("FLUSHALL",),
                    ("GET", "kvpoll:{prod}:x"),
                    ("HGET", "other", "status"),
                    ("PUBLISH", "a", "b"),
                ):
                    with pytest.raises(NoPermissionError):
                        send(*words)


class TestHarness:
    @pytest.mark.parametrize("kind", REAL)
    def test_default_user_has_the_printed_rule(self, real_servers, kind):
        servers = [
            real_servers.get(kind),
            real.shared(kind),
            *([cluster.shared().nodes[1]] if kind == "valkey" else []),
        ]
        for server in servers:
            if server is None:
                pytest.skip(why_absent(kind))
            with server.store_client() as client, server.client() as harness:
                with pytest.raises(NoPermissionError):
                    client.get("kvpoll:{prod}:room:1")
                assert harness.acl_whoami() == "harness"

    def test_store_with_harness_user_is_an_error(self):
        with pytest.raises(AssertionError, match="store_client"):
            StatusStore(real.shared().client())
