"""One process of SGLang on the table, with a stand-in for its manager. For the real one see tests/sglang."""

from __future__ import annotations

import gc
import itertools
import logging
import re
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from click.testing import CliRunner

from redis_kvpoll import AsyncStatusStore, KVPoll, StatusStore
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.publisher import OutboxPublisher
from redis_kvpoll.agent.table_member import StoreMember
from redis_kvpoll.agent.told import ToldRooms
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.integrations.sglang import install, register, settings, worker
from redis_kvpoll.integrations.sglang.compat import IncompatibleSGLangError, identify
from redis_kvpoll.integrations.sglang.maps import FailureRecords, PrefixLengths, StatusMap
from tests.support import pace, real
from tests.support.standin import OWNER, Manager, joined, learn_servers, manager

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


@pytest.fixture
def environment(monkeypatch):
    def put(url, **others):
        for name, value in {"URL": url, "NAMESPACE": "t", "LEASE": "1", **others}.items():
            monkeypatch.setenv(f"KVPOLL_{name}", str(value))

    return put


@pytest.fixture
def table(url, environment):
    """The prefill table, as an operator sees it."""
    environment(url)
    with StatusStore.from_url(url, namespace="t-prefill") as store:
        yield store


def no_thread(**_):
    raise RuntimeError("can't start new thread")


def until_entry_is(store, room, **wanted):
    """Wait until the table's entry of a room has these values."""

    def is_there():
        entry = store.entry(room)
        found = {name: getattr(entry, name, None) for name in wanted}
        return found == wanted

    real.until(is_there, f"room {room} is {wanted}")


class TestIdentity:
    @pytest.mark.parametrize(
        ("others", "owner", "rank", "world_size"),
        [
            ({}, "prefill/10.0.0.1:8998@10.0.0.1:40000", 0, 1),
            ({"attn_tp_size": 4, "attn_tp_rank": 3}, "prefill/10.0.0.1:8998/tp3@10.0.0.1:40000", 3, 4),
            (
                {"attn_tp_size": 2, "attn_tp_rank": 1, "pp_size": 3, "pp_rank": 2},
                "prefill/10.0.0.1:8998/tp1/pp2@10.0.0.1:40000",
                5,
                6,
            ),
            (
                {"attn_cp_size": 2, "attn_cp_rank": 1, "pp_size": 2},
                "prefill/10.0.0.1:8998/cp1/pp0@10.0.0.1:40000",
                1,
                4,
            ),
            ({"attn_dp_size": 2, "attn_dp_rank": 1}, "prefill/10.0.0.1:8998/dp1@10.0.0.1:40000", 0, 1),
            ({"system_dp_size": 2}, "prefill/10.0.0.1:8998/dp0@10.0.0.1:40000", 0, 1),
            (
                {"dist_init_addr": "10.0.0.9:5000", "local_ip": "10.0.0.10"},
                "prefill/10.0.0.9:8998@10.0.0.10:40000",
                0,
                1,
            ),
        ],
    )
    def test_prefill_process_has_owner_rank_and_world_size(self, others, owner, rank, world_size):
        identity = identify(manager(**others))
        assert (identity.owner, identity.rank, identity.world_size) == (owner, rank, world_size)

    def test_stages_of_one_pipeline_list_the_same_ranks(self):
        identities = [identify(manager(attn_tp_size=2, attn_tp_rank=1, pp_size=3, pp_rank=pp)) for pp in range(3)]
        assert {identity.stages for identity in identities} == {tuple(identity.rank for identity in identities)}

    @pytest.mark.parametrize(("args", "port"), [(30001, 30001), (None, 40000)])
    def test_decode_process_is_named_by_its_port(self, args, port):
        sglang = manager("decode")
        sglang.server_args.port = args
        assert identify(sglang).owner == f"decode/10.0.0.1:{port}@10.0.0.1:40000"

    @pytest.mark.parametrize(
        "others",
        [
            {"attn_tp_size": None},
            {"request_status": {1: BOOT}},
            {"failure_records": None},
            {"req_to_decode_prefix_len": []},
            {"disaggregation_mode": None},
        ],
    )
    def test_unexpected_attribute_is_incompatible(self, others):
        with pytest.raises(IncompatibleSGLangError):
            identify(manager(**others))


class TestSettings:
    def test_settings_without_url_are_none(self):
        assert settings.read({}) is None
        assert settings.read({"KVPOLL_URL": " ", "KVPOLL_LEASE": "nonsense"}) is None

    def test_setting_is_read_from_its_variable(self):
        found = settings.read({"KVPOLL_URL": "redis://r", "KVPOLL_LEASE": "2.5", "KVPOLL_SHARDS": "4"})
        assert (found.url, found.lease, found.shards, found.namespace) == ("redis://r", 2.5, 4, "default")
        assert found.options("decode")["namespace"] == "default-decode"

    @pytest.mark.parametrize(
        ("name", "text"),
        [("LEASE", "-1"), ("TTL", "soon"), ("FEED_LENGTH", "1.5"), ("JOIN", "nan"), ("LONG_HOLD", "yes")],
    )
    def test_invalid_value_is_reported_with_its_variable(self, name, text):
        with pytest.raises(Exception, match=f"KVPOLL_{name}"):
            settings.read({"KVPOLL_URL": "redis://r", f"KVPOLL_{name}": text})


class TestJoining:
    def test_joining_replaces_all_dicts(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            assert type(prefill.request_status) is type(decode.request_status) is StatusMap
            assert type(prefill.failure_records) is type(decode.failure_records) is FailureRecords
            assert type(prefill.req_to_decode_prefix_len) is PrefixLengths
            assert not hasattr(decode, "req_to_decode_prefix_len")
            assert [owner.name for owner in table.owners()] == [OWNER]
        assert table.owners() == []

    @pytest.mark.parametrize(
        ("url", "others", "why"),
        [
            ("redis://127.0.0.1:1/", {"JOIN": "0.3"}, "127.0.0.1:1|no answer within"),
            ("nonsense", {}, "URL .*must start with one of"),
            ("redis://127.0.0.1:1/", {"LEASE": "x"}, "KVPOLL_LEASE must be a number of seconds"),
            ("redis://127.0.0.1:1/", {"LEASE": "0.01"}, "KVPOLL_LEASE must be a number of seconds, at least 0.5"),
            ("redis://127.0.0.1:1/", {"NAMESPACE": "no spaces"}, "namespace"),
        ],
    )
    def test_failed_joining_replaces_nothing_and_logs_one_line(self, environment, caplog, url, others, why):
        environment(url, **others)
        sglang = manager()
        with joined(sglang):
            assert (
                type(sglang.request_status)
                is type(sglang.failure_records)
                is type(sglang.req_to_decode_prefix_len)
                is dict
            )
        (line,) = caplog.records
        assert line.levelno == logging.ERROR
        assert re.search(why, line.getMessage())
        assert line.getMessage().endswith("SGLang uses its own dicts until it is restarted")

    def test_namespace_mismatch_names_the_variable_to_change(self, environment, url, caplog):
        environment(url, SHARDS="2")
        with StatusStore.from_url(url, namespace="t-prefill", policy="strict") as store:
            store.update_status(1, KVPoll.Bootstrapping)
        sglang = manager()
        with joined(sglang):
            assert type(sglang.request_status) is dict
        (line,) = caplog.records
        assert "shards=1" in line.getMessage()
        assert "or set KVPOLL_SHARDS to that value" in line.getMessage()

    def test_incompatible_manager_leaves_server_untouched(self, table, caplog):
        sglang = manager(attn_tp_rank="0")
        with joined(sglang):
            assert type(sglang.request_status) is dict
        assert "attn_tp_rank" in caplog.text
        assert table.settings() is None

    def test_register_without_url_logs_at_debug_only(self, monkeypatch, caplog):
        monkeypatch.delenv("KVPOLL_URL", raising=False)
        caplog.set_level(logging.DEBUG, "redis_kvpoll")
        register()
        assert [record.levelname for record in caplog.records] == ["DEBUG"]

    def test_register_without_sglang_logs_one_error(self, environment, caplog):
        environment("redis://127.0.0.1:1/")
        register()
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    def test_ls_of_deployment_name_suggests_role_namespaces(self, table, url):
        listed = CliRunner().invoke(kvpoll, ["ls", "--redis", url, "-n", "t"])
        assert "-n" not in listed.output
        with joined(manager()):
            listed = CliRunner().invoke(kvpoll, ["ls", "--redis", url, "-n", "t"])
        assert "one namespace per role: -n t-prefill" in listed.output

    def test_teardown_leaves_the_table(self, table):
        ended = []
        sglang = manager(teardown=lambda: ended.append(1))
        with joined(sglang):
            sglang.teardown()
            assert ended == [1]
            real.until(lambda: table.owners() == [], "it has left")

    def test_teardown_keeps_no_thread_waiting(self, table, monkeypatch):
        """SGLang goes on in it. The end of the process waits, for what is pending."""
        may_end, ends = threading.Event(), []
        sglang = manager(teardown=lambda: None)
        with joined(sglang):
            client, close = sglang.kvpoll_worker.client, sglang.kvpoll_worker.client.close
            monkeypatch.setattr(client, "close", lambda: (may_end.wait(pace.seconds(20)), ends.append(1), close()))
            tearing = threading.Thread(target=sglang.teardown, daemon=True)
            tearing.start()
            tearing.join(pace.seconds(10))
            assert not tearing.is_alive()
            ending = threading.Thread(target=lambda: (sglang.kvpoll_worker.close(), ends.append(2)))
            ending.start()
            may_end.set()
            ending.join()
            assert ends == [1, 2]
            assert table.owners() == []

    @pytest.mark.parametrize("role", ["prefill", "decode"])
    def test_error_while_replacing_leaves_sglangs_dicts(self, table, caplog, monkeypatch, role):
        """As of a manager that is in another form than expected: it is SGLang's as before, and nothing is raised."""
        monkeypatch.setattr(install, "check_first_status", lambda *_: 1 / 0)
        sglang = manager(role, teardown=lambda: None, deferred_bootstrap=object())
        before = dict(vars(sglang))
        with joined(sglang):
            assert vars(sglang) == before
            threads = {"kvpoll-background", "kvpoll-table", "kvpoll-leave"}
            real.until(lambda: not threads & {thread.name for thread in threading.enumerate()}, "it has left")
        assert caplog.text.count("the status table is disabled: ZeroDivisionError") == 1
        assert table.owners() == []

    def test_teardown_without_a_free_thread_leaves_the_table(self, table, monkeypatch, caplog):
        sglang = manager(teardown=lambda: "SGLang's own")
        with joined(sglang):
            sglang.request_status[ROOM] = BOOT
            monkeypatch.setattr(worker, "threading", SimpleNamespace(Thread=no_thread))
            assert sglang.teardown() == "SGLang's own"
            real.until(lambda: table.owners() == [], "it has left")
        assert table.get(ROOM) is KVPoll.Failed
        assert caplog.text.count("leaves the table without waiting") == 1

    def test_manager_that_is_torn_down_is_forgotten(self, table):
        """Also by the thread in which its rooms fail, where it has one."""
        sglang = manager(teardown=lambda: None, deferred_bootstrap=object())
        gone = weakref.ref(sglang)
        with joined(sglang):
            assert "kvpoll-background" in {thread.name for thread in threading.enumerate()}
            sglang.teardown()
        del sglang
        real.until(lambda: gc.collect() and gone() is None, "it is forgotten")
        assert "kvpoll-background" not in {thread.name for thread in threading.enumerate()}


class TestOneLife:
    def test_statuses_and_length_reach_the_table(self, table):
        sglang = manager()
        with joined(sglang):
            sglang.request_status[ROOM] = BOOT
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping, owner=OWNER)
            sglang.req_to_decode_prefix_len[ROOM] = 17
            sglang.request_status[ROOM] = MOVE
            until_entry_is(table, ROOM, status=KVPoll.Transferring, decode_prefix_len=17)
            sglang.req_to_decode_prefix_len[ROOM] = 23  # with no change that it could go with
            until_entry_is(table, ROOM, status=KVPoll.Transferring, decode_prefix_len=23)
            sglang.request_status.pop(ROOM, None)
            real.until(lambda: table.entry(ROOM) is None, "it is cleared")

    def test_failure_reaches_the_table_with_its_reason(self, table):
        sglang = manager()
        with joined(sglang):
            sglang.request_status[ROOM] = BOOT
            sglang.failure_records[ROOM] = "no route"
            sglang.request_status[ROOM] = FAIL
            until_entry_is(table, ROOM, status=KVPoll.Failed, reason="no route")

    def test_abort_by_operator_reaches_both_sides(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            prefill.request_status[ROOM] = decode.request_status[ROOM] = BOOT
            learn_servers(decode, ROOM, prefill)
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            table.abort(ROOM, "wrong model")
            for sglang in (prefill, decode):
                real.until(lambda sglang=sglang: sglang.request_status[ROOM] == FAIL, "the failure arrives")
                assert sglang.failure_records[ROOM] == "wrong model"

    @pytest.mark.parametrize("role", ["prefill", "decode"])
    def test_failure_of_former_generation_fails_nothing(self, table, url, role):
        """Abort, clear, opened again, and only then is the entry read: of the own table, and of the other role's."""
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode), redis.Redis.from_url(url) as client:
            prefill.request_status[ROOM] = decode.request_status[ROOM] = BOOT
            learn_servers(decode, ROOM, prefill)
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            late = ["origin", "operator", "reason", "late"]
            client.execute_command("XADD", f"kvpoll:{{t-{role}}}:failed", "*", ROOM, 1_600_000_000_000_000, *late)
            client.execute_command("XADD", f"kvpoll:{{t-{role}}}:failed", "*", ROOM + 1, 1, *late)
            client.pexpire(f"kvpoll:{{t-{role}}}:failed", 60_000)
            # What is told later is read later.
            prefill.request_status[ROOM + 2] = decode.request_status[ROOM + 2] = BOOT
            learn_servers(decode, ROOM + 2, prefill)
            until_entry_is(table, ROOM + 2, status=KVPoll.Bootstrapping)
            table.abort(ROOM + 2, "wrong model")
            for sglang in (prefill, decode):
                real.until(lambda sglang=sglang: sglang.request_status[ROOM + 2] == FAIL, "the failure arrives")
                assert sglang.request_status[ROOM] == BOOT

    def test_process_reads_failures_alone(self, table, url, real_servers):
        """Neither the feed of its role nor the other's, and no room at its start."""
        with StatusStore.from_url(url, namespace="t-prefill", policy="strict") as early:
            early.update_many(dict.fromkeys(range(100), 1))
        with real_servers.get("valkey").client(decode_responses=True) as client, client.monitor() as monitor:
            with joined(manager(), manager("decode")):
                for number in range(20):
                    table.update_status(number, 3)
                table.abort(19)
                real.until(lambda: client.xlen("kvpoll:{t-prefill}:failed") > 1, "it is told")
            client.echo("the end")
            commands = (said["command"] for said in monitor.listen())
            said = list(itertools.takewhile(lambda command: command != "ECHO the end", commands))
        reads = {word for command in said if command.startswith("XREAD") for word in command.split() if ":f" in word}
        assert reads == {"kvpoll:{t-prefill}:failed", "kvpoll:{t-decode}:failed"}
        assert not [command for command in said if command.startswith("SCAN")]

    def test_abort_after_decode_success_changes_nothing(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            for room in (ROOM, ROOM + 1):
                prefill.request_status[room] = decode.request_status[room] = BOOT
                learn_servers(decode, room, prefill)
            decode.request_status[ROOM] = OK
            for room in (ROOM, ROOM + 1):
                until_entry_is(table, room, status=KVPoll.Bootstrapping)
                table.abort(room)
            real.until(lambda: decode.request_status[ROOM + 1] == FAIL, "the later one fails")
            assert decode.request_status[ROOM] == OK

    def test_room_busy_at_opening_is_published_later(self, table):
        sglang = manager()
        with joined(sglang):
            room = table.open(ROOM, request="another")
            sglang.request_status[ROOM] = BOOT
            sglang.request_status[ROOM] = WAIT
            room.clear()
            until_entry_is(table, ROOM, status=KVPoll.WaitingForInput, owner=OWNER)

    def test_reason_of_another_rank_is_returned(self, table, monkeypatch):
        monkeypatch.setattr(worker, "REASON_WAIT_SECONDS", 20.0)  # it returns with the reason, however slow that is
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
        with joined(*ranks):
            for sglang in ranks:
                sglang.request_status[ROOM] = BOOT
            real.until(lambda: table.collect(ROOM).keys() == {0, 1}, "both are published")
            ranks[1].failure_records[ROOM] = "rank 1 says no"
            ranks[1].request_status[ROOM] = FAIL
            ranks[0].request_status.pop(ROOM, None)  # after SGLang's own all-reduce, before any push
            assert ranks[0].failure_records.pop(ROOM, None) == "rank 1 says no"

    def test_room_reopened_before_other_rank_clears_waits(self, table):
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
        with joined(*ranks):
            for sglang in ranks:
                sglang.request_status[ROOM] = BOOT
                sglang.request_status[ROOM] = OK
            real.until(lambda: table.get(ROOM) is KVPoll.Success, "both have ended")
            generation = lambda: getattr(table.entry(ROOM), "generation", 0)  # noqa: E731
            first = generation()
            ranks[0].request_status.pop(ROOM)
            ranks[0].request_status[ROOM] = BOOT
            real.until(lambda: table.entry(ROOM).cleared, "one has cleared")
            ranks[1].request_status.pop(ROOM)
            real.until(lambda: generation() > first, "it is opened again")
            assert table.entry(ROOM).ranks == {0: KVPoll.Bootstrapping}


class TestFailureFromTable:
    """It goes through SGLang's own update_status, because more may hang on it."""

    def test_failure_of_a_room_runs_sglangs_update_status(self, table):
        class Notifies(Manager):
            def update_status(self, room, status):
                super().update_status(room, status)
                if status == FAIL:
                    self.notified.append((room, self.request_status.get(room), self.failure_records.get(room)))

        sglang = manager(kind=Notifies, notified=[])
        with joined(sglang):
            sglang.notified.clear()  # of the check at the start
            sglang.update_status(ROOM, BOOT)
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            table.abort(ROOM, "wrong model")
            real.until(lambda: sglang.notified, "it is notified")
        assert sglang.notified == [(ROOM, FAIL, "wrong model")]

    @pytest.fixture
    def sends(self, table):
        """A manager with the policy prefill_complete: a Failed is a message to a process that may be dead."""

        class Sends(Manager):
            def update_status(self, room, status):
                super().update_status(room, status)
                if room == ROOM and status == FAIL:
                    self.blocked.set()
                    self.go.wait()

        sglang = manager(kind=Sends, deferred_bootstrap=object(), blocked=threading.Event(), go=threading.Event())
        with joined(sglang):
            for room in (ROOM, ROOM + 1):
                sglang.update_status(room, BOOT)
                until_entry_is(table, room, status=KVPoll.Bootstrapping)
            yield sglang
            sglang.go.set()

    def test_update_status_that_blocks_delays_no_heartbeat(self, table, sends):
        table.abort(ROOM)
        assert sends.blocked.wait(pace.seconds(10))
        sends.update_status(ROOM + 1, WAIT)
        until_entry_is(table, ROOM + 1, status=KVPoll.WaitingForInput)

    def test_failure_is_published_after_its_message(self, table, sends):
        failing = threading.Thread(target=sends.update_status, args=(ROOM, FAIL), daemon=True)
        failing.start()
        assert sends.blocked.wait(pace.seconds(10))
        sends.update_status(ROOM + 1, WAIT)
        until_entry_is(table, ROOM + 1, status=KVPoll.WaitingForInput)
        assert table.get(ROOM) is KVPoll.Bootstrapping
        sends.go.set()
        until_entry_is(table, ROOM, status=KVPoll.Failed)
        failing.join()


class TestPublishing:
    @pytest.mark.parametrize(("is_open", "status"), [(False, WAIT), (True, MOVE)], ids=["at once", "later"])
    async def test_prefix_length_is_published_before_the_status(self, monkeypatch, is_open, status):
        """A reader of the status relies on the length."""
        statuses_before = []
        set_length = AsyncRoom.set_decode_prefix_len

        async def observed(room, length):
            statuses_before.append(await store.get(ROOM))
            await set_length(room, length)

        monkeypatch.setattr(AsyncRoom, "set_decode_prefix_len", observed)
        rooms = ToldRooms(lambda: None, lambda room, reason: None)
        first = RoomLife(1, is_new=True, status=BOOT) if is_open else RoomLife(1, is_new=True, status=status, length=17)
        async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
            publisher = OutboxPublisher(StoreMember(store, "a"), rooms, identify(manager()), lambda *_: None)
            publisher.resume()
            rooms.change(ROOM, first)
            await publisher.flush()
            if is_open:
                rooms.change(ROOM, RoomLife(1, status=status, length=17))
                await publisher.flush()
            entry = await store.entry(ROOM)
        assert statuses_before == [KVPoll.Bootstrapping]
        assert (entry.status, entry.decode_prefix_len) == (status, 17)


def test_documented_settings_have_their_defaults():
    text = (Path(__file__).parents[2] / "docs" / "sglang.md").read_text()
    rows = dict(re.findall(r"^\| `KVPOLL_(\w+)` \| `?([^|`]*)`? \|", text, re.MULTILINE))
    assert rows.keys() == {"URL", *settings.PARSERS}
    defaults = {name: getattr(settings.PluginSettings("none"), name.lower()) for name in rows}
    with StatusStore.from_url("memory://") as store:
        store.get(ROOM)
        adopted = store.settings()
    defaults |= {
        "SHARDS": adopted.shards,
        "FEED_LENGTH": adopted.feed_length,
        "PASSWORD_FILE": "none",
        "AGENT": "none",
        "LONG_HOLD": 1,
    }  # None adopts the namespace's, else its default
    assert rows == {name: str(value).removesuffix(".0") for name, value in defaults.items()}
