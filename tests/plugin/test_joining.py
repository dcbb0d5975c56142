"""How a process joins the table and leaves it, with a stand-in for its manager."""

from __future__ import annotations

import gc
import logging
import re
import threading
import weakref
from types import SimpleNamespace

import pytest
import redis
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.integrations.sglang import install, register, worker
from redis_kvpoll.integrations.sglang.maps import FailureRecords, PrefixLengths, StatusMap
from redis_kvpoll.protocol import keys
from tests.support import pace, real
from tests.support.own_threads import own_threads
from tests.support.standin import OWNER, joined, manager

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


def no_thread(**_):
    raise RuntimeError("can't start new thread")


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

    def test_stage_of_decode_leaves_its_requests_to_sglang(self, table, url, caplog):
        """SGLang's stages agree only that a request is over, and not how: a failure in the table could split them."""
        decode = manager("decode", pp_size=2, pp_rank=1)
        with joined(decode):
            decode.update_status(ROOM, WAIT)
            with StatusStore.from_url(url, namespace="t-decode") as store:
                real.until(lambda: store.get(ROOM) is not None, "the room is in the table")
                store.abort(ROOM, "wrong model")
                real.until(lambda: f"room {ROOM} goes on" in caplog.text, "the operator is told")
            assert decode.request_status[ROOM] == WAIT
            assert not hasattr(decode, "kvpoll_failures")

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

    def test_table_of_another_version_is_left_to_that(self, table, url, caplog):
        """Instances of that version may be running there: nobody is told to delete it."""
        with joined(manager()):
            assert table.settings()
        with redis.Redis.from_url(url) as client:
            client.hset(keys.settings("t-prefill"), "schema", "4")
        with joined(manager()):
            pass
        (line,) = [record.getMessage() for record in caplog.records]
        assert "has schema=4, which this version does not know; use the version that wrote it, or another" in line
        assert "KVPOLL_NAMESPACE" in line
        assert "delete" not in line

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
        assert " -n" not in listed.output  # the URL names a folder, by chance also with -n in it
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
            real.until(lambda: not own_threads("kvpoll-background", "kvpoll-table", "kvpoll-leave"), "it has left")
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
            assert own_threads("kvpoll-background")
            sglang.teardown()
        del sglang
        real.until(lambda: gc.collect() and gone() is None, "it is forgotten")
        assert not own_threads("kvpoll-background")
