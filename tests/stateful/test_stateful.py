"""The whole interface, on fakeredis and on a real server side by side, against the oracle: any steps in any order."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from redis_kvpoll import AsyncStatusStore, StatusStore
from redis_kvpoll.leases.blocking import Lease
from redis_kvpoll.mirror.blocking import Mirror
from redis_kvpoll.room import Room
from tests import servers as matrix
from tests.fuzzing import LONG, examples
from tests.stateful.machine import Machine

STEPS = 40
EXAMPLES = {"sync": 45, "async": 15}


@pytest.fixture
def sides(real_servers, watched):
    """(server, the tests' client, a client for stores) of each side."""
    found = []
    for kind in ("fakeredis", "valkey"):
        server = real_servers.get(kind)
        if server is None:
            pytest.skip(matrix.why_absent(kind))
        watched.append(server.client())
        found.append((server, server.client(decode_responses=True), server))
    return found


@pytest.mark.parametrize("flavour", EXAMPLES)
def test_both_servers_and_the_oracle_agree(sides, flavour):
    clients = [
        (server, client, server.store_client() if flavour == "sync" else server.async_client())
        for server, client, _ in sides
    ]
    options = settings(examples(EXAMPLES[flavour]), stateful_step_count=STEPS)
    run_state_machine_as_test(lambda: Machine(clients, flavour), settings=options)
