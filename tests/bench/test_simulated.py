"""The benchmark's simulated followers send what real ones send, as the server's MONITOR shows it."""

from __future__ import annotations

import itertools
import multiprocessing
import threading

import pytest

from bench import simulated
from bench.simulated import Feed
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.protocol import keys
from redis_kvpoll.replica import failures
from tests.support import real

CHANGES = 3


class Monitor:
    """The commands of each client, in order, by its port."""

    def __init__(self, server):
        self.by_client = {}
        self._client, self._is_over = server.client(), threading.Event()
        begun = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(begun,), daemon=True)
        self._thread.start()
        begun.wait()

    def _listen(self, begun):
        with self._client.monitor() as monitor:
            begun.set()
            while not self._is_over.is_set():
                seen = monitor.next_command()
                if seen["client_type"] == "tcp":
                    self.by_client.setdefault(seen["client_port"], []).append(seen["command"].split())

    def followers(self):
        """The commands of each follower, from its first read that waits."""
        waits = lambda words: words[0] == "XREAD" and "BLOCK" in words  # noqa: E731
        found = [list(itertools.dropwhile(lambda words: not waits(words), all_)) for all_ in self.by_client.values()]
        return [commands for commands in found if commands]

    def idle_reads(self, position):
        """How often the follower that is furthest behind has read from a position."""
        return [sum(words[0] == "XREAD" and words[-1] == position for words in one) for one in self.followers()]

    def close(self):
        self._is_over.set()
        self._client.ping()  # which it sees
        self._thread.join()
        self._client.close()


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.serve()


@pytest.fixture
def monitor(server):
    monitor = Monitor(server)
    yield monitor
    monitor.close()


def tail(server, key):
    with server.client() as client:
        return client.xrevrange(key, count=1)[0][0].decode()


def simulate(server, kind, key):
    """Start a simulated follower, at the end of what it follows; returns what ends it."""
    ours, theirs = multiprocessing.Pipe()
    feed = Feed(kind, "default", tail(server, key), 1)
    thread = threading.Thread(target=simulated.run, args=(server.tcp, [feed], theirs), daemon=True)
    thread.start()
    ours.recv()  # it follows
    return ours, thread


def once(commands, name):
    """The different commands of a name, in order, without the time that a read waits: it may end when a look is due."""
    named = (words for words in commands if words[0] == name)
    return [words for words, _ in itertools.groupby(words[:4] + words[5:] for words in named)]


def longest_wait(commands):
    """The milliseconds of a heartbeat."""
    return max(int(words[4]) for words in commands if words[0] == "XREAD")


@pytest.mark.parametrize("kind", ["mirror", "failures"])
def test_simulated_follower_sends_a_real_one_s_commands(server, monitor, kind, monkeypatch):
    """Beside each other, through changes and idle times: the same reads and the same looks, in the same order."""
    monkeypatch.setattr(failures, "HEARTBEAT", 0.5)  # as in nobody's table, but fit for a test
    key = (keys.feed if kind == "mirror" else keys.failed)("default")
    with StatusStore.from_url(server.tcp) as writer, StatusStore.from_url(server.tcp) as store:
        writer.update_many(dict.fromkeys(range(CHANGES), KVPoll.Bootstrapping))
        with store.mirror() if kind == "mirror" else store.failures(list):
            pipe, thread = simulate(server, kind, key)
            for room in range(CHANGES):
                real.until(lambda: len(reads := monitor.idle_reads(tail(server, key))) == 2 and min(reads) > 2, "idle")
                writer.abort(room, "why")
            real.until(lambda: min(monitor.idle_reads(tail(server, key))) > 2, "idle")
            first, second = monitor.followers()
            pipe.send("stop")
            ((_, reads, known_at),) = pipe.recv()
            thread.join()
    assert {words[0] for words in first + second} <= {"XREAD", "XREVRANGE", "EXISTS"}
    for name in ("XREAD", "XREVRANGE"):
        assert once(first, name) == once(second, name)
        assert len(once(first, name)) == CHANGES + 1
    assert longest_wait(first) == longest_wait(second) == 500
    assert len(known_at) == CHANGES
    assert reads > CHANGES
