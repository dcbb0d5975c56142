"""What kvpoll serve refuses to do, before it listens."""

from __future__ import annotations

import pytest

from redis_kvpoll import InvalidInputError
from redis_kvpoll.serve import credentials
from redis_kvpoll.serve.config import ServeConfig, is_loopback
from redis_kvpoll.serve.credentials import SESSION_SECONDS, Credentials, User

ALICE, BOB = User("alice", "correct horse"), User("bob", "battery staple")
ACTING = {"allow_actions": True, "actions_url": "redis://localhost"}


def config(**options):
    return ServeConfig("redis://localhost", ("prod",), **options).checked()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_credentials(host):
    assert config(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "kvpoll.example", ""])  # noqa: S104 - they are refused
def test_other_addresses_need_credentials(host):
    with pytest.raises(InvalidInputError, match="--password-file or --token-file, or --no-auth"):
        config(host=host)
    assert config(host=host, users=(ALICE,))
    assert config(host=host, no_auth=True)


@pytest.mark.parametrize("host", ["a" * 64, "\udcff", "a..b"])
def test_host_that_no_resolver_takes_is_refused(host):
    """uvicorn ends with a traceback at it."""
    with pytest.raises(InvalidInputError, match="is not an address or a host name") as caught:
        config(host=host, no_auth=True)
    assert str(caught.value).isprintable()


def test_proxy_on_this_machine_lets_others_in():
    """It connects from loopback, whoever sends the request."""
    options = {"public_url": "https://ops.example/kvpoll"}
    with pytest.raises(InvalidInputError, match=r"--public-url .* --password-file or --token-file, or --no-auth"):
        config(**options)
    assert config(**options, users=(ALICE,))
    assert config(**options, no_auth=True)


def test_name_other_than_localhost_may_be_anywhere():
    assert not is_loopback("localhost.example")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_auth": True, "users": (ALICE,)}, "--no-auth contradicts"),
        ({"allow_actions": True}, "--allow-actions needs --actions-redis"),
        ({**ACTING, "host": "10.0.0.1", "no_auth": True}, "fail rooms"),
        ({**ACTING, "public_url": "https://ops.example"}, "--password-file or --token-file"),
        ({**ACTING, "public_url": "https://ops.example", "no_auth": True}, "fail rooms"),
        ({"public_url": "ops.example"}, "is not an http"),
        ({"log_url": "javascript:alert({room})"}, "--log-url"),
        ({"trace_url": "https://t.example/{secret}"}, "{secret} is not known"),
        ({"log_url": "https://t.example/{room.__class__}"}, "is not known"),
        ({"log_url": "https://t.example/{room"}, "is not a template"),
        ({"log_url": "https://t.example/{room}}"}, "is not a template: Single '}'"),
        ({"trace_url": "https://t.example/}"}, "is not a template"),
        ({"trace_url": "https://["}, "--trace-url"),
        ({"public_url": "https://["}, "is not an http"),
        ({"public_url": "https://:8443"}, "is not an http"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        config(**options)


def test_password_file_names_users(tmp_path):
    file = tmp_path / "passwords"
    file.write_text("alice:correct horse\n\nbattery staple\nbob:with:colons\n")
    assert [(user.name, user.secret) for user in credentials.read_passwords(str(file))] == [
        ("alice", "correct horse"),
        ("kvpoll", "battery staple"),
        ("bob", "with:colons"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("alice:short", "8 characters or more"), ("a b:long enough", "line 1: a name has")],
)
def test_bad_password_file_is_refused(tmp_path, content, message):
    file = tmp_path / "passwords"
    file.write_text(content)
    with pytest.raises(InvalidInputError, match=message) as caught:
        credentials.read_passwords(str(file))
    assert not content or content.partition(":")[2] not in str(caught.value).replace("long enough", "")


def test_missing_password_file_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="No such file"):
        credentials.read_tokens(str(tmp_path / "nowhere"))


def test_secret_is_not_in_a_repr():
    assert "correct" not in repr(ALICE)
    assert "correct" not in repr(ServeConfig("redis://localhost", ("prod",), users=(ALICE,)))


def test_header_names_its_user():
    checked = Credentials([ALICE, BOB])
    assert checked.check_header("Bearer battery staple") == "bob"
    assert checked.check_header("Basic YWxpY2U6Y29ycmVjdCBob3JzZQ==") == "alice"
    assert checked.check_header("Basic Ym9iOmNvcnJlY3QgaG9yc2U=") is None  # bob with alice's password
    for wrong in ("", "Bearer ", "Bearer x", "Basic !", "Basic", "Digest battery staple"):
        assert checked.check_header(wrong) is None


def test_session_ends_with_its_time_and_with_the_secret():
    cookie = Credentials([ALICE, BOB]).start_session("alice", now=1000.0)
    assert Credentials([ALICE]).check_session(cookie, 1001.0) == "alice"  # after a restart, too
    assert Credentials([ALICE]).check_session(cookie, 1000.0 + SESSION_SECONDS) is None
    assert Credentials.session_ends_at(cookie) == 1000.0 + SESSION_SECONDS
    assert Credentials([User("alice", "another one")]).check_session(cookie, 1001.0) is None
    assert Credentials([ALICE, BOB]).check_session(cookie.replace("alice", "bob"), 1001.0) is None
    assert Credentials([ALICE]).check_session(cookie.replace(":4", ":9"), 1001.0) is None
    for wrong in ("", "alice", "alice:", "alice:99999999999:", "alice:x:y", "alice:²:y", "alice:99999999999:é"):
        assert Credentials([ALICE]).check_session(wrong, 0.0) is None
