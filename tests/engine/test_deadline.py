"""How long a call may take, with margins that a slow machine does not use up."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time

import pytest
import redis

from chaos.proxy import Proxy
from redis_kvpoll import OutcomeUnknownError, StatusStore, StoreUnavailableError
from redis_kvpoll.aio import connections as async_connections
from redis_kvpoll.aio.connecting import AsyncConnector
from redis_kvpoll.sync import connections
from redis_kvpoll.sync.connecting import Connector
from redis_kvpoll.transport import tls_probe
from redis_kvpoll.transport.slot_map import CLUSTER_SLOTS, SlotMap
from tests.support import pace, real
from tests.support.calls import MARGIN, calls_may_take
from tests.support.internals import transport_of
from tests.support.own_threads import own_threads


@pytest.fixture
def server(world):
    return world.shared()


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


class TestDeadline:
    def timed(self, call, match):
        began = time.monotonic()
        with pace.Stopwatch() as took, pytest.raises(StoreUnavailableError, match=match) as caught:
            call()
        assert type(caught.value) is StoreUnavailableError
        assert took.seconds < MARGIN
        return time.monotonic() - began

    def test_stalled_server_fails_first_call_at_deadline(self, world, proxy):
        store = world.open(proxy.url, deadline=0.3)
        proxy.stalled = True
        took = self.timed(
            lambda: store.update_status(7, 1), r"^update_status of room 7: no answer within 0.3 s \(1 try"
        )
        assert took > 0.25

    def test_server_that_begins_to_stall_fails_at_deadline(self, world, proxy):
        deadline = pace.seconds(0.3)
        store = world.open(proxy.url, deadline=deadline)
        store.update_many({1: 1, 2: 1})
        proxy.stalled = True
        said = re.escape(f"poll of rooms 1, 2: no answer within {deadline:g} s (1 try")
        assert self.timed(lambda: store.poll([1, 2]), f"^{said}") > 0.25
        proxy.stalled = False
        assert store.poll([1, 2]) == [1, 1]

    def test_sent_clear_is_unknown_after_deadline(self, world, proxy):
        store = world.open(proxy.url, deadline=pace.seconds(0.3))
        with calls_may_take(store, 60.0):
            store.poll([1]), store.clear(1)
        proxy.stalled = True
        with pytest.raises(OutcomeUnknownError, match="clear of room 1: sent, but the reply was lost"):
            store.clear(1)

    def test_closed_port_is_retried_until_deadline(self, world):
        deadline = pace.seconds(0.3)
        store = world.open(f"redis://127.0.0.1:{real.free_port()}", deadline=deadline)
        said = f"clear of room 7: no answer within {deadline:g} s"
        self.timed(lambda: store.clear(7), rf"^{re.escape(said)} \([0-9]+ tr(y|ies); last: ")

    @pytest.mark.parametrize("url", ["redis://slow.invalid", "redis+sentinel://slow.invalid/main"])
    def test_hanging_name_lookup_fails_at_deadline(self, world, monkeypatch, url):
        """A DNS look-up takes no timeout: it hangs here until the call has given up."""
        hangs = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hangs.wait(60) and [])
        deadline = pace.seconds(0.3)
        store = world.open(url, deadline=deadline)
        try:
            self.timed(lambda: store.get(1), rf"^get of room 1: no answer within {re.escape(f'{deadline:g}')} s")
        finally:
            hangs.set()

    def test_each_step_of_slow_connecting_counts(self, world, proxy):
        """Its first reply takes more than half of the deadline, and so would the next: the call is never sent."""
        deadline = pace.seconds(1.0)
        proxy.delay = 0.35 * deadline  # there and back
        store = world.open(proxy.url, deadline=deadline)
        self.timed(lambda: store.get(1), r"^get of room 1: no answer within")
        assert not [command for command in proxy.commands if command[0].startswith((b"EVAL", b"HMGET"))]

    def test_connection_by_name_works_and_is_closed(self, world, server):
        store = world.open(server.tcp.replace("127.0.0.1", "localhost"))
        assert store.update_status(1, 1).changed
        real.until(lambda: not own_threads("kvpoll-connect"), "it has ended")

    def test_closed_connections_are_retried_until_deadline(self, world, proxy, monkeypatch):
        proxy.refusals = 10_000
        store = world.open(proxy.url, deadline=pace.seconds(0.3))
        self.timed(lambda: store.settings(), r"^settings of namespace 'default': no answer")
        real.at_the_second_pause(monkeypatch, lambda: setattr(proxy, "refusals", 0))
        with calls_may_take(store, 60.0):
            assert store.poll([1]) == [None]
        assert proxy.connections > 3

    def test_client_socket_timeout_gives_several_tries(self, world, proxy, monkeypatch):
        store = world.open(f"{proxy.url}?socket_timeout={pace.seconds(0.02)}", deadline=60.0)
        store.poll([1])
        proxy.stalled = True
        pauses = real.at_the_second_pause(monkeypatch, lambda: setattr(proxy, "stalled", False))
        assert store.poll([1]) == [None]
        assert len(pauses) >= 2

    def test_settings_check_and_call_share_deadline(self, world, proxy, monkeypatch):
        """A server that answers the first command late and the second never takes one deadline, not two."""
        deadline = 60.0
        store = world.open(proxy.url, deadline=deadline)
        limits = []
        transport = transport_of(store)
        perform = transport.perform
        now = [time.monotonic()]

        def late(effect):
            limits.append(getattr(effect, "timeout", None))
            if len(limits) == 1:
                now[0] += 0.75 * deadline
            return perform(effect)

        monkeypatch.setattr(transport, "perform", late)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        store.poll([1])
        assert limits[0] is None
        assert all(0 < limit < 0.3 * deadline for limit in limits[1:])

    @pytest.mark.parametrize("spec", ["redis+sentinel://{0},{1}/main", "redis+cluster://{0},{1}"])
    def test_stalled_sentinels_and_nodes_share_deadline(self, world, server, spec):
        with Proxy(server.socket) as one, Proxy(server.socket) as two:
            one.stalled = two.stalled = True
            url = spec.format(f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}")
            store = world.open(url, deadline=0.5)
            self.timed(lambda: store.clear(1), r"clear of room 1: no answer within 0.5 s")
        assert one.connections < 10  # each is asked once or twice, not ten times over


def test_connecting_counts_towards_timeout_of_blocking_call(monkeypatch):
    """In asyncio, one timeout stands around both."""
    deadline, late, clock = 60.0, [0.0], time.monotonic
    waits, connect, readable = [], Connector.connect, connections.readable

    def connect_late(*arguments):
        late[0] += 0.75 * deadline
        return connect(*arguments)

    monkeypatch.setattr(Connector, "connect", connect_late)
    monkeypatch.setattr(connections, "readable", lambda them, left: waits.append(left) or readable(them, left))
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late[0])
    with StatusStore.from_url(real.shared().tcp, deadline=deadline) as store:
        store.settings()
    assert 0 < waits[0] < 0.3 * deadline


def test_reading_slot_map_counts_towards_timeout_of_call(side, cluster, monkeypatch):
    deadline, late, clock = 60.0, [0.0], time.monotonic
    timeouts, learn = [], SlotMap.learn

    def learn_late(*arguments):
        late[0] += 0.75 * deadline
        return learn(*arguments)

    def recorded(perform):
        def record(pool, effect):
            if effect.words != CLUSTER_SLOTS:
                timeouts.append(effect.timeout)
            return perform(pool, effect)

        return record

    monkeypatch.setattr(SlotMap, "learn", learn_late)
    monkeypatch.setattr(connections.NodePool, "send", recorded(connections.NodePool.send))
    monkeypatch.setattr(async_connections.AsyncNodePool, "call", recorded(async_connections.AsyncNodePool.call))
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late[0])
    side.open(cluster.url, deadline=deadline).settings()
    assert timeouts[0] is not None
    assert 0 < timeouts[0] < 0.3 * deadline


def test_dead_address_of_a_host_takes_connect_timeout(monkeypatch):
    """The time limit of the URL is for one address, the deadline for all. asyncio connects to all within one limit."""
    server = real.shared()
    look_up, addresses = socket.getaddrinfo, ["127.0.0.9", "127.0.0.1"]

    def looked_up(host, port, *arguments, **options):
        if host != "two.test":
            return look_up(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server((addresses[0], server.port), backlog=0))
        for _ in range(4):  # the kernel drops whoever comes when the backlog is full
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", looked_up)
        url = f"redis://two.test:{server.port}?socket_connect_timeout={pace.seconds(0.2)}"
        with StatusStore.from_url(url, deadline=pace.seconds(3)) as store:
            store.settings()


def test_probe_for_tls_gets_the_time_that_is_left(side, monkeypatch):
    """The server takes three quarters of the time that a call has to close the connection."""
    deadline, late, given, clock = 20.0, [0.0], [], time.monotonic

    def slow(connect):
        def connect_late(*arguments):
            late[0] += 0.75 * deadline
            return connect(*arguments)

        return connect_late

    for connector in (Connector, AsyncConnector):
        monkeypatch.setattr(connector, "connect", slow(connector.connect))
    monkeypatch.setattr(tls_probe, "probe", lambda _, seconds: given.append(seconds))
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late[0])
    with Proxy(real.shared().socket) as proxy:
        proxy.refusals = 10_000
        store = side.open(f"{proxy.url}?socket_timeout={deadline}", deadline=deadline)
        with pytest.raises(StoreUnavailableError):
            store.settings()
    assert 0 < given[0] < 0.3 * deadline


def test_thread_that_opens_a_connection_closes_it():
    """The caller has left it: a socket that a thread reads must not be closed by another."""
    opened, closed = set(), set()

    class Recorded(redis.Connection):
        def connect(self):
            opened.add(threading.get_ident())
            super().connect()

        def disconnect(self, *arguments, **options):
            if self.is_connected:  # whoever drops the last reference calls this, too
                closed.add(threading.get_ident())
            super().disconnect(*arguments, **options)

    with Proxy(real.shared().socket) as proxy:
        proxy.stalled = True
        client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Recorded, port=proxy.port))
        with StatusStore(client, deadline=0.2) as store, pytest.raises(StoreUnavailableError):
            store.settings()
        real.until(lambda: not proxy.open_connections, "the thread has closed it")
    assert closed <= opened
