"""kvpoll doctor about owners that were lost, that share a name, or whose rooms are stuck, on a real server."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import KVPoll, LeaseLostError, StatusStore
from redis_kvpoll.doctor import owner_checks
from redis_kvpoll.doctor.facts import RoomFacts
from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.doctor.sample_checks import causes_of, end_command, owners_of
from redis_kvpoll.protocol import keys
from tests.support.examining import by_check, doctor_of, examine, live_table, status_of
from tests.support.leasing import ManualLease, begin_long_ago, die, pass_time

NOTE, WARNING, DONE = Level.NOTE, Level.WARNING, KVPoll.Success


class TestOwners:
    def test_lost_owner_is_a_warning_until_it_is_back(self, server, client, store):
        store.update_status(1, DONE)
        begin_long_ago(client)
        ManualLease(store).take()
        store.open(2)
        with StatusStore.from_url(server.tcp) as other:
            assert die(client, other) == 1
            findings = doctor_of(server.tcp).examine()
            found = by_check(findings)["leases"]
            assert (found.level, status_of(findings)) == (WARNING, 3)
            assert "prefill-0 was lost at" in found.found
            assert "1 room failed" in found.found
            back = ManualLease(other, ttl=600.0).take()
            found = examine(server.tcp)["leases"]
            assert (found.level, "it is back" in found.found) == (NOTE, True)
            back.release()

    def test_a_lost_owner_is_named_with_its_own_process(self, server, client, store):
        """And not the first by name with the process of the last."""
        begin_long_ago(client)
        with StatusStore.from_url(server.tcp) as other, StatusStore.from_url(server.tcp) as third:
            for room, (each, name) in enumerate([(store, "a"), (other, "z")]):
                lease = ManualLease(each, name).take()
                each.open(room)
                client.hset("kvpoll:{default}:leases", f"by {lease.incarnation}", f"host-{name}:1")
                assert die(client, third) == 1
            found = examine(server.tcp)["leases"]
            assert "z and 1 more were lost" in found.found
            assert "the log of host-z:1" in found.advice

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            ("prefill-0/tp1", "restart its whole instance"),
            ("prefill/10.0.0.1:8998/tp1@10.0.0.1:4", "restart its whole instance"),
            ("prefill-0/tpx", "start it again"),
            ("prefill/10.0.0.1:8998@10.0.0.1:4", "start it again"),
        ],
        ids=["rank", "rank of SGLang", "name like a rank", "no rank"],
    )
    def test_lost_rank_needs_its_whole_instance(self, server, client, store, name, advice):
        """A request cannot go on without one of its ranks, and SGLang does not take one back."""
        begin_long_ago(client)
        ManualLease(store, name).take()
        store.open(2)
        with StatusStore.from_url(server.tcp) as other:
            assert die(client, other) == 1
        assert f"{advice}; kvpoll owners" in examine(server.tcp)["leases"].advice

    def test_an_owner_that_is_back_says_how_often_it_was_lost(self, server, client, store, monkeypatch):
        """And which process is back: another one may have taken the name."""
        monkeypatch.setattr(owner_checks, "TURNS_RECENT", -1.0)  # else the turns of the name are what it says
        begin_long_ago(client)
        with StatusStore.from_url(server.tcp) as other, StatusStore.from_url(server.tcp) as third:
            for room, each in enumerate([store, other]):
                lost = ManualLease(each).take()
                client.hset("kvpoll:{default}:leases", f"by {lost.incarnation}", "host:8")
                each.open(room)
                assert die(client, third) == 1
            back = ManualLease(third, ttl=600.0).take()
            client.hset("kvpoll:{default}:leases", f"by {back.incarnation}", "host:7")
            found = examine(server.tcp)["leases"]
            assert "prefill-0 was lost 2 times, the last at" in found.found
            assert "it is back, as host:7" in found.found
            assert "if you did not start it again, two processes share the name" in found.advice
            client.hset("kvpoll:{default}:leases", f"by {back.incarnation}", "host:8")
            assert "it is the same process" in examine(server.tcp)["leases"].advice
            back.release()

    def test_former_process_that_still_wrote_is_a_warning(self, server, client, store):
        """It has left its lease when it was refused, so no heartbeat tells that it lives."""
        begin_long_ago(client)
        former = ManualLease(store, ttl=600.0).take()
        room = store.open(2)
        with StatusStore.from_url(server.tcp) as other:
            taker = ManualLease(other, ttl=600.0).take()
            for lease, process in ((former, "host:7"), (taker, "host:8")):
                client.hset("kvpoll:{default}:leases", f"by {lease.incarnation}", process)
            with pytest.raises(LeaseLostError):
                room.update(KVPoll.Transferring)
            found = examine(server.tcp)["leases"]
            assert (found.level, "the former process still wrote at" in found.found) == (WARNING, True)
            taker.release()

    def test_lost_owner_of_the_other_role_is_a_note(self, server, client):
        """The loss of a prefill fails requests of decode, too, whose operator looks at decode's table."""
        pair, tag = ("prod-prefill", "prod-decode"), "prod-prefill"
        stores = [StatusStore.from_url(server.tcp, namespace=name) for name in (*pair, tag)]
        with contextlib.ExitStack() as stack:
            prefill, decode, other = (stack.enter_context(store) for store in stores)
            decode.update_status(1, DONE)
            prefill.update_status(1, DONE)
            begin_long_ago(client, [tag])
            ManualLease(prefill).take()
            prefill.open(2)
            assert examine(server.tcp, "prod-decode")["leases"].level is Level.WELL
            for seconds in (10.0, 2.0):
                pass_time(client, seconds, [tag])
                other.reap()
            found = examine(server.tcp, "prod-decode")["leases"]
            assert (found.level, "in prod-prefill prefill-0 was lost at" in found.found) == (NOTE, True)
            assert "kvpoll doctor -n prod-prefill" in found.advice
            assert examine(server.tcp, "prod-prefill")["leases"].level is WARNING
            back = ManualLease(other, ttl=600.0).take()
            assert examine(server.tcp, "prod-decode")["leases"].level is Level.WELL
            back.release()

    def test_turns_of_a_name_are_a_warning_for_minutes(self, server, client, store, monkeypatch):
        with contextlib.ExitStack() as stack:
            for room in range(3):
                one = stack.enter_context(StatusStore.from_url(server.tcp))
                ManualLease(one, "dup-0", ttl=600.0).take()
                one.open(room)
            found = examine(server.tcp)["leases"]
            assert (found.level, "dup-0 took its lease 3 times" in found.found) == (WARNING, True)
            assert "and it is held now; 2 rooms failed" in found.found
            assert "stop all but one" in found.advice
            monkeypatch.setattr(owner_checks, "TURNS_RECENT", -1.0)
            assert examine(server.tcp)["leases"].level is not WARNING

    def test_turns_name_only_processes_of_the_last_minute(self, server, client, store):
        """One that was lost before is dead, or has another name by now."""
        with contextlib.ExitStack() as stack:
            taken = []
            for turn in range(4):
                one = stack.enter_context(StatusStore.from_url(server.tcp))
                taken.append(ManualLease(one, "dup-0", ttl=600.0).take().incarnation)
                client.hset(keys.leases("default"), f"by {taken[-1]}", f"host:{turn}")
            client.zincrby(keys.due("default"), -100_000, f"gone {taken[0]}")
            found = examine(server.tcp)["leases"]
        assert "dup-0 took its lease 4 times since" in found.found
        assert found.advice.startswith("host:1, host:2, host:3. ")

    def test_name_taken_from_a_living_process_is_a_warning(self, server, client, store, monkeypatch):
        """Once is enough: a heartbeat for a name that another process has taken proves that both live."""
        with StatusStore.from_url(server.tcp) as other:
            first, second = ManualLease(store, ttl=600.0).take(), None
            store.open(1)
            client.hset(keys.leases("default"), f"by {first.incarnation}", "host:1")
            second = ManualLease(other, ttl=600.0).take()
            client.hset(keys.leases("default"), f"by {second.incarnation}", "host:2")
            first.heartbeat()
            findings = doctor_of(server.tcp).examine()
            found = by_check(findings)["leases"]
            assert (found.level, status_of(findings)) == (WARNING, 3)
            assert "two processes use the name prefill-0: host:2 took its lease at" in found.found
            assert "while host:1 lived; 1 room failed" in found.found
            lost = next(owner for owner in store.owners() if owner.state == "lost")
            assert lost.contested_at > 1e9
            monkeypatch.setattr(owner_checks, "TURNS_RECENT", -1.0)
            assert examine(server.tcp)["leases"].level is NOTE

    def test_quick_restart_under_the_same_name_is_a_note(self, server, client, store):
        """The former process was dead, and sent no heartbeat any more."""
        with StatusStore.from_url(server.tcp) as other:
            ManualLease(store, ttl=600.0).take()
            store.open(1)
            ManualLease(other, ttl=600.0).take()
            assert examine(server.tcp)["leases"].level is NOTE

    def test_late_lease_beside_a_living_owner_is_said_so(self, server, client, store):
        """Whose lease is much longer, and who sweeps as rarely."""
        with StatusStore.from_url(server.tcp) as other:
            ManualLease(store, "a").take()
            living = ManualLease(other, "b", ttl=3000.0).take()
            pass_time(client, 100)
            found = examine(server.tcp)["leases"]
            living.release()
        assert (found.level, "a is without a heartbeat" in found.found) == (Level.PROBLEM, True)
        assert found.advice.startswith("an owner is alive: it sweeps within 16 min, or it hangs. See whether")

    def test_limit_is_said_where_no_room_is_stuck(self, server):
        with live_table(server):
            assert "60 s" in examine(server.tcp)["stuck"].found

    def test_stuck_room_names_its_owner_and_its_end(self, server, client, lease):
        client.hincrby("kvpoll:{default}:room:2", "updated_ms", -90_000)
        found = examine(server.tcp)["stuck"]
        assert "of prefill-0" in found.found
        assert "kvpoll abort 2 -n default" in found.advice
        assert "1 at" not in found.advice

    def test_stuck_rooms_are_counted_by_status(self, server, client, store, lease):
        with StatusStore.from_url(server.tcp) as other:
            other.update_status(3, KVPoll.Transferring)
        for room in (2, 3):
            client.hincrby(f"kvpoll:{{default}}:room:{room}", "updated_ms", -90_000)
        advice = examine(server.tcp)["stuck"].advice
        assert "1 at Bootstrapping (decode has not asked for it)" in advice
        assert "1 at Transferring (the network, or a peer that hangs)" in advice

    def test_owner_of_all_stuck_rooms_is_said_to_be_of_all(self):
        mine, other = (RoomFacts(room, True, KVPoll.Transferring, owner=f"prefill-{room}") for room in (0, 1))
        assert owners_of([mine]) == "of prefill-0"
        assert owners_of([mine, mine]) == "all of prefill-0"
        assert owners_of([mine, mine, other]).endswith(" (by owner: prefill-0 2, prefill-1 1)")


def test_room_is_ended_in_decodes_table_if_it_is_there():
    assert end_command(7, "prod") == "kvpoll abort 7 -n prod"
    assert end_command(7, "prod-decode") == "kvpoll abort 7 -n prod-decode"
    from_prefill = "kvpoll abort 7 -n prod-decode (if it is not live there: -n prod-prefill)"
    assert end_command(7, "prod-prefill") == from_prefill


def test_status_means_something_else_in_the_table_of_decode():
    """SGLang's decode is at WaitingForInput from a room's opening until Success."""
    for status, of_prefill, of_decode in (
        (KVPoll.Bootstrapping, "decode has not asked for it", "it waits for prefill's bootstrap server"),
        (KVPoll.WaitingForInput, "it waits in prefill's queue", "it waits for decode's memory, for prefill, or"),
    ):
        rooms = [RoomFacts(1, True, status)]
        assert causes_of(rooms, "prod-prefill") == of_prefill
        assert causes_of(rooms, "prod-decode").startswith(of_decode)
