"""Which request a room is for, and whose failures count for it."""

from __future__ import annotations

from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.deployment import Deployment, until
from tests.support.real import free_port


def request_of(store: StatusStore, room: int) -> str:
    until(lambda: store.entry(room) is not None, True)
    entry = store.entry(room)
    assert entry is not None
    return str(entry.request)


def test_request_id_of_each_side_is_in_its_table(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    prefill, decode = with_plugin.pair()
    assert prefill.admit(5, "rid-of-prefill") == "rid-of-prefill"
    assert decode.admit(5, "rid-of-decode") == "rid-of-decode"
    for role in ("prefill", "decode"):
        request, instance = request_of(tables[role], 5).split(" ")
        assert request == f"rid-of-{role}"
        assert instance.startswith(f"{role}/127.0.0.1:")
    decode.ask(5)
    until(lambda: prefill.poll(5), [KVPoll.WaitingForInput])


def test_ranks_of_a_request_share_its_room(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    port = free_port()
    processes = ({"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in (0, 1))
    ranks = with_plugin.start(*processes, port=port)
    for rank in ranks:
        rank.admit(5, "one rid")
    until(lambda: tables["prefill"].collect(5), {0: KVPoll.Bootstrapping, 1: KVPoll.Bootstrapping})
    assert request_of(tables["prefill"], 5).startswith("one rid ")


def test_rooms_without_request_id_have_requests_of_their_own(
    with_plugin: Deployment, tables: dict[str, StatusStore]
) -> None:
    prefill, _ = with_plugin.pair()
    prefill.open(5, 6)
    first, second = request_of(tables["prefill"], 5), request_of(tables["prefill"], 6)
    assert first != second
    assert first.startswith("prefill/127.0.0.1:")


def test_room_that_decode_opens_is_published_with_its_sender(
    with_plugin: Deployment, tables: dict[str, StatusStore]
) -> None:
    """Decode's message may come before the request: the room's first publication already has the request's id."""
    prefill, decode = with_plugin.pair()
    decode.open(5, 6)
    decode.ask(5)
    until(lambda: prefill.get(5), [KVPoll.WaitingForInput])
    prefill.open(6)
    until(lambda: tables["prefill"].get(6), KVPoll.Bootstrapping)  # later, and published
    assert tables["prefill"].get(5) is None
    prefill.admit(5, "late")
    assert prefill.poll(5) == [KVPoll.WaitingForInput]
    until(lambda: tables["prefill"].get(5), KVPoll.WaitingForInput)
    assert request_of(tables["prefill"], 5).startswith("late ")
    entry = tables["prefill"].entry(5)
    assert entry is not None
    assert entry.decode_prefix_len == 5


def test_second_try_of_a_router_survives_the_first(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    """The router tries a room and request with a second prefill instance; the first gives up minutes later."""
    first, _ = with_plugin.pair()
    first.admit(5, "rid")
    until(lambda: tables["prefill"].get(5), KVPoll.Bootstrapping)
    second, decode = with_plugin.pair()
    second.admit(5, "rid")
    decode.admit(5, "rid")
    decode.ask(5)
    until(lambda: second.poll(5), [KVPoll.WaitingForInput])
    second.update(5, KVPoll.Transferring)
    first.record(5, "timed out after 300 s in Bootstrapping")
    first.update(5, KVPoll.Failed)
    until(lambda: tables["prefill"].get(5), KVPoll.Transferring)  # the second try has the room in the table now
    assert decode.get(5) + second.get(5) == [KVPoll.WaitingForInput, KVPoll.Transferring]
    assert decode.reason(5) is None
    second.record(5, "no route")
    second.update(5, KVPoll.Failed)
    until(lambda: decode.get(5), [KVPoll.Failed])
    assert decode.fail(5)[0] == "no route"


def test_killed_first_try_leaves_the_second(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    first, _ = with_plugin.pair()
    first.open(5)
    until(lambda: tables["prefill"].get(5), KVPoll.Bootstrapping)
    second, decode = with_plugin.pair()
    for worker in (second, decode):
        worker.open(5)
    first.kill()
    until(lambda: str(getattr(tables["prefill"].entry(5), "owner", "")).split("@")[0], _name_of(second), 20.0)
    assert decode.get(5) + second.get(5) == [KVPoll.WaitingForInput, KVPoll.Bootstrapping]


def _name_of(worker: object) -> str:
    return next(
        text.rpartition(" ")[2]
        for _, _, text in worker.lines()  # type: ignore[attr-defined]
        if "joined the status table" in text
    )
