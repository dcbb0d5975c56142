"""The model equals real servers: the same commands and scripts give the same replies and data."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import room_commands, scripts
from tests.model.operations import context
from tests.model.redis_lua import ScriptError, ScriptRunner
from tests.model.redis_model import EMPTY, KNOWN, RedisModel
from tests.support.fuzzing import examples

REAL = pytest.mark.parametrize("server", ["valkey", "redis", "redis62"], indirect=True)
TTLS = (b"300000", b"900000")
TYPES = {"hash", "zset", "stream"}


class RealSide:
    """A real server."""

    def __init__(self, client):
        self.client = client

    def execute(self, *words):
        return plain(lambda: raw(self.client, *words))

    def run(self, source, keys, argv):
        return plain(lambda: raw(self.client, "EVAL", source, len(keys), *keys, *argv))

    def dump(self):
        return comparable(
            [
                (key, kind := self.client.type(key).decode(), self.client.pttl(key), self.value(key, kind))
                for key in self.keys()
            ]
        )

    def keys(self):
        """Without the counts of refused writes, which the model's state leaves out."""
        return sorted(key for key in self.client.scan_iter() if not key.endswith(b":refused"))

    def value(self, key, kind):
        if kind == "hash":
            return sorted(self.client.hgetall(key).items())
        if kind == "zset":
            return sorted(self.client.zrange(key, 0, -1, withscores=True))
        return [words for _, words in raw(self.client, "XRANGE", key, "-", "+")]


class ModelSide:
    """The model, its clock set to the real time before each call."""

    def __init__(self):
        self.model = RedisModel()
        self.runner = ScriptRunner(self.model)

    def execute(self, *words):
        self.model.now_us = time.time_ns() // 1000
        self.model.expire()
        return plain(lambda: self.model.execute(*words))

    def run(self, source, keys, argv):
        self.model.now_us = time.time_ns() // 1000
        return plain(lambda: self.runner.run(source, keys, argv))

    def dump(self):
        now = self.model.now_us // 1000
        found = []
        for key, kind, deadline, value in self.model.state():
            told = [list(words) for _, words in value] if kind == "stream" else list(value)
            found.append((key, kind, -1 if deadline is None else deadline - now, told))
        return comparable(found)


@REAL
def test_entry_by_its_id_matches_real_server(plain_client):
    model = RedisModel()
    for run in (lambda *words: raw(plain_client, *words), model.execute):
        first, second = (run(b"XADD", b"a", b"*", b"x", number) for number in (b"1", b"2"))
        assert run(b"XRANGE", b"a", first, first) == [[first, [b"x", b"1"]]]
        assert run(b"XRANGE", b"a", b"-", b"+", b"COUNT", b"5") == [[first, [b"x", b"1"]], [second, [b"x", b"2"]]]
        run(b"DEL", b"a")


def raw(client, *words):
    """The raw reply, before redis-py turns it into dicts and the like."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


def plain(call):
    try:
        return comparable(call())
    except ResponseError as error:
        return comparable(error)


def comparable(value):
    """A reply without what differs between two clocks and two servers' error messages."""
    if isinstance(value, ResponseError):
        return "WRONGTYPE" if "WRONGTYPE" in str(value) else "an error"
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    if isinstance(value, bytes):
        return re.sub(rb"(?<!\d)1\d{12}(\d{3})?(-\d+)?(?!\d)", lambda m: b"<%d digits>" % len(m[0]), value)
    if isinstance(value, int) and value > 1000:
        return round(value, -5)  # a TTL
    return value


class Sides:
    """Both, empty."""

    def __init__(self, client):
        self.real, self.model = RealSide(client), ModelSide()

    def same(self, name, *args):
        assert getattr(self.model, name)(*args) == getattr(self.real, name)(*args), (name, args)
        assert self.model.dump() == self.real.dump(), (name, args)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.real.client.flushall()


@pytest.fixture
def plain_client(server):
    return server.client(protocol=2)  # by RESP3, some lists would be maps


# Commands

KEY = st.sampled_from((b"a", b"b"))
FIELD = st.sampled_from((b"x", b"y", b"status"))
VALUE = st.sampled_from((b"1", b"-7", b"Failed", b"", b"1.5"))
SCORE = st.sampled_from((b"1", b"-2.5", b"2800000000000001", b"2800000000000002", b"word"))
BOUND = st.sampled_from((b"1", b"(1", b"-inf", b"+inf", b"2800000000000001", b"(2800000000000002"))


def command(name, *parts):
    return st.tuples(st.just(name), *parts).map(
        lambda words: [word for part in words for word in ([part] if isinstance(part, bytes) else part)]
    )


FIELDS = st.lists(FIELD, min_size=1, max_size=3)
PAIRS = st.lists(st.tuples(FIELD, VALUE), min_size=1, max_size=3).map(
    lambda pairs: [word for pair in pairs for word in pair]
)
SCORES = st.lists(st.tuples(SCORE, FIELD), min_size=1, max_size=3).map(
    lambda pairs: [word for pair in pairs for word in pair]
)
LIMIT = st.sampled_from(((), (b"LIMIT", b"0", b"1"), (b"LIMIT", b"1", b"5"), (b"LIMIT", b"0", b"-1")))
XADD_TO_END = (b"NOMKSTREAM", b"MAXLEN", b"~", b"100", b"*")
COMMANDS = st.one_of(
    command(b"HSET", KEY, PAIRS),
    command(b"HSETNX", KEY, FIELD, VALUE),
    *[command(name, KEY, FIELD) for name in (b"HGET", b"HEXISTS", b"ZSCORE")],
    *[command(name, KEY, FIELDS) for name in (b"HMGET", b"HDEL", b"ZREM")],
    *[command(name, KEY) for name in (b"HLEN", b"HGETALL", b"HKEYS", b"ZCARD", b"XLEN", b"PTTL")],
    command(b"HINCRBY", KEY, FIELD, st.sampled_from((b"1", b"-3"))),
    *[command(name, st.lists(KEY, min_size=1, max_size=3)) for name in (b"DEL", b"EXISTS")],
    command(b"PEXPIRE", KEY, st.sampled_from((*TTLS, b"0", b"-1"))),
    command(b"ZADD", KEY, SCORES),
    command(b"ZRANGEBYSCORE", KEY, BOUND, BOUND, LIMIT),
    command(b"ZCOUNT", KEY, BOUND, BOUND),
    command(b"ZREMRANGEBYSCORE", KEY, BOUND, BOUND),
    command(b"XADD", KEY, st.sampled_from((XADD_TO_END, (b"*",), (b"MAXLEN", b"~", b"100", b"5-1"))), PAIRS),
    command(b"XRANGE", KEY, st.just((b"-", b"+", b"COUNT")), st.sampled_from((b"1", b"3"))),
    command(b"XRANGE", KEY, st.just((b"1-1", b"1-1"))),
    command(b"XREVRANGE", KEY, st.just((b"+", b"-", b"COUNT")), st.sampled_from((b"1", b"3"))),
)


@REAL
@examples(150)
@given(sequence=st.lists(COMMANDS, min_size=5, max_size=25))
def test_commands_match_real_server(plain_client, sequence):
    with Sides(plain_client) as sides:
        for words in sequence:
            sides.same("execute", *words)


@REAL
@examples(100)
@given(sequence=st.lists(COMMANDS, min_size=3, max_size=12))
def test_commands_from_script_match_real_server(plain_client, sequence):
    """Errors come as values; nil, numbers and lists cross into Lua and back."""
    source = "local r = redis.pcall(unpack(ARGV)) return {type(r), type(r) == 'table' and r.err and 1 or r, r == false}"
    with Sides(plain_client) as sides:
        for words in sequence:
            keys = words[1:] if words[0] in (b"DEL", b"EXISTS") else words[1:2]
            sides.same("run", source, keys, words)


@REAL
@pytest.mark.parametrize(
    "source",
    [
        "return {1, 2.7, -2.7, 'three', true, false, {4, {5}}, nil, 6}",
        "return {ok = 'fine'}",
        "return {err = 'ERR ours'}",
        "return {1, {err = 'ERR within'}, redis.error_reply('ERR too'), redis.status_reply('OK')}",
        "return nil",
        "return false",
        "return redis.call('HSET', KEYS[1], 'n', 1, 'm', 1.5, 'big', 2800000000000001)",
        "redis.call('HSET', KEYS[1], 'n', 'x') redis.call('ZADD', KEYS[1], 1, 'm') return 1",
        "redis.call('HSET', KEYS[1], 'n', 'x') return redis.call('HGETALL', KEYS[1])",
        "return {type(redis.call('HGET', KEYS[1], 'n')), type(redis.call('DEL', KEYS[1])), #redis.call('TIME')}",
        "return string.format('%.0f', '2800000000000001' + 1)",
        "return {#ARGV, ARGV[1], #KEYS, KEYS[1]}",
    ],
)
def test_lua_values_convert_as_on_real_server(plain_client, source):
    with Sides(plain_client) as sides:
        sides.same("run", source, [b"k"], [b"a \xff"])


# Our scripts

ROOMS = st.lists(st.sampled_from((1, 2)), min_size=1, max_size=2, unique=True)
ONE, STATUS = st.sampled_from((1, 2)), st.sampled_from(KVPoll)
COMMAND = st.one_of(
    *[st.dictionaries(ONE, STATUS, min_size=1).map(room_commands.update_many)] * 4,
    *[
        st.builds(build, ONE, st.sampled_from(("cause", "naïve ☃")))
        for build in (room_commands.abort, room_commands.record_failure)
    ],
    *[st.builds(build, ROOMS) for build in (room_commands.touch, room_commands.poll, room_commands.clear_many)],
    *[
        st.builds(build, ONE)
        for build in (room_commands.entry, room_commands.wait, room_commands.pop_decode_prefix_len)
    ],
    st.builds(room_commands.set_decode_prefix_len, ONE, st.sampled_from((0, 9))),
)
FOREIGN = st.tuples(
    st.sampled_from((b"room:1", b"prefix:1", b"room:2")),
    st.sampled_from(((b"ZADD", b"1", b"m"), (b"HSET", b"f", b"v"))),
)
ACTION = st.one_of(*[COMMAND] * 6, FOREIGN)


@REAL
@examples(120)
@given(
    where=st.builds(context, st.sampled_from(("compat", "strict")), st.sampled_from(("none", "prefill"))),
    actions=st.lists(ACTION, min_size=4, max_size=15),
)
def test_scripts_match_real_server(plain_client, where, actions):
    with Sides(plain_client) as sides:
        for action in actions:
            if isinstance(action, room_commands.Command):
                for call in action.calls(where):
                    keys = [key.encode() for key in call.all_keys]
                    argv = [word.encode() for word in (*call.shared_args, *call.room_args)]
                    sides.same("run", call.spec.script.source, keys, argv)
            else:  # a key of another type, made by hand
                name, (put, *words) = action
                key = b"kvpoll:{m}:" + name
                for command in ((b"DEL", key), (put, key, *words), (b"PEXPIRE", key, TTLS[0])):
                    sides.same("execute", *command)


def test_model_knows_all_commands_of_scripts():
    sent = {name for script in scripts.names() for name in re.findall(r"call\('(\w+)'", scripts.load(script).source)}
    assert sent <= KNOWN


def test_broken_script_raises():
    """What a real server would refuse, and a key that is not declared, which only a cluster would notice."""
    runner = ScriptRunner(RedisModel())
    for source in ("return undefined", "assigned = 1", "return redis.call('HGET', 'other', 'x')", "return nil + 1"):
        with pytest.raises(ScriptError):
            runner.run(source, [b"k"], [])
    with pytest.raises(NotImplementedError, match="GEOADD"):
        runner.run("return redis.call('GEOADD', KEYS[1])", [b"k"], [])


def test_key_expires_by_the_clock():
    model = RedisModel()
    model.execute(b"HSET", b"k", b"f", b"v")
    model.execute(b"PEXPIRE", b"k", b"10")
    model.now_us += 9_999
    state = model.state()
    model.put(EMPTY)
    model.put(state)
    assert model.state() == state != EMPTY
    model.now_us += 1
    assert model.state() == EMPTY
