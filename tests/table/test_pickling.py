"""Exceptions can be pickled and copied: they cross process boundaries. What has connections cannot, and says so."""

from __future__ import annotations

import copy
import pickle

import pytest

import redis_kvpoll
from redis_kvpoll import KVPoll, errors

ARGUMENTS = {
    errors.RoomNotFoundError: (5,),
    errors.KVTransferError: (5, "peer gone"),
    errors.CorruptEntryError: (5, "get", "status 'Banana'"),
    errors.RoomBusyError: (5, KVPoll.Transferring, 1.5, "prefill-0", "rid"),
    errors.WorldSizeMismatchError: (5, "update_status", "4", "2"),
    errors.LeaseLostError: ("update_status", "prefill-0"),
    errors.WaitTimeoutError: (5, KVPoll.Bootstrapping, 2.5),
    errors.FeedOffError: ("mirror", "prod"),
    errors.NamespaceMismatchError: ("prod", "policy", "strict", "compat"),
}
ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception) and not value.__name__.startswith("_")
]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_error_survives_pickle_and_copy(kind, again):
    error = kind(*ARGUMENTS.get(kind, ("what happened",)))
    found = again(error)
    assert type(found) is kind
    assert str(found) == str(error) != ""
    assert (found.args, vars(found)) == (error.args, vars(error))


def test_a_call_that_may_have_run_is_not_caught_as_one_to_retry():
    assert not issubclass(errors.OutcomeUnknownError, errors.StoreUnavailableError)


def test_all_errors_are_public_and_in_one_tree():
    assert len(ALL) > 10
    for kind in set(ALL) - {errors.KVPollError, errors.EvictionWarning}:
        assert issubclass(kind, errors.KVPollError)
    assert {kind.__name__ for kind in ALL} <= set(redis_kvpoll.__all__)


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("maker", [redis_kvpoll.StatusStore, redis_kvpoll.AsyncStatusStore])
@pytest.mark.parametrize("given", ["itself", "mirror", "statistics", "lease", "failures", "tail"])
def test_what_has_connections_says_what_to_do_instead(leave, maker, given):
    """A shallow copy of a store was another one that closed the first."""
    store = maker.from_url("redis://localhost:1")
    arguments = {"lease": ["prefill-0"], "failures": [list]}.get(given, [])
    found = store if given == "itself" else getattr(store, given)(*arguments)
    with pytest.raises(TypeError, match=f"^{type(found).__name__} can be neither pickled nor copied: make a store in"):
        leave(found)
