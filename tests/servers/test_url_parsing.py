"""Parsing of URLs, good and bad, before a connection is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import AsyncStatusStore, InvalidInputError, StatusStore
from redis_kvpoll.transport.urls import Target, parse
from tests.support.fuzzing import examples

H = ("h", 6379)

GOOD = {
    "memory://": Target("memory"),
    "embedded://": Target("embedded"),
    "redis://": Target("single", (("localhost", 6379),), options={"host": "localhost", "port": 6379}),
    "redis://h": Target("single", (H,), options={"host": "h", "port": 6379}),
    "redis://h:1/": Target("single", (("h", 1),), options={"host": "h", "port": 1}),
    "valkey://h:1/3": Target("single", (("h", 1),), options={"host": "h", "port": 1, "db": 3}),
    "redis://h?db=3": Target("single", (H,), options={"host": "h", "port": 6379, "db": 3}),
    "redis://[::1]:1": Target("single", (("::1", 1),), options={"host": "::1", "port": 1}),
    "redis://:p%40%2F%3F%23w@h": Target("single", (H,), options={"host": "h", "port": 6379, "password": "p@/?#w"}),
    "redis://u:p@h": Target("single", (H,), options={"host": "h", "port": 6379, "username": "u", "password": "p"}),
    "redis://h?protocol=2&socket_timeout=0.5": Target(
        "single", (H,), options={"host": "h", "port": 6379, "protocol": 2, "socket_timeout": 0.5}
    ),
    "rediss://h": Target("single", (H,), options={"host": "h", "port": 6379, "ssl": True}),
    "valkeys://h": Target("single", (H,), options={"host": "h", "port": 6379, "ssl": True}),
    "unix:///a/b.sock?db=2": Target("single", options={"path": "/a/b.sock", "db": 2}),
    "unix://u:p@/a@b.sock": Target("single", options={"path": "/a@b.sock", "username": "u", "password": "p"}),
    "redis+cluster://h": Target("cluster", (H,)),
    "redis+cluster://h:1,i:2/0": Target("cluster", (("h", 1), ("i", 2))),
    "rediss+cluster://u:p@h": Target("cluster", (H,), options={"username": "u", "password": "p", "ssl": True}),
    "valkey+sentinel://h:1,i/main/2": Target("sentinel", (("h", 1), ("i", 26379)), "main", {"db": 2}),
    "redis+sentinel://:p@h/main?sentinel_password=q": Target(
        "sentinel", (("h", 26379),), "main", {"password": "p"}, {"password": "q"}
    ),
}

BAD = {
    "": "must start with one of memory://",
    " ": "must start with one of memory://",
    "h:6379": "must start with one of",
    "http://h": "must start with one of",
    "redis:/h": "must start with one of",
    "redis+foo://h": "must start with one of",
    "redis+cluster+sentinel://h": "must start with one of",
    "unix+cluster:///a": "must start with one of",
    "memory+cluster://": "must start with one of",
    "memory://h": "nothing may follow memory://",
    "embedded:///tmp": "nothing may follow embedded://",
    "unix://": "absolute path to a socket",
    "unix://a/b.sock": "absolute path to a socket",
    "redis://h:70000": "is no number from 1 to 65535",
    "redis://h:0": "port 0",
    "redis://h/db": "the database is a number",
    "redis://h/-1": "the database is a number",
    "redis://h?db=x": "Invalid value for 'db'",
    "redis://h?protocol=x": "Invalid value for 'protocol'",
    "redis://h,i": r"more than one host takes redis\+sentinel://",
    "redis://h i": "write / . # @ .* and blanks inside a user name or a password as",
    "redis://h#x": "write / . # @ .* and blanks inside a user name or a password as",
    "redis://h?path=/a": "option 'path'",
    "redis+cluster://": "names no host",
    "redis+cluster://h,": "names no host",
    "redis+cluster://h/1": "a cluster has only database 0",
    "redis+cluster://h?db=1": "a cluster has only database 0",
    "redis+sentinel://h": "names no service",
    "redis+sentinel://h//0": "names no service",
    "redis+sentinel:///main": "names no host",
    "redis+sentinel://h/main/x": "the database is a number",
}

SHOWN = {
    "": "''",
    " ": "' '",
    "redis:/h": "***",
    "unix+cluster:///a": "unix+cluster:///***",
    "embedded:///tmp": "embedded:///***",
    "unix://a/b.sock": "unix://a/***",
    "redis://h:70000": "redis://***",
    "redis://h/db": "redis://h/***",
    "redis://h/-1": "redis://h/***",
    "redis://h i": "redis://***",
    "redis://h#x": "redis://***",
    "redis://h?path=/a": "redis://h?path=***",
    "redis+sentinel://h/main/x": "redis+sentinel://h/***",
}
"""How a bad URL is shown, where a part of it may be a password. The others are shown as they are."""

UNKNOWN_OPTIONS = (
    "redis://h?colour=red",
    "rediss://h?ssl_colour=red",
    "unix:///a?colour=red",
    "redis://h?sentinel_password=x",
    "redis+cluster://h?colour=red",
    "redis+sentinel://h/main?colour=red",
    "redis+sentinel://h/main?sentinel_colour=red",
    "redis://h?protocol=9",
)

SECRET = "s3cr3t"  # noqa: S105
LEAKY = (
    f"redis://u:{SECRET}@h:port",
    f"redis://u:{SECRET}/x@h",
    f"redis://u:x/{SECRET}@h",
    f"redis://u:x/{SECRET}@h/1",
    f"redis://u:x?{SECRET}@h",
    f"redis://:x#{SECRET}@h",
    f"redis://:x@{SECRET}@h:port",
    f"redis://:{SECRET}@h@i/x",
    f"redis://u:\n{SECRET}@h",
    f"redis://h/x?password={SECRET}",
    f"redis://h/x?db=1&password={SECRET}&protocol=2",
    f"redis+sentinel://h/main/x?sentinel_password={SECRET}",
    f"rediss://h/x?ssl_password={SECRET}",
    f"http://u:{SECRET}@h",
    f"redis+cluster://u:{SECRET}@",
    f"redis+cluster://u:{SECRET}@h/7",
    f"unix://u:{SECRET}@",
    f"redis://u:{SECRET}@h?colour=red",
    f"redis://u:{SECRET}:6379",
    f"redis:///{SECRET}@h",
    f"redis://[::1/{SECRET}",
    f"redis://[{SECRET}]",
    f"redis://u:[{SECRET}]@h",
    f"redis://u:{SECRET}\u2100@h",
    f"redis://h/{SECRET}",
    f"redis://u:x,{SECRET}",
    f"redis://h?x&{SECRET}*=1",
    f"redis:u:{SECRET}://h",
    f"{SECRET}://h",
    SECRET,
)

SECRETS = (
    "$SECRET$",
    "/SECRET!",
    "#SECRET$",
    "@SECRET$",
    "?$SECRET",
    "[SECRET]",
    ":SECRET:",
    "%SECRET%",
    "\u2100SECRET*",
)
TEMPLATES = (
    "redis://user:{}@host:6379/0?protocol=3",
    "rediss://:{}@host",
    "unix://user:{}@/run/redis.sock?db=1",
    "redis+cluster://user:{}@a:1,b:2/0",
    "redis+sentinel://user:{}@a:1,b:2/main/0?sentinel_password={}",
    "redis://host/0?password={}&protocol=2",
)
"""A secret has no place where it may be taken for a host: there nobody could tell."""


@pytest.mark.parametrize("url", GOOD)
def test_good_url_gives_its_target(url):
    found = parse(url)
    wanted = GOOD[url]
    assert (found.kind, found.hosts, found.service) == (wanted.kind, wanted.hosts, wanted.service)
    options = {key: value for key, value in found.options.items() if (key, value) != ("db", 0)}
    assert (options, found.sentinel_options) == (wanted.options, wanted.sentinel_options)


def test_tls_applies_to_sentinels():
    found = parse("rediss+sentinel://h/main")
    assert (found.options["ssl"], found.sentinel_options["ssl"]) == (True, True)


@pytest.mark.parametrize("url", BAD)
def test_bad_url_is_refused(url):
    with pytest.raises(InvalidInputError, match=BAD[url]) as caught:
        parse(url)
    assert str(caught.value).startswith(f"URL {SHOWN.get(url, url)}: ")


@pytest.mark.parametrize("url", [None, 6379, b"redis://h", ["redis://h"]])
def test_url_that_is_no_str_is_refused(url):
    with pytest.raises(InvalidInputError, match="a URL is a str, not"):
        parse(url)


@pytest.mark.parametrize("maker", [StatusStore, AsyncStatusStore])
@pytest.mark.parametrize("url", UNKNOWN_OPTIONS)
def test_unknown_option_is_refused_by_from_url(maker, url):
    with pytest.raises(InvalidInputError, match=r"^URL .*: .*(colour|sentinel_password|protocol)"):
        maker.from_url(url)


@pytest.mark.parametrize("maker", [StatusStore, AsyncStatusStore])
@pytest.mark.parametrize("url", LEAKY)
def test_error_shows_no_password(maker, url):
    with pytest.raises(InvalidInputError) as caught:
        maker.from_url(url)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


EDITS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["", *":/?#@[]%,.=& "])), max_size=4)


@examples(100)
@given(st.sampled_from(TEMPLATES), st.sampled_from(SECRETS), EDITS)
def test_error_of_mistyped_url_shows_no_password(template, secret, edits):
    """Each edit removes a character of the URL around the password, or puts another there."""
    parts = template.split("{}")
    for at, new in edits:
        index = at % len(parts)
        cut = at % (len(parts[index]) + 1)
        parts[index] = parts[index][:cut] + new + parts[index][cut + (not new) :]
    assert "SECRET" not in error_of(secret.join(parts))


def error_of(url):
    """The message with which a URL is refused; empty if it is not."""
    try:
        StatusStore.from_url(url).close()
    except InvalidInputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("maker", [StatusStore, AsyncStatusStore])
@pytest.mark.parametrize(
    "url",
    [f"redis://u:{SECRET}@h", f"redis+cluster://:{SECRET}@h", f"redis+sentinel://h/m?sentinel_password={SECRET}"],
)
def test_repr_shows_no_password(maker, url):
    assert SECRET not in repr(maker.from_url(url))
    assert "***" in repr(maker.from_url(url))


@pytest.mark.parametrize(
    "url", ["redis://:s3cret", "redis://user:s3cret", "redis://user:s3cret/0", "rediss://a:s3cret,b"]
)
def test_password_without_host_is_not_shown(url):
    with pytest.raises(InvalidInputError) as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)
    assert "is no number from 1 to 65535" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h:6379/0", "redis://[fd00::1]:6379/0", "redis+cluster://a:1,[::1]:2", "redis://[::1]"]
)
def test_host_and_port_are_shown(url):
    assert parse(url).shown == url
