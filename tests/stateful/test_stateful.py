"""The whole interface, on fakeredis and on a real server side by side, against the oracle: any steps in any order."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from redis_kvpoll import AsyncStatusStore, StatusStore
from redis_kvpoll.sync.lease import Lease
from redis_kvpoll.sync.mirror import Mirror
from redis_kvpoll.sync.room import Room
from tests.stateful.machine import Machine
from tests.support import servers as matrix
from tests.support.fuzzing import LONG, examples

STEPS = 40
EXAMPLES = {"sync": 40, "async": 12}

LEFT_OUT = {
    "from_url": "the stores of the machine are made with clients of the two servers; tests/servers/test_urls.py has it",
    "rows": "its times differ between servers; tests/statistics/test_rows.py has it",
    "entries": "as rows",
    "statistics": "tests/statistics/test_model.py has them",
    "failures": "tests/mirror/test_failures.py and the interleavings have them",
    "data_losses": "a store's own counters; tests/engine/test_data_loss_report.py has them",
}
"""What the machine does not use, and why."""


@pytest.mark.parametrize("flavour", EXAMPLES)
def test_servers_and_oracle_agree(real_servers, watched, flavour):
    sides = []
    for kind in ("fakeredis", "valkey"):
        server = real_servers.get(kind)
        if server is None:
            pytest.skip(matrix.why_absent(kind))
        watched.append(server.client())
        stores_use = server.store_client() if flavour == "sync" else server.async_client()
        sides.append((server, server.client(decode_responses=True), stores_use))
    count = EXAMPLES[flavour]
    how_many = settings(
        examples(count),
        max_examples=count * 20 if LONG else count,
        stateful_step_count=STEPS,
        # To shrink an example of so many steps on two servers takes minutes: only in the long form.
        phases=tuple(Phase) if LONG else (Phase.explicit, Phase.generate),
    )
    run_state_machine_as_test(lambda: Machine(sides, flavour), settings=how_many)


def public(cls):
    return {name for name, _ in inspect.getmembers(cls) if not name.startswith("_")}


def used_in(*names):
    """All attribute names and strings in these modules: methods are also called by name."""
    found = set()
    for name in names:
        for node in ast.walk(ast.parse((Path(__file__).parent / name).read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_public_method_is_used():
    interface = public(StatusStore) | public(Room) | public(Lease) | public(Mirror)
    interface -= {
        "after_fork",
        "sync_token",
        "server_changed",
        "observe_write",
        "is_interrupted",
    }  # for the library itself
    unused = interface - used_in("machine.py", "bench.py", "flavours.py", "side.py")
    assert unused == set(LEFT_OUT)
    assert public(StatusStore) - {"close"} <= public(AsyncStatusStore)
