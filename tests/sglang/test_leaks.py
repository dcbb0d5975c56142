"""Rooms that nobody would end, senders and receivers of one room, and what prefill hears of decode."""

from __future__ import annotations

import time

import pytest

from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.conftest import LEASE
from tests.sglang.deployment import Deployment, Worker, until
from tests.support import pace
from tests.support.real import free_port

REUSED = ["room reused while in use", False]
TIMEOUTS = 600.0
"""Seconds of SGLang's bootstrap and waiting timeouts together."""


class TestSecondReceiver:
    """``-room`` is the receiver that was there before: see Worker.reopen."""

    def test_second_receiver_fails_and_the_first_completes(
        self, with_plugin: Deployment, tables: dict[str, StatusStore]
    ) -> None:
        prefill, decode = with_plugin.pair()
        prefill.open(5)
        decode.open(5)
        decode.reopen(5)
        assert decode.poll(-5, 5) == [KVPoll.WaitingForInput, KVPoll.Failed]
        assert decode.fail(5) == REUSED
        decode.abort(5)
        decode.clear(5)
        assert decode.leftovers() == []
        decode.ask(-5)
        until(lambda: prefill.poll(5), [KVPoll.WaitingForInput])
        prefill.send(5)
        until(lambda: decode.poll(-5), [KVPoll.Success])
        assert decode.poll(5) == [KVPoll.Failed]
        decode.clear(-5)
        until(lambda: tables["decode"].get(5), None)

    def test_second_receiver_after_the_first_has_cleared_is_failed(self, with_plugin: Deployment) -> None:
        _, decode = with_plugin.pair()
        decode.open(5)
        decode.reopen(5)
        decode.clear(-5)
        assert decode.poll(5) == [KVPoll.Failed]
        assert decode.fail(5) == REUSED
        assert decode.get(5) == [None]

    def test_loss_of_the_seconds_prefill_leaves_the_first(self, with_plugin: Deployment) -> None:
        with_plugin.pair()
        _, decode = with_plugin.pair()
        decode.open(5)
        decode.reopen(5, "127.0.0.1:1")
        decode.lose_prefill("127.0.0.1:1")
        assert decode.get(5) == [KVPoll.WaitingForInput]


class TestSecondSender:
    """``-room`` is the sender that was there before."""

    def test_second_sender_fails_and_the_first_completes(
        self, with_plugin: Deployment, tables: dict[str, StatusStore]
    ) -> None:
        prefill, decode = with_plugin.pair()
        prefill.open(5)
        decode.open(5)
        prefill.reopen(5)
        assert prefill.poll(-5, 5) == [KVPoll.Bootstrapping, KVPoll.Failed]
        assert prefill.fail(5) == REUSED
        decode.ask(5)
        until(lambda: prefill.poll(-5), [KVPoll.WaitingForInput])
        prefill.send(5)
        prefill.abort(5)
        prefill.clear(5)
        assert prefill.leftovers() == []
        assert (prefill.prefix(5), prefill.prefix(-5)) == (0, 5)
        assert decode.get(5) == [KVPoll.WaitingForInput]
        prefill.send(-5)
        until(lambda: decode.poll(5), [KVPoll.Success])
        assert prefill.poll(5) == [KVPoll.Failed]
        prefill.clear(-5)
        until(lambda: tables["prefill"].get(5), None)

    def test_second_sender_after_the_first_has_cleared_is_failed(self, with_plugin: Deployment) -> None:
        prefill, _ = with_plugin.pair()
        prefill.open(5)
        prefill.reopen(5)
        prefill.clear(-5)
        assert prefill.poll(5) == [KVPoll.Failed]
        assert prefill.get(5) == [None]

    def test_sender_after_the_first_is_over_is_a_first(self, with_plugin: Deployment) -> None:
        prefill, _ = with_plugin.pair()
        prefill.open(5)
        prefill.clear(5)
        prefill.reopen(5)
        assert prefill.poll(5) == [KVPoll.Bootstrapping]


class TestDroppedSender:
    """SGLang aborts a request that waits or runs, and does not clear its room."""

    @pytest.fixture
    def prefill(self, with_plugin: Deployment, tables: dict[str, StatusStore]) -> Worker:
        prefill, _ = with_plugin.pair()
        prefill.open(5)
        until(lambda: tables["prefill"].get(5), KVPoll.Bootstrapping)
        prefill.drop(5)
        return prefill

    def test_its_room_ends_in_the_table(self, prefill: Worker, tables: dict[str, StatusStore]) -> None:
        """And on prefill, after both timeouts."""
        until(lambda: tables["prefill"].get(5), None)
        assert prefill.get(5) == [KVPoll.Failed]
        prefill.age_rooms(TIMEOUTS)
        until(lambda: prefill.get(5), [None])

    def test_next_sender_fails_and_the_third_is_a_first(self, prefill: Worker) -> None:
        prefill.open(5)
        assert prefill.fail(5) == ["Aborted by AbortReq.", False]
        prefill.open(5)
        assert prefill.poll(5) == [KVPoll.Bootstrapping]


class TestFormerReceiver:
    """A receiver whose room is over, and used again."""

    @pytest.fixture
    def pair(self, with_plugin: Deployment, tables: dict[str, StatusStore]) -> tuple[Worker, Worker]:
        prefill, decode = with_plugin.pair()
        decode.open(5)
        decode.record(5, "no route")
        decode.update(5, KVPoll.Failed)
        assert decode.fail(5) == ["no route", False]
        decode.reopen(5)
        assert decode.poll(5) == [KVPoll.WaitingForInput]
        until(lambda: tables["decode"].get(5), KVPoll.WaitingForInput)  # else prefill may hear of the former one's end
        return prefill, decode

    def test_its_second_clear_leaves_the_next_use(self, pair: tuple[Worker, Worker]) -> None:
        """SGLang clears a receiver that has failed again when its pages are released, and counts messages by room."""
        prefill, decode = pair
        prefill.open(5)
        decode.clear(-5)
        assert decode.poll(5) == [KVPoll.WaitingForInput]
        decode.ask(5)
        until(lambda: prefill.poll(5), [KVPoll.WaitingForInput])
        prefill.send(5)
        until(lambda: decode.poll(5), [KVPoll.Success])

    def test_loss_of_prefill_after_it_fails_the_next_use(self, pair: tuple[Worker, Worker]) -> None:
        """SGLang's heartbeat has the rooms of each instance in a table of its own."""
        _, decode = pair
        decode.clear(-5)
        decode.lose_prefill()
        assert decode.poll(5) == [KVPoll.Failed]

    def test_its_late_abort_leaves_the_next_use(self, pair: tuple[Worker, Worker]) -> None:
        _, decode = pair
        decode.abort(-5)
        assert decode.poll(5) == [KVPoll.WaitingForInput]
        assert decode.reason(5) is None


def test_init_of_a_cleared_receiver_opens_nothing(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    """It is aborted while it waits for prefill's address."""
    _, decode = with_plugin.pair()
    decode.open(5)
    decode.clear(5)
    decode.init(5)
    assert decode.get(5) == [None]
    decode.open(6)
    until(lambda: tables["decode"].get(6), KVPoll.WaitingForInput)
    assert tables["decode"].get(5) is None


class TestOrphans:
    @pytest.fixture
    def pair(self, with_plugin: Deployment) -> tuple[Worker, Worker]:
        """Decode has asked for rooms 5, 6 and 7, of which prefill has no sender."""
        prefill, decode = with_plugin.pair()
        decode.open(5, 6, 7)
        for room in (5, 6, 7):
            decode.ask(room)
        until(lambda: prefill.get(5, 6, 7), [KVPoll.WaitingForInput] * 3)
        return prefill, decode

    def test_room_without_sender_ends_after_both_timeouts(
        self, pair: tuple[Worker, Worker], tables: dict[str, StatusStore]
    ) -> None:
        prefill, decode = pair
        prefill.age_rooms(TIMEOUTS)
        until(lambda: prefill.get(5, 6, 7), [None] * 3)
        assert not prefill.has_transfer_info(5)
        until(lambda: any("3 rooms" in text and "had no sender" in text for text in prefill.logged(level="INFO")), True)
        assert tables["prefill"].get(5) is None
        decode.ask(5)
        until(lambda: prefill.get(5), [KVPoll.WaitingForInput])

    def test_room_that_may_be_written_stays(self, pair: tuple[Worker, Worker]) -> None:
        prefill, _ = pair
        prefill.set_outstanding(5, 1)
        prefill.poison(6)
        prefill.age_rooms(TIMEOUTS)
        until(lambda: prefill.get(7), [None])
        assert prefill.get(5, 6) == [KVPoll.WaitingForInput] * 2
        prefill.set_outstanding(5, 0)
        until(lambda: prefill.get(5), [None])

    def test_room_with_a_sender_stays(self, pair: tuple[Worker, Worker]) -> None:
        prefill, _ = pair
        prefill.open(5)
        prefill.age_rooms(TIMEOUTS)
        until(lambda: prefill.get(6, 7), [None, None])
        assert prefill.get(5) == [KVPoll.WaitingForInput]


class TestPrefillHears:
    @pytest.fixture
    def pair(self, with_plugin: Deployment, tables: dict[str, StatusStore]) -> tuple[Worker, Worker]:
        """Room 5 waits, 6 is complete; for 7 decode has not asked."""
        prefill, decode = with_plugin.pair()
        for worker in (prefill, decode):
            worker.open(5, 6, 7)
        for room in (5, 6):
            decode.ask(room)
        until(lambda: prefill.get(5, 6), [KVPoll.WaitingForInput] * 2)
        prefill.update(6, KVPoll.Success)
        for role in ("prefill", "decode"):
            until(lambda role=role: sum(tables[role].counts().values()), 3)
        return prefill, decode

    def test_death_of_decode_fails_its_rooms(
        self, with_plugin: Deployment, pair: tuple[Worker, Worker], tables: dict[str, StatusStore]
    ) -> None:
        prefill, decode = pair
        (other,) = with_plugin.start({"role": "decode", "port": free_port()}, port=prefill.port())
        assert other.learn()
        prefill.open(8)
        other.open(8)
        other.ask(8)
        until(lambda: prefill.get(8), [KVPoll.WaitingForInput])
        decode.kill()
        until(lambda: prefill.get(5), [KVPoll.Failed], LEASE + pace.seconds(2))
        time.sleep(LEASE / 2)  # time in which others would fail
        assert prefill.get(6, 7, 8) == [KVPoll.Success, KVPoll.Bootstrapping, KVPoll.WaitingForInput]
        assert prefill.reason(5).startswith("decode 127.0.0.1:")
        assert prefill.reason(5).endswith(" lost")
        until(lambda: tables["prefill"].get(5), KVPoll.Failed)

    def test_failure_on_decode_without_a_message_arrives(self, pair: tuple[Worker, Worker]) -> None:
        prefill, decode = pair
        for room in (5, 6, 7):
            decode.record(room, "Aborted by AbortReq.")
            decode.update(room, KVPoll.Failed)
        until(lambda: prefill.get(5), [KVPoll.Failed])
        assert prefill.reason(5) == "Aborted by AbortReq."
        assert prefill.get(6) == [KVPoll.Success]
        decode.ask(7)  # now prefill knows whose room it is
        until(lambda: prefill.get(7), [KVPoll.Failed])
