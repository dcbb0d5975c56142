"""Examinations of real servers, and servers that a proxy makes look broken."""

from __future__ import annotations

import contextlib
import re
import shlex

from click.testing import CliRunner

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.doctor import examination, node_look, table_look
from redis_kvpoll.doctor.examination import Doctor
from redis_kvpoll.doctor.findings import Level, exit_status
from tests.support.leasing import ManualLease, begin_long_ago

OF_THE_MACHINE = {"latency", "fork"}
"""Checks of the machine's speed: a busy one has findings."""
HEALTHY = ("--maxmemory", "1gb")
_TIME = re.compile(rb"\*2\r\n\$10\r\n(\d{10})\r\n")


def be_patient(monkeypatch):
    """Let a server of a slow machine, or of one that stood still, have the time to answer."""
    monkeypatch.setattr(node_look, "REACH_SECONDS", 60.0)
    monkeypatch.setattr(examination, "DEADLINE", 60.0)
    monkeypatch.setattr(table_look, "READ_SECONDS", 60.0)


def doctor_of(url, namespace="default", **options):
    return Doctor(url, namespace, watch_seconds=0, **options)


def examine(url, namespace="default", **options):
    """{check: its finding}"""
    return by_check(doctor_of(url, namespace, **options).examine())


def by_check(findings):
    return {finding.check: finding for finding in findings}


def status_of(findings):
    """The exit status, whatever the machine's speed."""
    return exit_status(finding for finding in findings if finding.check not in OF_THE_MACHINE)


def raised(found):
    """The checks that have found something, without those of the machine's speed."""
    return {name for name, finding in found.items() if finding.level >= Level.NOTE} - OF_THE_MACHINE


@contextlib.contextmanager
def live_table(server, namespace="default", **options):
    """A table with a lease and a live room; yields the store."""
    with StatusStore.from_url(server.tcp, namespace=namespace, **options) as store:
        store.update_status(1, KVPoll.Bootstrapping)
        lease = ManualLease(store, ttl=600.0).take()  # no heartbeats: it must outlast a slow machine
        with server.client(decode_responses=True) as client:
            begin_long_ago(client)
        store.open(2)
        yield store
        with contextlib.suppress(Exception):
            lease.release()


@contextlib.contextmanager
def user_of(server, *options, rule=None):
    """The URL of a new user with the rule that ``kvpoll acl`` prints, or with another."""
    line = CliRunner().invoke(kvpoll, ["acl", "--user", "eyes", *options]).stdout.replace("PASSWORD", "pa55")
    with server.client() as client:
        client.execute_command(*shlex.split(line), *(rule or "").split())
        try:
            yield server.tcp.replace("redis://", "redis://eyes:pa55@")
        finally:
            client.acl_deluser("eyes")


class Disguised(Proxy):
    """A proxy whose server has other fields in INFO, and another clock."""

    def __init__(self, server):
        super().__init__(server.port)
        self.fields = {}
        self.clock_ahead = 0
        self.rewrite = self._rewrite

    def _rewrite(self, data):
        if self.clock_ahead:
            data = _TIME.sub(lambda found: b"*2\r\n$10\r\n%d\r\n" % (int(found[1]) + self.clock_ahead), data)
        head = re.match(rb"([$=])(\d+)\r\n", data)
        if not self.fields or head is None or b"# Memory" not in data:
            return data
        text, rest = data[head.end() :][: int(head[2])], data[head.end() + int(head[2]) :]
        for name, value in self.fields.items():
            text, count = re.subn(rb"(?m)^%s:.*?\r$" % name.encode(), f"{name}:{value}\r".encode(), text)
            assert count == 1, f"{name} is in INFO"
        return b"%s%d\r\n%s%s" % (head[1], len(text), text, rest)
