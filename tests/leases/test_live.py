"""Leases with their threads and tasks, in real processes on real servers that are killed, stopped or restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, LeaseLostError, StatusStore, StoreClosedError
from redis_kvpoll.engine.leases.lease import LeaseKeeper
from redis_kvpoll.protocol import keys
from tests.support import pace, real
from tests.support.backup import Backup
from tests.support.internals import interrupt_release
from tests.support.leasing import ManualLease, now_ms, record
from tests.support.own_threads import own_threads

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed
LEASES = keys.leases("default")

# Takes a lease and creates rooms, prints "ready", and then prints the operation by which it learns of its lease's loss.
WORKER = """
import sys
import time
from redis_kvpoll import KVPoll, LeaseLostError, StatusStore

url, ttl, way = sys.argv[1], float(sys.argv[2]), sys.argv[3]
with StatusStore.from_url(url) as store, store.lease("prefill-0", ttl=ttl) as lease:
    room = store.open(1)
    store.update_many({2: KVPoll.Transferring, 3: KVPoll.Success})
    print("ready", flush=True)
    sys.stdin.readline()
    if way == "heartbeat":
        while not lease.lost:
            time.sleep(0.01)
        lease_check = lease.check
    else:
        lease_check = {"open": lambda: store.open(9), "write": lambda: room.update(KVPoll.Success)}[way]
    try:
        print(lease_check(), flush=True)
    except LeaseLostError as error:
        print("lost:", error.operation, flush=True)
"""


HOLDER = """
import sys
from redis_kvpoll import StatusStore

store = StatusStore.from_url(sys.argv[1], shards=8)
lease = store.lease("prefill-0", ttl=float(sys.argv[2])).__enter__()
store.update_many(dict.fromkeys(range(100), 1))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world):
    return world.serve()


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


@pytest.fixture
def worker(server):
    """A process that holds a lease, when it is ready."""
    started = []

    def start(ttl, way="heartbeat"):
        words = [sys.executable, "-c", WORKER, server.tcp, str(ttl), way]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def last_heartbeat_ms(client, name="prefill-0"):
    found = record(client, name)
    return found[3] if found else 0


class TestProcesses:
    def test_rooms_of_killed_owner_fail_in_time(self, side, server, peer, worker):
        process = worker(ttl=0.5)
        peer.update_status(4, BOOT)
        store = side.open(server.tcp)
        with store.lease("decode-0", ttl=1.0):
            process.kill()
            with pace.Stopwatch() as took:
                real.until(lambda: peer.poll([1, 2]) == [FAIL, FAIL], "they fail", seconds=5)
            assert took.seconds < 0.5 + 2
            assert peer.poll([3, 4]) == [DONE, BOOT]
            assert peer.failure_reason(1) == "owner prefill-0 lost"
        assert [change.status for change in peer.history(2)] == [MOVE, FAIL]

    @pytest.mark.parametrize("way", ["heartbeat", "open", "write"])
    def test_stopped_owner_learns_of_lost_lease(self, server, peer, worker, way):
        process = worker(0.3, way)  # no other process sweeps leases before it is stopped
        os.kill(process.pid, signal.SIGSTOP)
        with StatusStore.from_url(server.tcp) as store, store.lease("decode-0", ttl=0.5):
            real.until(lambda: peer.get(1) is FAIL, "its rooms fail")
        process.stdin.write("go on\n")
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        operation = {"heartbeat": "check", "open": "open", "write": "update"}[way]
        assert process.stdout.readline() == f"lost: {operation}\n"
        assert process.wait(pace.seconds(20)) == 0
        assert peer.poll([1, 2, 3, 9]) == [FAIL, FAIL, DONE, None]


def test_rooms_of_killed_owner_fail_in_cluster(side, cluster, world):
    world.share(*cluster.nodes)
    words = [sys.executable, "-c", HOLDER, cluster.url, str(pace.seconds(0.5))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            store = side.open(cluster.url)
            with store.lease("decode-0", ttl=60.0, heartbeat=0.1) as lease:
                assert {owner.name: owner.rooms for owner in store.owners()} == {"prefill-0": 100, "decode-0": 0}
                process.kill()
                real.until(lambda: store.counts()[FAIL] == 100, "they fail in all shards", pace.seconds(5))
                assert not lease.lost
                found = {owner.name: (owner.state, owner.failed) for owner in store.owners()}
                assert found == {"prefill-0": ("lost", 100), "decode-0": ("alive", 0)}
        finally:
            process.kill()


class TestServers:
    @pytest.mark.parametrize("deadline", [5.0, 0.2])  # heartbeats that wait for the server, or give up and are repeated
    def test_server_pause_of_three_ttls_loses_no_lease(self, side, server, client, peer, deadline):
        ttl = pace.seconds(0.4)
        one, two = (side.open(server.tcp, deadline=pace.seconds(deadline)) for _ in range(2))
        with one.lease("prefill-0", ttl=ttl) as lease, two.lease("decode-0", ttl=ttl) as other:
            one.update_status(1, BOOT)
            two.update_status(2, BOOT)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                time.sleep(3 * ttl)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            safe_at = now_ms(client) + 1000 * pace.seconds(0.8)  # no suspicion from before the pause counts any more
            for name in ("prefill-0", "decode-0"):
                real.until(lambda name=name: not 0 < last_heartbeat_ms(client, name) <= safe_at, name)
            assert (lease.lost, other.lost) == (False, False)
            assert peer.poll([1, 2]) == [BOOT, BOOT]
            one.update_status(3, BOOT)

    def test_restart_without_data_keeps_lease(self, side, world, server):
        store = side.open(server.tcp)
        with store.lease("prefill-0", ttl=0.5) as lease:
            store.update_status(1, BOOT)
            server = world.restart(server)
            with server.client(decode_responses=True) as client:
                real.until(lambda: last_heartbeat_ms(client), "it is held again")
                assert record(client)[0] == lease.incarnation
            assert not lease.lost
            store.update_status(1, BOOT)
            assert store.entry(1).owner == "prefill-0"

    def test_restart_with_data_keeps_lease(self, side, world, tmp_path):
        arguments = ("--dbfilename", "table.rdb", "--dir", str(tmp_path))
        server = world.serve(*arguments)
        store = side.open(server.tcp)
        with store.lease("prefill-0", ttl=0.5) as lease:
            store.update_status(1, BOOT)
            with server.client(decode_responses=True) as client:
                client.save()
                before = last_heartbeat_ms(client)
            os.kill(server.pid, signal.SIGKILL)
            server = world.restart(server, *arguments)
            with server.client(decode_responses=True) as client:
                real.until(lambda: last_heartbeat_ms(client) > before, "it is renewed")
            assert not lease.lost
            assert store.get(1) is BOOT


class TestHolders:
    def test_heartbeats_keep_lease_and_rooms_alive(self, side, server, client, peer, monkeypatch):
        for module in ("lease", "room_touches"):
            monkeypatch.setattr(f"redis_kvpoll.engine.leases.{module}.touch_interval", lambda context: 0.1)
        store = side.open(server.tcp, ttl=60.0)
        with store.lease("prefill-0", ttl=0.5) as lease:
            store.update_status(1, BOOT)
            first = last_heartbeat_ms(client)
            for _ in range(2):
                client.pexpire("kvpoll:{default}:room:1", 30_000)
                real.until(lambda: client.pttl("kvpoll:{default}:room:1") > 30_000, "the room is touched")
            real.until(lambda: last_heartbeat_ms(client) > first + 1500, "heartbeats", pace.seconds(20))
            assert peer.get(1) is BOOT
            lease.check()
        assert peer.failure_reason(1) == "owner prefill-0 left"
        with pytest.raises(StoreClosedError, match="not held"):
            lease.check()

    def test_holder_learns_that_its_name_was_taken(self, side, server, peer, caplog):
        one, two = (side.open(server.tcp) for _ in range(2))
        with one.lease("prefill-0", ttl=0.5) as lease:
            one.update_status(1, BOOT)
            with two.lease("prefill-0", ttl=0.5) as again:
                real.until(lambda: lease.lost, "it learns of it")
                with pytest.raises(LeaseLostError):
                    lease.check()
                with pytest.raises(LeaseLostError):
                    one.update_status(2, BOOT)
                assert not again.lost
                assert again.incarnation > lease.incarnation
        assert len([r for r in caplog.records if "lost its lease" in r.getMessage()]) == 1
        assert peer.failure_reason(1) == "owner prefill-0 lost (its name was taken again)"
        assert one.update_status(3, BOOT).status is BOOT

    def test_closing_the_store_releases_lease(self, side, server, client, peer):
        store = side.open(server.tcp)
        lease = store.lease("prefill-0", ttl=0.5)
        lease.__enter__()
        store.update_status(1, BOOT)
        store.close()
        assert record(client) is None
        assert peer.failure_reason(1) == "owner prefill-0 left"
        assert not own_threads("kvpoll-lease")
        assert not side.loop.tasks()
        lease.close()

    def test_interrupted_release_leaves_room_for_another(self, side, server, monkeypatch):
        """The caller was cancelled, or interrupted, while it waited for a heartbeat under way."""
        store = side.open(server.tcp)
        lease = store.lease("prefill-0", ttl=5.0)
        lease.__enter__()
        with monkeypatch.context() as patch:
            interrupt_release(patch)
            with pytest.raises(InterruptedError):
                lease.close()
        with store.lease("prefill-0", ttl=5.0) as again:
            assert not again.lost

    def test_release_without_server_logs_and_returns(self, side, world, server, caplog):
        store = side.open(server.tcp, deadline=60.0)
        with real.three_tries(), store.lease("prefill-0", ttl=5.0, heartbeat=0.05):
            server.stop()
            real.until(lambda: "was not renewed" in caplog.text, "a heartbeat fails")
        assert "will expire" in caplog.text
        world.restart(server)

    def test_refused_heartbeat_is_repeated(self, side, server, client, caplog):
        store = side.open(server.tcp)
        with store.lease("prefill-0", ttl=5.0, heartbeat=0.02):
            before = client.hgetall(LEASES)
            with client.pipeline() as pipe:  # at once: between the two a heartbeat would make the key again
                pipe.delete(LEASES).lpush(LEASES, "made by hand").execute()
            real.until(lambda: "WRONGTYPE" in caplog.text, "it is refused")
            with client.pipeline() as pipe:
                pipe.delete(LEASES).hset(LEASES, mapping=before).execute()
            first = last_heartbeat_ms(client)
            real.until(lambda: last_heartbeat_ms(client) > first, "it goes on")


def test_forked_child_has_no_lease(server, client, peer):
    script = """
import os, sys, threading
from redis_kvpoll import KVPoll, StatusStore, StoreClosedError

store, ttl = StatusStore.from_url(sys.argv[1]), float(sys.argv[2])
with store.lease("prefill-0", ttl=ttl) as lease:
    store.update_status(1, KVPoll.Bootstrapping)
    child = os.fork()
    if child == 0:
        store.update_status(2, KVPoll.Bootstrapping)
        try:
            lease.check()
        except StoreClosedError as error:
            assert str(os.getppid()) in str(error)
        else:
            os._exit(3)
        if [t for t in threading.enumerate() if t.name.startswith("kvpoll-lease")]:
            os._exit(4)
        lease.close()
        with store.lease("child-0", ttl=ttl) as own:
            store.update_status(3, KVPoll.Success)
            own.check()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lease.check()
    assert store.get(1) is KVPoll.Bootstrapping
    assert [store.entry(room).owner for room in (1, 2, 3)] == ["prefill-0", None, "child-0"]
store.close()
"""
    words = [sys.executable, "-c", script, server.tcp, str(pace.seconds(0.5))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=pace.seconds(60), check=False)
    assert done.returncode == 0, done.stderr
    assert peer.poll([1, 2, 3]) == [FAIL, BOOT, DONE]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_heartbeat_is_sent_after_one_that_raised(monkeypatch, caplog, error):
    """A credential provider may raise anything; without this thread, nobody would renew the lease."""
    send, sent = LeaseKeeper.send_heartbeat, []

    def raising_once(keeper):
        sent.append(keeper)
        if len(sent) == 1:
            raise error
        return send(keeper)

    monkeypatch.setattr(LeaseKeeper, "send_heartbeat", raising_once)
    with StatusStore.from_url("memory://") as store, store.lease("prefill-0", ttl=1.0):
        real.until(lambda: len(sent) > 2, "the next ones")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [error]


def test_interrupt_while_taking_lease_leaves_none_held(side, server, client, monkeypatch):
    """The lease is taken, and the rooms of its former holder are being failed."""

    class InterruptError(BaseException):
        pass

    def interrupt(*_):
        raise InterruptError
        yield

    store = side.open(server.tcp)
    with monkeypatch.context() as patch:
        patch.setattr("redis_kvpoll.engine.leases.lease.reap_lost", interrupt)
        with pytest.raises(InterruptError):
            store.lease("prefill-0").__enter__()
    assert record(client) is not None
    store.update_status(1, BOOT)
    assert store.entry(1).owner is None
    with store.lease("prefill-1"):
        store.update_status(2, BOOT)
        assert store.entry(2).owner == "prefill-1"


@pytest.mark.parametrize("ranks", [{}, {"rank": 0, "world_size": 2}], ids=["no rank", "a rank"])
def test_rooms_of_a_lease_that_ends_over_a_loss_fail(side, server, client, ranks):
    """The call that ends the lease is the first to notice the loss: its rooms come back as its own."""
    store, other = side.open(server.tcp, **ranks), side.open(server.tcp)
    with store.lease("prefill-0", ttl=60.0):
        store.open(1).update(MOVE)
        client.flushall()
    assert other.get(1) is FAIL
    assert other.failure_reason(1) == "owner prefill-0 left"


def test_cancelled_heartbeat_task_does_not_block_exit(server, client):
    """asyncio.run cancels all tasks when its main one ends by an error."""

    async def main():
        async with AsyncStatusStore.from_url(server.tcp) as store, store.lease("prefill-0", ttl=0.5):
            (task,) = (task for task in asyncio.all_tasks() if task.get_name().startswith("kvpoll-lease"))
            task.cancel()
            await store.update_status(1, BOOT)

    asyncio.run(main())
    assert record(client) is None


def test_lease_that_a_lagging_replica_lacks_is_held_on():
    """It was taken after the last write that the new primary has, in the same epoch."""
    with real.World("sync") as world:
        server = world.serve()
        store = world.open(server.tcp)
        store.open(1).status()
        with server.client() as client:
            older = Backup(client)
        held = ManualLease(store).take()
        server = world.restart(server)
        with server.client(decode_responses=True) as client:
            older.restore(client)
            assert not held.heartbeat().lost
            assert str(record(client)[0]) == held.incarnation
        assert store.update_status(2, BOOT).changed
