"""The names that serving engines and clusters really use are taken; their limits are documented."""

from __future__ import annotations

import pytest

from redis_kvpoll import InvalidInputError
from tests.support.leasing import ManualLease

HOST = "vllm-prefill-0.vllm-prefill-headless.llm-serving-production.svc.cluster.local"
LONG_HOST = ".".join(["x" * 62] * 4) + ".x"  # as long as a host name may be
REQUESTS = {
    "vLLM, P2P": f"___prefill_addr_{HOST}:21001___decode_addr_{HOST}:22001_{'0123456789abcdef' * 2}-0",
    "the longest hosts": f"___prefill_addr_{LONG_HOST}:21001___decode_addr_{LONG_HOST}:22001_{'0' * 32}-0",
    "OpenAI": "chatcmpl-9f6b2c0e-7f1f-4a5b-9d5a-0a6f0f7d2c11",
    "any language": "заявка 7",
}
OWNERS = ("prefill/[2001:db8::1]:8998", "prefill/fe80::1%eth0:8998", f"prefill/{LONG_HOST}:8998", "a")


@pytest.mark.parametrize("request_id", REQUESTS.values(), ids=REQUESTS)
def test_request_of_an_engine_is_kept_whole(store, request_id):
    with store.open(1, request=request_id) as room:
        assert (room.request, store.entry(1).request) == (request_id, request_id)


@pytest.mark.parametrize("owner", OWNERS)
def test_owner_with_an_address_is_kept_whole(make_store, client, owner):
    held = ManualLease(make_store(), owner).take()
    held.store.update_status(2**64 - 1, 1)
    assert [(found.name, found.rooms) for found in make_store().owners()] == [(owner, 1)]
    assert make_store().entry(2**64 - 1).owner == owner
    held.release()


@pytest.mark.parametrize("owner", ["", "a b", "a\n", "ä", "x" * 301, "a{b", "a\x1b[31m"])
def test_other_owner_is_refused(store, owner):
    with pytest.raises(InvalidInputError, match="an owner is 1 to 300"):
        store.lease(owner)


@pytest.mark.parametrize("request_id", ["", "x" * 1001, "a\n", "\x1b[31m"])
def test_other_request_is_refused(store, request_id):
    with pytest.raises(InvalidInputError, match="1 to 1,000 printable"):
        store.open(1, request=request_id)
