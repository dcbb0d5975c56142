"""The suite has teeth: faults that are put on purpose into scripts, client and plugin, each caught by a test.

That test is run in here, as it is and then with the fault on. A fault whose text is there no longer fails at once.
"""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPollError
from tests.mutation import mutate as faulty
from tests.mutation.in_client import IN_THE_CLIENT
from tests.mutation.in_lua import IN_LUA
from tests.mutation.in_plugin import IN_THE_PLUGIN

ALL = IN_LUA + IN_THE_CLIENT + IN_THE_PLUGIN


@pytest.mark.parametrize(("where", "good", "bad", "test"), [pytest.param(*fault, id=name) for name, *fault in ALL])
def test_mutation_is_caught(where, good, bad, test):
    twice = faulty.run_twice(f"tests/{test}", where, good, bad)
    assert twice.ran == 1, "no such test, or several"
    assert not twice.sound, "it fails without the fault, too:\n" + "\n".join(twice.sound)
    assert twice.errors, "nothing was noticed"
    # What the test says, or an error of ours that it did not expect; nothing that the fault could not but lead to.
    assert isinstance(twice.errors[0], AssertionError | pytest.fail.Exception | KVPollError), repr(twice.errors[0])


def test_mutation_without_its_text_is_an_error():
    with pytest.raises(faulty.NoSuchTextError, match="0 times"), faulty.fault("update.lua", "no such text", ""):
        pass
    with (
        pytest.raises(faulty.NoSuchTextError, match="not once"),
        faulty.fault("engine.tracked_rooms:TrackedRooms.mark_clearing", "room", ""),
    ):
        pass


def test_each_kind_has_enough_mutations():
    assert min(len(IN_LUA), len(IN_THE_CLIENT)) >= 12
    assert len(IN_THE_PLUGIN) >= 5
    assert len({fault[:3] for fault in ALL}) == len(ALL)
