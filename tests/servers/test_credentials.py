"""Credentials that come from a provider, end, or are taken back by the server."""

from __future__ import annotations

import pytest
from redis.credentials import CredentialProvider

from redis_kvpoll import KVPoll, Outcome, ServerRefusedError, StoreUnavailableError
from tests.support import pace
from tests.support.internals import idle_connections_of


class Token(CredentialProvider):
    """A provider whose source of tokens fails so many times."""

    def __init__(self, failures=0):
        self.failures = failures

    def get_credentials(self):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("token endpoint: 503")
        return "default", "pw"


@pytest.fixture
def server(world):
    server = world.serve()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">pw")
        yield server
        client.execute_command("ACL", "SETUSER", "default", "nopass")


def store_with(world, server, token, **options):
    client = world.client(lambda: world.redis.Redis(port=server.port, credential_provider=token))
    return world.over(client, **options)


class TestProvider:
    def test_failure_of_a_moment_costs_no_call(self, world, server):
        token = Token(failures=1)
        store = store_with(world, server, token, deadline=60.0)
        assert store.update_status(1, 1).outcome is Outcome.CREATED
        token.failures = 1
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        assert store.clear(1) is KVPoll.Bootstrapping  # it was not sent, so it may be tried again

    def test_lasting_failure_is_named(self, world, server):
        store = store_with(world, server, Token(failures=10**9), deadline=pace.seconds(0.3))
        with pytest.raises(StoreUnavailableError, match=r"RuntimeError: token endpoint: 503.*credential provider"):
            store.get(1)


class TestStandingConnection:
    """RESET takes back a connection's authentication, as a server does at the end of a token."""

    @staticmethod
    def deauthenticate(world, store):
        (connection,) = idle_connections_of(store)
        for answer in (connection.send_command("RESET"), connection.read_response()):
            found = world.finish(answer) if world.is_async else answer
        assert found == b"RESET"

    @pytest.mark.parametrize("call", ["update_status", "clear", "poll"])
    def test_lost_authentication_costs_no_call(self, world, server, call):
        store = store_with(world, server, Token(), deadline=60.0)
        store.update_status(1, 1)
        self.deauthenticate(world, store)
        found = getattr(store, call)(*{"update_status": (1, 3), "clear": (1,), "poll": ([1],)}[call])
        assert getattr(found, "outcome", found) in (Outcome.ADVANCED, KVPoll.Bootstrapping, [KVPoll.Bootstrapping])

    def test_lost_authentication_without_password_is_refused(self, world, server):
        store = store_with(world, server, Token(), deadline=60.0)
        store.update_status(1, 1)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        self.deauthenticate(world, store)
        with pytest.raises(ServerRefusedError, match="WRONGPASS"):
            store.get(1)
