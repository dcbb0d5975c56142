"""Which failures in the other role's table concern a room here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.integrations.sglang import peer_failures, peers
from redis_kvpoll.integrations.sglang.compat import identify
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support import local_channel, pace, real
from tests.support.standin import joined, learn_servers, manager, session_of

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711
FIRST, SECOND = "prefill/10.0.0.1:8998@10.0.0.1:40000", "prefill/10.0.0.2:8998@10.0.0.2:40000"
TP0, TP1 = "prefill/h:8998/dp1/tp0@10.0.0.1:40000", "prefill/h:8998/dp1/tp1@10.0.0.2:40000"
OTHER_DP = "prefill/h:8998/dp0/tp1@10.0.0.3:40000"


@pytest.mark.parametrize(
    ("owner", "address", "instance"),
    [
        (FIRST, ("10.0.0.1", 40000), "prefill/10.0.0.1:8998"),
        (f"{TP1} rank 1", ("10.0.0.2", 40000), "prefill/h:8998/dp1"),
        ("prefill/fe80::1:8998@fe80::1:40000", ("fe80::1", 40000), "prefill/fe80::1:8998"),
        ("rank 1", None, None),
        ("somebody", None, None),
        (None, None, None),
    ],
)
def test_owner_name_has_address_and_instance(owner, address, instance):
    assert (peers.address_of(owner), peers.instance_of(owner)) == (address, instance)


def test_address_of_an_ipv6_host_matches_its_owner():
    name = peers.owner_name("prefill/fe80::1:8998", ["tp0"], "[fe80::1%eth0]", 1)
    infos = [{"rank_ip": "fe80::1", "rank_port": "1"}, {"rank_ip": "fe80::2"}]
    assert peers.servers_of(infos) == {peers.address_of(name)}


@pytest.mark.parametrize(
    ("failed_by", "owner", "concerned"),
    [
        (TP1, TP0, True),
        (f"{TP1} rank 1", TP0, True),
        (TP0, TP0, False),
        (OTHER_DP, OTHER_DP, False),
        (None, TP1, True),
        (None, TP0, True),
        ("rank 0", TP0, True),
        (None, OTHER_DP, False),
        (None, None, False),
    ],
    ids=["served by", "rank served by", "sibling", "other dp", "by hand", "of sibling", "no name", "of other", "none"],
)
def test_failure_concerns_its_author_or_instance(failed_by, owner, concerned):
    """This rank is served by tp1; a sibling's failure comes from the decode rank that the sibling serves."""
    assert peers.concerns(failed_by, owner, {("10.0.0.2", 40000)}, [TP0, TP1, OTHER_DP]) is concerned


STAGE, NO_STAGE = "decode/h:1/tp0/pp1@10.0.0.2:40000", "decode/h:1/tp0@10.0.0.2:40000"


@pytest.mark.parametrize(
    ("owner", "failed_by", "reason", "is_passed_on"),
    [
        (STAGE, f"{STAGE} rank 1", "no route", True),
        (STAGE, None, "Aborted by hand: slow", False),
        (STAGE, f"{STAGE} rank 1", f"owner {STAGE} lost", False),
        (NO_STAGE, None, "Aborted by hand: slow", True),
        (NO_STAGE, f"{NO_STAGE} rank 1", f"owner {NO_STAGE} lost", True),
    ],
    ids=["own failure", "by hand", "lost lease", "one stage by hand", "one stage lost"],
)
def test_stages_of_decode_are_failed_by_their_own_failures_alone(owner, failed_by, reason, is_passed_on):
    """Prefill stops halfway: one stage may have its pages, and another not, so that their batches differ."""
    registry, failed = RoomRegistry(), []
    registry.statuses[ROOM] = MOVE
    number = registry.lives.number(ROOM)

    def fail(*found):
        failed.append(found)

    found = peer_failures.PeerFailures("decode", registry, lambda _: {peers.address_of(owner)}, print, fail)
    found.decide(ROOM, number, failed_by, owner, reason, [owner])
    assert bool(failed) is is_passed_on


@pytest.fixture
def table(url, monkeypatch):
    monkeypatch.setenv("KVPOLL_URL", url)
    monkeypatch.setenv("KVPOLL_NAMESPACE", "t")
    with StatusStore.from_url(url, namespace="t-prefill", policy="strict") as store:
        yield store


def until_status(store, room, status):
    real.until(lambda: store.get(room) is status, f"room {room} is {status!r}")


class TestRouterRetries:
    @pytest.fixture
    def trio(self, table):
        """The first try's prefill, the second try's, and the decode that the second one serves."""
        managers = manager(local_ip="10.0.0.1"), manager(local_ip="10.0.0.2"), manager("decode", local_ip="10.0.0.3")
        with joined(*managers):
            yield managers

    def test_first_instances_timeout_leaves_the_second_try(self, table, trio):
        first, second, decode = trio
        first.request_status[ROOM] = BOOT
        until_status(table, ROOM, KVPoll.Bootstrapping)
        decode.request_status[ROOM] = WAIT
        learn_servers(decode, ROOM, second)
        second.request_status[ROOM] = BOOT
        second.request_status[ROOM] = MOVE
        first.failure_records[ROOM] = "timed out"
        first.request_status[ROOM] = FAIL
        until_status(table, ROOM, KVPoll.Transferring)  # the second try has the room now
        assert table.entry(ROOM).owner == SECOND
        assert (decode.request_status[ROOM], second.request_status[ROOM]) == (WAIT, MOVE)
        assert decode.failure_records == {}
        second.failure_records[ROOM] = "no route"
        second.request_status[ROOM] = FAIL
        real.until(lambda: decode.request_status[ROOM] == FAIL, "its own prefill's failure arrives")
        assert decode.failure_records[ROOM] == "no route"

    def test_failure_before_servers_are_known_waits_for_them(self, table, trio):
        first, _, decode = trio
        first.request_status[ROOM] = first.request_status[ROOM + 1] = BOOT
        until_status(table, ROOM + 1, KVPoll.Bootstrapping)
        decode.request_status[ROOM] = decode.request_status[ROOM + 1] = WAIT
        learn_servers(decode, ROOM + 1, first)
        for room in (ROOM, ROOM + 1):
            table.abort(room, "wrong model")
        real.until(lambda: decode.request_status[ROOM + 1] == FAIL, "the abort arrives")
        assert decode.request_status[ROOM] == WAIT
        learn_servers(decode, ROOM, first)
        real.until(lambda: decode.request_status[ROOM] == FAIL, "the abort counts")

    def test_failure_that_is_read_before_the_room_is_told_counts(self, table, trio, monkeypatch):
        """It failed after SGLang had opened it."""
        first, _, decode = trio
        first.request_status[ROOM] = BOOT
        until_status(table, ROOM, KVPoll.Bootstrapping)
        monkeypatch.setattr(local_channel, "COALESCE_SECONDS", pace.seconds(0.3))
        decode.request_status[ROOM + 1] = WAIT  # the next message is told that much later
        real.until(lambda: session_of(decode).rooms.current_life(ROOM + 1), "the channel pauses")
        decode.request_status[ROOM] = WAIT
        learn_servers(decode, ROOM, first)
        table.abort(ROOM, "wrong model")
        real.until(lambda: decode.request_status[ROOM] == FAIL, "the abort counts")

    def test_failure_that_waits_ends_with_its_life(self, table, trio):
        first, _, decode = trio
        first.request_status[ROOM] = BOOT
        until_status(table, ROOM, KVPoll.Bootstrapping)
        decode.request_status[ROOM] = WAIT
        table.abort(ROOM, "wrong model")
        until_status(table, ROOM, KVPoll.Failed)
        real.until(lambda: ROOM in decode.kvpoll_worker._peer_failures._waiting, "decode knows of the abort")
        decode.request_status.pop(ROOM)
        decode.request_status[ROOM] = WAIT
        learn_servers(decode, ROOM, first)
        first.request_status[ROOM + 1] = decode.request_status[ROOM + 1] = BOOT
        learn_servers(decode, ROOM + 1, first)
        until_status(table, ROOM + 1, KVPoll.Bootstrapping)
        table.abort(ROOM + 1)
        real.until(lambda: decode.request_status[ROOM + 1] == FAIL, "a later abort arrives")
        assert decode.request_status[ROOM] == WAIT


def test_failure_of_a_rank_that_asks_later_counts(table, monkeypatch):
    """Prefill hears of decode's failure when only the other rank's message has come."""
    prefill = manager(transfer_infos={ROOM: {"0": asked_by(40000)}})
    ranks = [manager("decode", attn_tp_size=2, attn_tp_rank=rank, rank_port=40000 + rank) for rank in range(2)]
    with joined(prefill, *ranks):
        found, decided = prefill.kvpoll_worker._peer_failures, []
        decide = found.decide
        monkeypatch.setattr(found, "decide", lambda *words: decided.append(decide(*words)))
        prefill.request_status[ROOM] = WAIT
        for rank in ranks:
            rank.request_status[ROOM] = WAIT
        ranks[1].failure_records[ROOM] = "no route"
        ranks[1].request_status[ROOM] = FAIL
        real.until(lambda: decided, "prefill has decided on it")
        assert prefill.request_status[ROOM] == WAIT
        prefill.transfer_infos[ROOM]["1"] = asked_by(40001)
        real.until(lambda: prefill.request_status[ROOM] == FAIL, "the failure counts")
        assert prefill.failure_records[ROOM] == "no route"


def asked_by(port):
    """What prefill keeps of the message by which a process of decode asks for a room's pages."""
    return SimpleNamespace(endpoint="10.0.0.1", dst_port=port)


def test_name_for_people_has_no_address():
    identity = identify(manager(attn_tp_size=2, attn_tp_rank=1))
    assert (identity.name, peers.address_of(identity.owner)) == ("prefill/10.0.0.1:8998/tp1", ("10.0.0.1", 40000))
    assert peer_failures.for_people(f"owner {identity.owner} lost") == "prefill 10.0.0.1:8998/tp1 lost"
    assert peer_failures.for_people("mail a@b:1") == "mail a@b:1"
