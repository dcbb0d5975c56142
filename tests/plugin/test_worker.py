"""One process of SGLang on the table, with a stand-in for its manager; tests/sglang has the real one."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from redis_kvpoll import AsyncStatusStore, KVPoll, StatusStore
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.integrations.sglang import register, settings
from redis_kvpoll.integrations.sglang.compat import IncompatibleSGLangError, identify
from redis_kvpoll.integrations.sglang.dicts import FailureRecords, PrefixLengths, StatusMap
from redis_kvpoll.integrations.sglang.publisher import OutboxPublisher
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support import real
from tests.support.standin import joined, manager

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
    """The prefill side's table, as an operator sees it."""
    environment(url)
    with StatusStore.from_url(url, namespace="t-prefill") as store:
        yield store


def entry_is(store, room, **wanted):
    """Wait until the table has it so."""

    def look():
        entry = store.entry(room)
        found = {name: getattr(entry, name, None) for name in wanted}
        return found == wanted

    real.until(look, f"room {room} is {wanted}")


class TestPlace:
    @pytest.mark.parametrize(
        ("others", "owner", "rank", "world_size"),
        [
            ({}, "prefill/10.0.0.1:8998", 0, 1),
            ({"attn_tp_size": 4, "attn_tp_rank": 3}, "prefill/10.0.0.1:8998/tp3", 3, 4),
            ({"attn_tp_size": 2, "attn_tp_rank": 1, "pp_size": 3, "pp_rank": 2}, "prefill/10.0.0.1:8998/tp1/pp2", 5, 6),
            ({"attn_cp_size": 2, "attn_cp_rank": 1, "pp_size": 2}, "prefill/10.0.0.1:8998/cp1/pp0", 1, 4),
            ({"attn_dp_size": 2, "attn_dp_rank": 1}, "prefill/10.0.0.1:8998/dp1", 0, 1),
            ({"system_dp_size": 2}, "prefill/10.0.0.1:8998/dp0", 0, 1),
            ({"dist_init_addr": "10.0.0.9:5000", "local_ip": "10.0.0.10"}, "prefill/10.0.0.9:8998", 0, 1),
        ],
    )
    def test_of_a_prefill_process(self, others, owner, rank, world_size):
        identity = identify(manager(**others))
        assert (identity.owner, identity.rank, identity.world_size) == (owner, rank, world_size)

    def test_of_the_stages_of_one_pipeline(self):
        identities = [identify(manager(attn_tp_size=2, attn_tp_rank=1, pp_size=3, pp_rank=pp)) for pp in range(3)]
        assert {identity.stages for identity in identities} == {tuple(identity.rank for identity in identities)}

    @pytest.mark.parametrize(("args", "port"), [(30001, 30001), (None, 40000)])
    def test_of_a_decode_process(self, args, port):
        one = manager("decode")
        one.server_args.port = args
        assert identify(one).owner == f"decode/10.0.0.1:{port}"

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
    def test_what_is_not_as_we_know_it(self, others):
        with pytest.raises(IncompatibleSGLangError):
            identify(manager(**others))


class TestSettings:
    def test_without_a_url_there_are_none(self):
        assert settings.read({}) is None
        assert settings.read({"KVPOLL_URL": " ", "KVPOLL_LEASE": "nonsense"}) is None

    def test_each_has_its_variable(self):
        found = settings.read({"KVPOLL_URL": "redis://r", "KVPOLL_LEASE": "2.5", "KVPOLL_SHARDS": "4"})
        assert (found.url, found.lease, found.shards, found.namespace) == ("redis://r", 2.5, 4, "default")
        assert found.options("decode")["namespace"] == "default-decode"

    @pytest.mark.parametrize(
        ("name", "text"), [("LEASE", "-1"), ("TTL", "soon"), ("FEED_LENGTH", "1.5"), ("JOIN", "nan")]
    )
    def test_nonsense_is_named(self, name, text):
        with pytest.raises(Exception, match=f"KVPOLL_{name}"):
            settings.read({"KVPOLL_URL": "redis://r", f"KVPOLL_{name}": text})


class TestJoining:
    def test_all_of_it_is_swapped(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            assert type(prefill.request_status) is type(decode.request_status) is StatusMap
            assert type(prefill.failure_records) is type(decode.failure_records) is FailureRecords
            assert type(prefill.req_to_decode_prefix_len) is PrefixLengths
            assert not hasattr(decode, "req_to_decode_prefix_len")
            assert [owner.name for owner in table.owners()] == ["prefill/10.0.0.1:8998"]
        assert table.owners() == []

    @pytest.mark.parametrize(
        ("url", "others", "why"),
        [
            ("redis://127.0.0.1:1/", {"JOIN": "0.3"}, "127.0.0.1:1|no answer in time"),
            ("nonsense", {}, "nonsense"),
            ("redis://127.0.0.1:1/", {"LEASE": "x"}, "KVPOLL_LEASE is a number of seconds"),
            ("redis://127.0.0.1:1/", {"LEASE": "0.01"}, "KVPOLL_LEASE is a number of seconds, 0.5 at least"),
            ("redis://127.0.0.1:1/", {"NAMESPACE": "no spaces"}, "namespace"),
        ],
    )
    def test_or_nothing_with_one_line_that_says_why(self, environment, caplog, url, others, why):
        environment(url, **others)
        one = manager()
        with joined(one):
            assert type(one.request_status) is type(one.failure_records) is type(one.req_to_decode_prefix_len) is dict
        (line,) = caplog.records
        assert line.levelno == logging.ERROR
        assert re.search(why, line.getMessage())
        assert line.getMessage().endswith("SGLang runs on its own dicts until it is started again")

    def test_a_namespace_of_another_kind_is_named_with_the_variable_to_change(self, environment, url, caplog):
        environment(url, SHARDS="2")
        with StatusStore.from_url(url, namespace="t-prefill", policy="strict") as store:
            store.update_status(1, KVPoll.Bootstrapping)
        one = manager()
        with joined(one):
            assert type(one.request_status) is dict
        (line,) = caplog.records
        assert "shards=1" in line.getMessage()
        assert "or KVPOLL_SHARDS as it is there" in line.getMessage()

    def test_an_unknown_shape_is_no_reason_to_touch_the_server(self, table, caplog):
        one = manager(attn_tp_rank="0")
        with joined(one):
            assert type(one.request_status) is dict
        assert "attn_tp_rank" in caplog.text
        assert table.settings() is None

    def test_without_a_url_nothing_is_done(self, monkeypatch, caplog):
        monkeypatch.delenv("KVPOLL_URL", raising=False)
        caplog.set_level(logging.DEBUG, "redis_kvpoll")
        register()
        assert [record.levelname for record in caplog.records] == ["DEBUG"]

    def test_with_one_and_no_sglang_there_is_one_line(self, environment, caplog):
        environment("redis://127.0.0.1:1/")
        register()
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    def test_who_looks_by_the_deployment_s_name_is_told_those_of_the_roles(self, table, url):
        looked = CliRunner().invoke(kvpoll, ["ls", "--redis", url, "-n", "t"])
        assert "-n" not in looked.output
        with joined(manager()):
            looked = CliRunner().invoke(kvpoll, ["ls", "--redis", url, "-n", "t"])
        assert "a namespace for each role: -n t-prefill" in looked.output

    def test_a_change_of_roles_leaves(self, table):
        ended = []
        one = manager(teardown=lambda: ended.append(1))
        with joined(one):
            one.teardown()
            assert ended == [1]
            assert table.owners() == []


class TestOneLife:
    def test_the_table_has_what_sglang_has(self, table):
        one = manager()
        with joined(one):
            one.request_status[ROOM] = BOOT
            entry_is(table, ROOM, status=KVPoll.Bootstrapping, owner="prefill/10.0.0.1:8998")
            one.req_to_decode_prefix_len[ROOM] = 17
            one.request_status[ROOM] = MOVE
            entry_is(table, ROOM, status=KVPoll.Transferring, decode_prefix_len=17)
            one.request_status.pop(ROOM, None)
            real.until(lambda: table.entry(ROOM) is None, "it is cleared")

    def test_a_failure_has_its_reason(self, table):
        one = manager()
        with joined(one):
            one.request_status[ROOM] = BOOT
            one.failure_records[ROOM] = "no route"
            one.request_status[ROOM] = FAIL
            entry_is(table, ROOM, status=KVPoll.Failed, reason="no route")

    def test_an_operator_s_abort_comes_by_push_to_both_sides(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            prefill.request_status[ROOM] = decode.request_status[ROOM] = BOOT
            entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            table.abort(ROOM, "wrong model")
            for one in (prefill, decode):
                real.until(lambda one=one: one.request_status[ROOM] == FAIL, "it is told")
                assert one.failure_records[ROOM] == "wrong model"

    def test_what_decode_has_got_it_keeps(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            for room in (ROOM, ROOM + 1):
                prefill.request_status[room] = decode.request_status[room] = BOOT
            decode.request_status[ROOM] = OK
            for room in (ROOM, ROOM + 1):
                entry_is(table, room, status=KVPoll.Bootstrapping)
                table.abort(room)
            real.until(lambda: decode.request_status[ROOM + 1] == FAIL, "the later one is told")
            assert decode.request_status[ROOM] == OK

    def test_a_use_that_begins_while_another_has_the_room_is_told_in_time(self, table):
        one = manager()
        with joined(one):
            room = table.open(ROOM, request="another")
            one.request_status[ROOM] = BOOT
            one.request_status[ROOM] = WAIT
            room.clear()
            entry_is(table, ROOM, status=KVPoll.WaitingForInput, owner="prefill/10.0.0.1:8998")

    def test_a_reason_of_another_rank(self, table):
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
        with joined(*ranks):
            for one in ranks:
                one.request_status[ROOM] = BOOT
            real.until(lambda: table.collect(ROOM).keys() == {0, 1}, "both are there")
            ranks[1].failure_records[ROOM] = "rank 1 says no"
            ranks[1].request_status[ROOM] = FAIL
            ranks[0].request_status.pop(ROOM, None)  # told by SGLang's own all-reduce, before any push
            assert ranks[0].failure_records.pop(ROOM, None) == "rank 1 says no"

    def test_a_room_is_used_again_while_the_other_rank_has_not_cleared_it(self, table):
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
        with joined(*ranks):
            for one in ranks:
                one.request_status[ROOM] = BOOT
                one.request_status[ROOM] = OK
            real.until(lambda: table.get(ROOM) is KVPoll.Success, "both have ended")
            generation = lambda: getattr(table.entry(ROOM), "generation", 0)  # noqa: E731
            first = generation()
            ranks[0].request_status.pop(ROOM)
            ranks[0].request_status[ROOM] = BOOT
            real.until(lambda: table.entry(ROOM).cleared, "one has cleared")
            ranks[1].request_status.pop(ROOM)
            real.until(lambda: generation() > first, "it is opened anew")
            assert table.entry(ROOM).ranks == {0: KVPoll.Bootstrapping}


class TestTelling:
    @pytest.mark.parametrize(("is_open", "status"), [(False, WAIT), (True, MOVE)], ids=["at once", "later"])
    async def test_the_prefix_length_comes_before_its_status(self, monkeypatch, is_open, status):
        """Who sees the status takes the length."""
        before = []
        measure = AsyncRoom.set_decode_prefix_len

        async def measured(room, length):
            before.append(await store.get(ROOM))
            await measure(room, length)

        monkeypatch.setattr(AsyncRoom, "set_decode_prefix_len", measured)
        registry = RoomRegistry(lambda: None)
        async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
            publisher = OutboxPublisher(store, registry, "instance", lambda room: None)
            publisher.resume()
            if is_open:
                registry.statuses[ROOM] = BOOT
                publisher.see_to([ROOM])
                await publisher.finish()
            registry.lengths[ROOM] = 17
            registry.statuses[ROOM] = status
            publisher.see_to([ROOM])
            await publisher.finish()
            entry = await store.entry(ROOM)
        assert before == [KVPoll.Bootstrapping]
        assert (entry.status, entry.decode_prefix_len) == (status, 17)


def test_the_document_has_every_setting_with_its_default():
    text = (Path(__file__).parents[2] / "docs" / "sglang.md").read_text()
    rows = dict(re.findall(r"^\| `KVPOLL_(\w+)` \| `?([^|`]*)`? \|", text, re.MULTILINE))
    assert rows.keys() == {"URL", *settings.READERS}
    known = {name: getattr(settings.Settings("none"), name.lower()) for name in rows}
    with StatusStore.from_url("memory://") as store:
        store.get(ROOM)
        there = store.settings()
    known |= {
        "SHARDS": there.shards,
        "FEED_LENGTH": there.feed_length,
    }  # None in ours: what the namespace has, else its default
    assert rows == {name: str(value).removesuffix(".0") for name, value in known.items()}
