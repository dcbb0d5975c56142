"""Keys that the rooms of a shard share, of another type: the doctor names them, and its advice mends that."""

from __future__ import annotations

import re
import shlex

import pytest

from redis_kvpoll import ServerRefusedError, StatusStore
from redis_kvpoll.doctor.findings import Level
from tests.support import examining
from tests.support.examining import OF_THE_MACHINE
from tests.support.leasing import NS, record

PROBLEMS, WARNINGS = ("settings", "epoch", "leases", "due", "owned", "feed"), ("failed", "cleared", "refused")


def spoil(client, kind, tag=NS):
    client.delete(f"kvpoll:{{{tag}}}:{kind}")
    client.set(f"kvpoll:{{{tag}}}:{kind}", "by hand", ex=900)


def mend(client, advice):
    """Run the command that an advice names, as a shell would."""
    words = shlex.split(re.match(r"redis-cli ([^(;]+)", advice)[1])
    assert client.execute_command(*words) >= 1


@pytest.mark.parametrize("kind", [*PROBLEMS, *WARNINGS])
def test_key_of_another_type_is_named_and_its_advice_mends(server, lease, client, kind):
    spoil(client, kind)
    found = examining.examine(server.tcp)
    level = Level.PROBLEM if kind in PROBLEMS else Level.WARNING
    assert (found["corrupt"].level, found["corrupt"].found.partition(" ")[0]) == (level, f"kvpoll:{{default}}:{kind}")
    assert {name for name, one in found.items() if one.level >= Level.WARNING} - OF_THE_MACHINE == {"corrupt"}
    mend(client, found["corrupt"].advice)
    lease.store.update_status(1, 1)  # whatever the processes would do again
    assert examining.examine(server.tcp)["corrupt"].level is Level.WELL


@pytest.mark.parametrize("kind", ["leases", "due", "epoch"])
def test_heartbeats_go_on_after_the_advice_was_followed(server, lease, client, kind):
    before = lease.incarnation
    spoil(client, kind)
    with pytest.raises(ServerRefusedError, match="kvpoll doctor names it"):
        lease.heartbeat()
    mend(client, examining.examine(server.tcp)["corrupt"].advice)
    lease.store.update_status(1, 1)
    lease.heartbeat()
    assert (lease.lost, lease.incarnation, record(client)[0]) == (False, before, int(before))


def test_lease_ends_after_the_advice_on_owned(server, lease, client):
    spoil(client, "owned")
    mend(client, examining.examine(server.tcp)["corrupt"].advice)
    lease.release()
    assert record(client) is None


@pytest.mark.parametrize("kind", ["feed", "refused"])
def test_other_facts_are_read_beside_a_key_of_another_type(server, lease, client, kind):
    known = {name for name, one in examining.examine(server.tcp).items() if one.level is not Level.UNKNOWN}
    spoil(client, kind)
    after = examining.examine(server.tcp)
    unread = {"feed", "feed_lag"} if kind == "feed" else set()
    assert {name for name in known if after[name].level is Level.UNKNOWN} == unread


def test_worst_of_several_is_named_and_the_others_counted(server, lease, client):
    for kind in ("refused", "due", "cleared"):
        spoil(client, kind)
    found = examining.examine(server.tcp)["corrupt"]
    assert (found.level, ":due has" in found.found, found.found.endswith(", and 2 more")) == (Level.PROBLEM, True, True)


def test_key_of_a_further_shard_is_named(server, client):
    with StatusStore.from_url(server.tcp, shards=3) as store:
        store.update_many(dict.fromkeys(range(20), 1))
        spoil(client, "due", "default/2")
        assert examining.examine(server.tcp)["corrupt"].found.startswith("kvpoll:{default/2}:due has another type")


def test_reader_is_told_of_it(server, lease, client):
    spoil(client, "due")
    with examining.user_of(server, "--read-only") as url:
        assert examining.examine(url)["corrupt"].level is Level.PROBLEM
