"""A process of SGLang whose session runs in an agent, as real processes; with a stand-in for its manager."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.agent.client import client
from redis_kvpoll.agent.client.channel import AgentChannel
from tests.plugin.agent_client import FIRST, PORT
from tests.plugin.rank_client import RANKS
from tests.support import pace, real
from tests.support.standin import OWNER, joined, manager, serve, serve_rooms, table, until_equal

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOMS = range(1000, 1060)
LEASE = 30
"""So long that no test sees a lease expire."""


class Agents:
    """The agents of a test, which end with it."""

    def __init__(self, folder):
        self.folder = folder

    @property
    def pids(self):
        """The processes of all agents that have run, in order."""
        return [int(pid) for pid in re.findall(r"runs as process (\d+)", self.logs)]

    @property
    def logs(self):
        """What all agents have logged."""
        return "".join(log.read_text() for log in self.folder.rglob("*.log"))

    def signal(self, number):
        """Send the latest agent a signal; return which one that was."""
        latest = self.pids[-1]
        os.kill(latest, number)
        return latest

    def close(self):
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def in_this_process():
    """Not here."""


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def agents(monkeypatch):
    """The folder has a short path: the address of a socket has room for 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kva"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    agents = Agents(folder)
    yield agents
    agents.close()


@pytest.fixture
def server(world, agents, monkeypatch):
    server = serve(world, monkeypatch, deadline=3.0)
    for name, value in {"LEASE": str(LEASE), "JOIN": f"{pace.seconds(60):g}"}.items():
        monkeypatch.setenv(f"KVPOLL_{name}", value)
    return server


@pytest.fixture
def sglang(server):
    sglang = manager()
    with joined(sglang):
        assert isinstance(sglang.kvpoll_worker.client.channel, AgentChannel)
        yield sglang


@pytest.fixture
def store(server, sglang):
    with table(server) as store:
        yield store


def incarnations(store):
    return [(owner.name, owner.incarnation) for owner in store.owners() if owner.state != "lost"]


@contextlib.contextmanager
def process_with(rooms, megabytes=0):
    """Another process of SGLang, with so many open rooms, and so much memory that it has touched."""
    command = [sys.executable, "-m", "tests.plugin.agent_client", str(rooms), str(megabytes)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, bufsize=1, **pipes) as process:
        assert process.stdout.readline() == "open\n"
        yield process


def ask(process):
    process.stdin.write("?\n")
    return process.stdout.readline()


def is_readable(descriptor):
    return bool(select.select([descriptor], [], [], 0)[0])


class TestOneAgent:
    def test_changes_and_failures_pass_through_it(self, store, sglang):
        serve_rooms(sglang, ROOMS)
        until_equal(store, sglang)
        store.abort(ROOMS[2], "wrong model")
        real.until(lambda: sglang.request_status[ROOMS[2]] == FAIL, "the abort arrives")
        assert sglang.failure_records[ROOMS[2]] == "wrong model"
        real.until(lambda: sglang.kvpoll_worker.is_idle, "all is told")

    def test_process_that_leaves_has_published_all(self, server, sglang):
        sglang.request_status[1] = BOOT
        sglang.request_status[1] = OK
        sglang.kvpoll_worker.close()
        with table(server) as store:
            assert store.get(1) is KVPoll.Success
            assert store.owners() == []

    def test_ranks_of_an_instance_share_it(self, server, agents):
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank, rank_port=40000 + rank) for rank in range(2)]
        with joined(*ranks), table(server) as store:
            for sglang in ranks:
                sglang.request_status[1] = BOOT
            real.until(lambda: store.collect(1).keys() == {0, 1}, "both are published")
            ranks[1].failure_records[1] = "rank 1 says no"
            ranks[1].request_status[1] = FAIL
            real.until(lambda: ranks[0].request_status[1] == FAIL, "the other rank hears of it")
        assert len(agents.pids) == 1

    def test_ranks_share_its_connections_and_no_end(self, server, agents):
        """One of 8 processes is killed: the rooms in which it has a part fail, and no other's lease is lost."""
        ranks = [manager(attn_tp_size=RANKS, attn_tp_rank=rank, rank_port=40000 + rank) for rank in range(RANKS - 1)]
        command, pipe = [sys.executable, "-m", "tests.plugin.rank_client"], subprocess.PIPE
        with joined(*ranks), table(server) as store, subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
            assert process.stdout.readline() == b"open\n"
            for sglang in ranks:
                sglang.request_status[FIRST] = sglang.request_status[1] = BOOT
            real.until(lambda: len(store.collect(FIRST)) == RANKS, "all are published")
            real.until(lambda: len(store.collect(1)) == RANKS - 1, "all are published")
            assert len(server.client().client_list()) < 2 * RANKS  # with 4 each there were 32
            process.kill()
            real.until(lambda: store.get(FIRST) is KVPoll.Failed, "its room fails")
            assert store.entry(FIRST).reason.endswith(f":{PORT} lost")
            assert store.get(1) is KVPoll.Bootstrapping
            assert [owner.state for owner in store.owners() if owner.state != "lost"] == ["alive"] * (RANKS - 1)
            real.until(lambda: {sglang.request_status[FIRST] for sglang in ranks} == {FAIL}, "the others hear of it")
        assert len(agents.pids) == 1


def test_process_without_an_agent_keeps_its_dicts(server, monkeypatch, caplog):
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("KVPOLL_JOIN", "0.2")
    monkeypatch.setattr(client, "START_SECONDS", 0.2)
    sglang = manager()
    with joined(sglang):
        assert type(sglang.request_status) is dict
    [error] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "there is no agent" in error
    assert "no connection to the agent" in caplog.text


class TestLostData:
    """The table's data is lost while the processes serve on. A call shows it to the agent."""

    @pytest.fixture(params=[1, 2], ids=["one rank", "two ranks"])
    def ranks(self, server, agents, request):
        ranks = [
            manager(attn_tp_size=request.param, attn_tp_rank=rank, rank_port=40000 + rank)
            for rank in range(request.param)
        ]
        with joined(*ranks), table(server) as store:
            for sglang in ranks:
                serve_rooms(sglang, ROOMS)
            until_equal(store, ranks[0])
            real.until(lambda: all(sglang.kvpoll_worker.is_idle for sglang in ranks), "they know what the table has")
            yield ranks

    @staticmethod
    def lose(server, ranks):
        """Lose all data; return once the table has all of the first rank again."""
        with server.client() as client:
            client.flushall()
        for sglang in ranks:
            sglang.request_status[1] = BOOT
        with table(server) as store:
            until_equal(store, ranks[0])

    def test_a_replaced_agent_brings_the_rooms_back(self, server, agents, ranks):
        """Also the rooms that a former agent has opened: nobody else would."""
        agents.signal(signal.SIGKILL)
        real.until(lambda: len(agents.pids) == 2, "another agent")
        for sglang in ranks:
            sglang.request_status[2] = BOOT
        with table(server) as store:
            until_equal(store, ranks[0])
        real.until(lambda: all(sglang.kvpoll_worker.is_idle for sglang in ranks), "all is told")
        self.lose(server, ranks)
        for sglang in ranks:
            for room in list(sglang.request_status):
                sglang.request_status[room] = OK
        with table(server) as store:
            until_equal(store, ranks[0])

    def test_a_room_that_was_failed_by_hand_stays_failed(self, server, ranks):
        failed = next(room for room, status in ranks[0].request_status.items() if status == MOVE)
        with table(server) as store:
            store.abort(failed, "wrong model")
            real.until(lambda: {rank.request_status[failed] for rank in ranks} == {FAIL}, "the abort arrives")
            self.lose(server, ranks)
            assert (store.get(failed), store.failure_reason(failed)) == (KVPoll.Failed, "wrong model")


class TestDeaths:
    def test_killed_process_fails_at_once_after_its_last_message(self, store, agents):
        """Long before its lease expires; what it has sent is told first."""
        with process_with(40) as process:
            process.stdin.write("end\n")
        rooms = range(FIRST, FIRST + 40)
        real.until(lambda: set(store.poll(rooms)) == {KVPoll.Failed}, "its rooms fail")
        assert store.entry(FIRST).reason == f"owner prefill/10.0.0.1:8998@10.0.0.1:{PORT} lost"
        assert KVPoll.Transferring in [change.status for change in store.history(FIRST)]

    def test_process_that_stands_still_loses_its_lease(self, store, monkeypatch):
        """Its agent does not renew it; it hears of its loss when it goes on."""
        monkeypatch.setenv("KVPOLL_LEASE", f"{pace.seconds(1):g}")
        with process_with(1) as process:
            os.kill(process.pid, signal.SIGSTOP)
            try:
                real.until(lambda: store.get(FIRST) is KVPoll.Failed, "its room fails", pace.seconds(20))
            finally:
                os.kill(process.pid, signal.SIGCONT)
            real.until(lambda: ask(process) == "[0]\n", "it is Failed there, too")
            process.stdin.write("end\n")

    def test_killed_agent_is_replaced_and_nothing_is_lost(self, store, sglang, agents):
        serve_rooms(sglang, ROOMS[:30])
        until_equal(store, sglang)
        before = incarnations(store)
        agents.signal(signal.SIGKILL)
        serve_rooms(sglang, ROOMS[30:])
        for room in ROOMS[:15]:
            sglang.request_status.pop(room, None)
        until_equal(store, sglang)
        assert FAIL not in sglang.request_status.values()
        assert (incarnations(store), len(agents.pids)) == (before, 2)

    def test_process_that_leaves_without_its_agent_has_published_all(self, server, sglang, agents):
        """It tells its last changes, and its end, to the next agent."""
        sglang.request_status[1] = BOOT
        with table(server) as store:
            until_equal(store, sglang)
        agents.signal(signal.SIGKILL)
        channel = sglang.kvpoll_worker.client.channel
        real.until(lambda: not channel.is_connected or len(agents.pids) == 2, "its connection ends")
        sglang.request_status[1] = OK
        sglang.kvpoll_worker.close()
        with table(server) as store:
            real.until(lambda: store.get(1) is KVPoll.Success, "the last change")
            real.until(lambda: not store.owners(), "the end of its lease")

    def test_agent_that_stands_still_harms_nobody(self, store, sglang, agents):
        """Another one takes its place; when it wakes, it ends."""
        serve_rooms(sglang, ROOMS[:30])
        until_equal(store, sglang)
        before = incarnations(store)
        stopped = agents.signal(signal.SIGSTOP)
        serve_rooms(sglang, ROOMS[30:])
        until_equal(store, sglang)
        os.kill(stopped, signal.SIGCONT)
        real.until(lambda: not Path(f"/proc/{stopped}").exists(), "it ends")
        for room in list(sglang.request_status):
            sglang.request_status[room] = OK
        until_equal(store, sglang)
        assert incarnations(store) == before

    def test_full_socket_keeps_no_thread_waiting(self, store, sglang, agents):
        """Thousands of changes while the agent takes none: all are in the table afterwards, in their order."""
        stopped = agents.signal(signal.SIGSTOP)
        for room in range(2000, 4000):
            serve_rooms(sglang, [room])
        os.kill(stopped, signal.SIGCONT)
        until_equal(store, sglang)


@pytest.mark.slow
class TestLong:
    def test_twenty_seconds_without_the_agent_harm_nobody(self, store, sglang, agents):
        """SGLang serves requests all the time; the agent that wakes ends, and fails nothing."""
        serve_rooms(sglang, ROOMS)
        until_equal(store, sglang)
        before = incarnations(store)
        stopped, end = agents.signal(signal.SIGSTOP), time.monotonic() + 20
        room = 2000
        while time.monotonic() < end:
            serve_rooms(sglang, [room])
            room += 1
            time.sleep(0.02)
        os.kill(stopped, signal.SIGCONT)
        real.until(lambda: not Path(f"/proc/{stopped}").exists(), "it ends")
        assert FAIL not in sglang.request_status.values()
        until_equal(store, sglang)
        assert (incarnations(store), len(agents.pids)) == (before, 2)

    def test_process_with_much_memory_fails_with_the_kernels_word(self, store, agents):
        """The kernel frees its memory first, then says that it is dead. Its rooms do not fail before that."""
        free = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
        megabytes = min(8192, int(free[1]) * 7 // 10 >> 10)
        if megabytes < 1024:
            pytest.skip(f"only {megabytes} MB are free")
        with process_with(40, megabytes=megabytes) as process:
            watch = os.pidfd_open(process.pid)
            process.stdin.write("end\n")
            while not is_readable(watch):
                status = store.get(FIRST)
                assert status is not KVPoll.Failed or is_readable(watch)
            told = time.monotonic()
            real.until(lambda: set(store.poll(range(FIRST, FIRST + 40))) == {KVPoll.Failed}, "its rooms fail")
            took = time.monotonic() - told
            os.close(watch)
        sys.stdout.write(f"{megabytes} MB: Failed {1000 * took:.0f} ms after the kernel's word\n")
        assert KVPoll.Transferring in [change.status for change in store.history(FIRST)]


class TestOutage:
    def test_agent_killed_during_an_outage_joins_again_after_it(self, world, server, sglang, agents):
        serve_rooms(sglang, ROOMS[:30])
        with table(server) as store:
            until_equal(store, sglang)
        os.kill(server.pid, signal.SIGKILL)
        agents.signal(signal.SIGKILL)
        serve_rooms(sglang, ROOMS[30:])
        real.until(lambda: len(agents.pids) == 2, "another agent is there")
        assert FAIL not in sglang.request_status.values()
        with table(world.restart(server)) as store:
            until_equal(store, sglang)
            assert {store.entry(room).owner for room in store.rooms()} == {OWNER}

    def test_process_killed_during_an_outage_is_told_after_it(self, server, store, agents):
        """Redis keeps its data, and answers nothing until its agent would have given up."""
        with process_with(40) as process:
            os.kill(server.pid, signal.SIGSTOP)
            process.stdin.write("end\n")
        real.until(lambda: "has ended without a goodbye" in agents.logs, "its end")
        time.sleep(pace.seconds(2.5))
        os.kill(server.pid, signal.SIGCONT)
        real.until(lambda: set(store.poll(range(FIRST, FIRST + 40))) == {KVPoll.Failed}, "its rooms fail")
        assert KVPoll.Transferring in [change.status for change in store.history(FIRST)]


def test_fork_of_a_process_leaves_its_rooms_and_lease_alone(store, sglang):
    """Its child has a copy of the maps, and no part in the table; it ends without waiting for anything."""
    sglang.request_status[1] = BOOT
    until_equal(store, sglang)
    before = incarnations(store)
    real.until(lambda: sglang.kvpoll_worker.is_idle, "no thread holds a lock that the child would never get")
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            sglang.request_status[1] = OK
            sglang.request_status[2] = BOOT
            sglang.kvpoll_worker.close()
        os._exit(0)
    os.waitpid(child, 0)
    sglang.request_status[3] = BOOT
    until_equal(store, sglang)
    assert (store.get(1), incarnations(store)) == (KVPoll.Bootstrapping, before)


def test_fork_while_a_thread_has_the_lock_ends(store, sglang):
    """The child's exit leaves a table in which it has no part; there is nobody who would release that lock."""
    with sglang.kvpoll_worker.registry.changes.lock:
        forking = threading.Thread(target=lambda: ended.append(end_of_child(sglang.kvpoll_worker.close)))
        ended = []
        forking.start()
        forking.join()
    assert ended == [0]
    sglang.request_status[3] = BOOT
    until_equal(store, sglang)


def end_of_child(call):
    """How a forked child ends that makes a call; the kernel ends one that waits in it for ever."""
    child = os.fork()
    if not child:
        signal.alarm(round(pace.seconds(20)))
        call()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
