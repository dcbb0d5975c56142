"""The project's rules for Lua, checked in every branch of every script and its includes.

Real servers refuse an undefined global only when a script reaches it, and fakeredis never does.
"""

from __future__ import annotations

import re

import lupa.lua51
import pytest

from redis_kvpoll.protocol import scripts
from tests.support import lua
from tests.support.luakeys import undeclared_keys

NAMES = sorted(scripts.names())

# What a script may use. Not tonumber and tostring: room ids and generations stay strings.
GLOBALS = {"KEYS", "ARGV", "redis", "string", "math", "table", "ipairs", "next", "pairs", "type", "unpack"}
REDIS = {"call", "pcall", "error_reply", "status_reply"}
FORBIDDEN = {
    "a #! line": r"\A#!",
    "the bit library": r"\bbit\s*\.",
    "cmsgpack": r"\bcmsgpack\b",
    "redis.sha1hex": r"\bsha1hex\b",
    # An entry of the feed, fields of a room and a chunk of rooms have a limit; lists of rooms may be too long.
    "unpack": r"\bunpack\b(?!\((entry|gone|lengths|names|chunk)(, 1, (n|size))?\)|\(owners, 1, m\))"
    r"(?!\(new_parts, first, last\)|\((changed|parts|names), first, math\.min)",
    "a read-only EVAL": r"(?i)\b(EVAL|EVALSHA|FCALL)_RO\b",
    "the TTL of a field": r"(?i)['\"]H(P?EXPIRE(AT)?|P?TTL|SETEX|GETEX)\b",
    "a conditional EXPIRE": r"(?i)['\"]P?EXPIRE(AT)?['\"][^\n]*['\"](NX|XX|GT|LT)['\"]",
    "XADD with a half-made id": r"(?i)['\"]XADD\b[^\n]*-\*",
}


def globals_of(source):
    """What a script must not use: other globals, and members that Lua 5.1 does not have."""
    script = lua.Script(source)
    runtime = lupa.lua51.LuaRuntime()
    wrong = [f"line {line}: reads {name}" for name, line in script.reads if name not in GLOBALS]
    wrong += [f"line {line}: writes {name}" for name, line in script.writes]
    for name, member in sorted(script.members):
        there = REDIS if name == "redis" else set(runtime.globals()[name] or ()) if name in GLOBALS else {member}
        if member not in there:
            wrong.append(f"{name}.{member} does not exist")
    return wrong


def forbidden_in(source):
    code = re.sub(r"--[^\n]*", "", source)
    return [what for what, pattern in FORBIDDEN.items() if re.search(pattern, code)]


class TestHouseRules:
    @pytest.mark.parametrize("name", NAMES)
    def test_script_uses_allowed_globals(self, name):
        assert globals_of(scripts.load(name).source) == []

    @pytest.mark.parametrize("name", NAMES)
    def test_script_uses_nothing_forbidden(self, name):
        assert forbidden_in(scripts.load(name).source) == []

    @pytest.mark.parametrize("name", NAMES)
    def test_script_declares_every_key(self, name):
        source = scripts.load(name).source
        assert "redis." in source
        # The counts of refused writes are not: lua/include/refused.lua says why.
        assert [call for call in undeclared_keys(source) if not call.endswith("refused_key")] == []

    @pytest.mark.parametrize(
        ("source", "wrong"),
        [
            ("redis.call('GET', KEYS[1])", []),
            ("redis.call('GET', KEYS[i * 2 + 1]) redis.pcall('DEL', KEYS[#KEYS - (i)])", []),
            ("redis.call('GET', 'kvpoll:1')", ["GET 'kvpoll:1'"]),
            ("redis.call('GET', ARGV[1])", ["GET ARGV[1]"]),
            ("redis.call('GET', KEYS[1] .. ':more')", ["GET KEYS[1]..':more'"]),
            ("redis.call('KEYS', '*')", ["KEYS '*'"]),
            ("redis.call('PUBLISH', channel, 'x')", ["PUBLISH channel"]),
            ("redis.call('FLUSHALL')", ["FLUSHALL"]),
            ("local time = redis.call('TIME')", []),
            ("local call = redis.call call('GET', 'x')", ["redis"]),
            ("redis.call('DEL', KEYS[1], 'x')", ["DEL 'x'"]),
            ("local room, status = KEYS[1], ARGV[1] redis.call('GET', room)", []),
            ("local room, status = KEYS[1], ARGV[1] redis.call('GET', status)", ["GET status"]),
            ("local status, room = f(1, 2), KEYS[1] redis.call('GET', room)", []),
            ("local room, prefix, fence = KEYS[i * 2],\n  KEYS[i], ARGV[1]\nredis.call('DEL', room, prefix)", []),
            ("local room = KEYS[1]\nlocal room = ARGV[1]\nredis.call('GET', room)", ["GET room"]),
            ("local room = KEYS[1]\nroom = room .. 'x'\nredis.call('GET', room)", ["GET room"]),
            ("local room\nif a then room = KEYS[1] end\nredis.call('GET', room)", []),
            ("local room redis.call('GET', room)", ["GET room"]),
            ("for _, room in ipairs(KEYS) do redis.call('GET', room) end", ["GET room"]),
            ("for room = 1, 2 do redis.call('GET', room) end", ["GET room"]),
            ("local function f(room) return redis.call('GET', room) end return f(KEYS[1])", []),
            ("local function f(a, room) redis.call('GET', room) end\nlocal key = KEYS[2]\nf(1, key) f(2, KEYS[1])", []),
            ("local function f(room) redis.call('GET', room) end\nf(KEYS[1]) f(ARGV[1])", ["GET room"]),
            ("local function f(room) redis.call('GET', room) end", ["GET room"]),
            ("local function f(room) redis.call('GET', room) end\nf(KEYS[1]) map(f, ARGV)", ["GET room"]),
            ("local function f(a, room) redis.call('GET', room) end f(KEYS[1])", ["GET room"]),
            ("local function f(k) redis.call('GET', k) end local function g(room) f(room) end g(KEYS[1])", []),
            ("local function f(k) redis.call('GET', k) end local function g(room) f(room) end g('x')", ["GET k"]),
        ],
    )
    def test_key_search_finds_undeclared_keys(self, source, wrong):
        assert undeclared_keys(source) == wrong

    @pytest.mark.parametrize(
        ("source", "wrong"),
        [
            ("x = 1", ["line 1: writes x"]),
            ("local a\na, b = 1, 2", ["line 2: writes b"]),
            ("return y", ["line 1: reads y"]),
            ("local z = z", ["line 1: reads z"]),
            ("for i = 1, 2 do local k = i end return k", ["line 1: reads k"]),
            ("for _, v in ipairs(KEYS) do redis.call('DEL', v) end return v", ["line 1: reads v"]),
            ("if KEYS[1] then local t = {} else t.x = 1 end", ["line 1: reads t"]),
            ("local function f(a) return a, c end\nreturn f(a)", ["line 1: reads c", "line 2: reads a"]),
            ("function g() end", ["line 1: writes g"]),
            ("local t = {[1] = u, w = 1, v}", ["line 1: reads u", "line 1: reads v"]),
            ("repeat local done = true until done return done", ["line 1: reads done"]),
            ("local s = 'x' .. ('%d'):format(n)", ["line 1: reads n"]),
            ("return table.pack(1)", ["table.pack does not exist"]),
            ("return redis.sha1hex('')", ["redis.sha1hex does not exist"]),
            ("return tonumber(KEYS[1])", ["line 1: reads tonumber"]),
            ("-- x = 1\n--[[ y = 2\n]] local z = [[w = 3]] return z", []),
            ("local t = {a = 1; 2}; t.a, t[1] = #t, -2 ^ 3 while not t.a do break end return t", []),
            ("local redis = {} return redis.anything", []),
        ],
    )
    def test_global_search_finds_globals(self, source, wrong):
        assert globals_of(source) == wrong

    @pytest.mark.parametrize("source", ["local = 1", "if x then", "return 1 2", "f", "local a = 'x", "x ="])
    def test_unreadable_lua_is_an_error(self, source):
        with pytest.raises(SyntaxError):
            lua.Script(source)

    @pytest.mark.parametrize(
        ("source", "what"),
        [
            ("#!lua flags=no-writes\n", "a #! line"),
            ("return bit.band(1, 2)", "the bit library"),
            ("return cmsgpack.pack({})", "cmsgpack"),
            ("return redis.sha1hex('')", "redis.sha1hex"),
            ("redis.call('DEL', unpack(KEYS))", "unpack"),
            ("redis.call('evalsha_ro', KEYS[1])", "a read-only EVAL"),
            ("redis.call('HPEXPIRE', KEYS[1], 5)", "the TTL of a field"),
            ("redis.call('PEXPIRE', KEYS[1], 5, 'NX')", "a conditional EXPIRE"),
            ("redis.call('XADD', KEYS[1], 5 .. '-*', 'a', 'b')", "XADD with a half-made id"),
        ],
    )
    def test_forbidden_search_finds_each_kind(self, source, what):
        assert what in forbidden_in(source)
        assert forbidden_in("-- " + source) == []
