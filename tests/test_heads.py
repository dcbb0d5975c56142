"""The Lua and what is said of it: heads against the commands, against what is sent, and against what comes back.

A head that nothing holds to is wrong within a year. So each line of it is compared with the Shape that calls are built
from, with the KEYS and ARGV of real calls, and with the replies of every server. And what the house forbids in Lua is
looked for in every branch of every script.
"""

from __future__ import annotations

import re

import lupa.lua51
import pytest

from redis_kvpoll import KVPoll, Outcome, commands, scripts
from redis_kvpoll.commands import Agreement, Layout
from redis_kvpoll.commands import settings as settings_module
from redis_kvpoll.commands.shape import SHAPES, Shape
from tests import lua

NAMES = sorted(scripts.names())
LABELS = ("KEYS", "ARGV", "REPLY", "FEED", "CODES")
TTL_MS = "60000"
A, B = 2**53 + 1, 2**63 - 1

# Every operation of the commands, on one room or two.
OPERATIONS = {
    "update": [commands.update_status(A, 1), commands.update_many({A: 3, B: 1})],
    "abort": [commands.abort(A, "why"), commands.abort(B, "why")],
    "record_failure": [commands.record_failure(A, "why")],
    "clear": [commands.clear(A), commands.clear_many([A, B]), commands.failure_exception(A)],
    "poll": [commands.get(A, None), commands.check_status(A), commands.poll([A, B, A])],
    "touch": [commands.touch([A, B])],
    "entry": [commands.entry(A), commands.failure_reason(A)],
    "set_prefix": [commands.set_decode_prefix_len(A, 7)],
    "pop_prefix": [commands.pop_decode_prefix_len(A)],
}


def table(mode="none", policy="compat"):
    return Layout("ns", 1, policy, mode, TTL_MS, TTL_MS)


def head(name):
    """(the prose, {label: text}) of a script's first comment."""
    lines = []
    for line in scripts.load(name).source.split("\n"):
        if not line.startswith("--"):
            break
        lines.append(line[2:].strip())
    labelled = {}
    for line in lines:
        label, _, text = line.partition(" ")
        if label in LABELS:
            assert label not in labelled, f"{name}.lua has two lines {label}"
            labelled[label] = text.strip()
    return " ".join(lines), labelled


def words(text):
    """(once, each): the words before ``each:`` and those after."""
    if text == "nothing":
        return [], []
    once, _, each = text.partition("each:")
    split = [[word.strip() for word in part.strip(" ;").split(",") if word.strip()] for part in (once, each)]
    return split[0], split[1]


def codes(name):
    return {
        int(code): word for code, word in (pair.split() for pair in head(name)[1].get("CODES", "").split(",") if pair)
    }


class TestHeads:
    @pytest.mark.parametrize("name", NAMES)
    def test_form(self, name):
        prose, labelled = head(name)
        assert tuple(labelled) in (LABELS[:4], LABELS), "KEYS, ARGV, REPLY, FEED and perhaps CODES, in this order"
        assert re.match(r"[A-Z][^.]+\.", prose), "a head begins with what the script does"
        assert ("_ms" in " ".join(labelled.values())) == ("imes are milliseconds" in prose), "units are named"
        assert scripts.load(name).source.count("\n") <= 60

    def test_every_script_is_known_and_every_known_script_is_there(self):
        assert set(NAMES) == {shape.script.name for shape in SHAPES} | {settings_module.SCRIPT.name}
        assert len(SHAPES) == len({shape.script.name for shape in SHAPES})

    def test_every_shape_is_listed_and_used(self):
        made = [value for value in vars(commands.shape).values() if isinstance(value, Shape)]
        assert sorted(shape.script.name for shape in made) == sorted(shape.script.name for shape in SHAPES)
        for name, operations in OPERATIONS.items():
            assert {command.shape.script.name for command in operations} == {name}
        assert set(OPERATIONS) == {shape.script.name for shape in SHAPES}
        functions = {word for word in commands.__all__ if word.islower()}
        assert {command.operation for some in OPERATIONS.values() for command in some} == functions

    @pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.script.name)
    def test_a_head_says_what_its_shape_says(self, shape):
        labelled = head(shape.script.name)[1]
        keys = [*shape.keys, *(["prefix in mode prefill"] if shape.prefix_in_prefill else [])]
        assert words(labelled["KEYS"]) == ([], keys)
        assert words(labelled["ARGV"]) == (list(shape.once), list(shape.item))
        assert words(labelled["REPLY"]) == ([], list(shape.reply))
        assert codes(shape.script.name) == {outcome.value: outcome.name for outcome in shape.codes}
        assert ("outcome" in shape.reply) == bool(shape.codes)

    def test_the_head_of_settings(self):
        labelled = head("settings")[1]
        assert words(labelled["KEYS"]) == (["settings"], [])
        assert words(labelled["ARGV"]) == (["ttl_ms", *settings_module.NAMES], [])
        assert words(labelled["REPLY"]) == (list(settings_module.NAMES), [])
        call = Agreement.checked("ns", None, None, None).call()
        assert (len(call.keys), len(call.args)) == (1, 1 + len(settings_module.NAMES))

    @pytest.mark.parametrize("name", NAMES)
    def test_codes_are_those_of_the_enum(self, name):
        assert codes(name).items() <= {outcome.value: outcome.name for outcome in Outcome}.items()

    @pytest.mark.parametrize("name", NAMES)
    def test_the_feed_is_what_the_head_says(self, name):
        appends = any(command in scripts.load(name).source for command in ("'XADD'", "'PUBLISH'", "'SPUBLISH'"))
        assert appends == (head(name)[1]["FEED"] != "nothing")


class TestCalls:
    @pytest.mark.parametrize("mode", ["none", "prefill", "decode"])
    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_what_is_sent_and_what_comes_back(self, client, name, mode):
        labelled = head(name)[1]
        keys, (once, each) = words(labelled["KEYS"])[1], words(labelled["ARGV"])
        keys = [key for key in keys if mode == "prefill" or not key.endswith(" in mode prefill")]
        width = len(words(labelled["REPLY"])[1])
        for fill in (None, 1, 4):
            client.flushall()
            for command in OPERATIONS[name]:
                if fill:
                    send(client, commands.update_status(A, fill), table(mode))
                (call,) = command.calls(table(mode))
                assert len(call.keys) == len(keys) * len(command.rooms)
                assert call.args[: len(once)] == [getattr(table(mode), word) for word in once]
                assert len(call.args) == len(once) + len(each) * len(command.rooms)
                assert len(send(client, command, table(mode))) == width * len(command.rooms)

    def test_settings(self, client):
        call = Agreement.checked("ns", None, None, None).call()
        assert len(client.eval(call.script.source, 1, *call.keys, *call.args)) == len(settings_module.NAMES)

    def test_the_codes_that_occur_are_those_of_the_head(self, client):
        """The whole rule: every status, or none, meets every other, under both policies."""
        seen = {"update": set(), "abort": set()}
        for policy in ("compat", "strict"):
            for there in (None, *KVPoll):
                for incoming in (None, *KVPoll):
                    client.flushall()
                    if there is not None:
                        send(client, commands.update_many({A: 1}), table(policy=policy))
                        send(client, commands.update_many({A: there}), table(policy=policy))
                    command = commands.abort(A, "why") if incoming is None else commands.update_status(A, incoming)
                    seen[command.shape.script.name].add(send(client, command, table(policy=policy))[0])
        assert seen == {name: set(codes(name)) for name in seen}


def send(client, command, table):
    (call,) = command.calls(table)
    return client.eval(call.script.source, len(call.keys), *call.keys, *call.args)


# What a script may use. tonumber and tostring are not among it: room ids and generations stay strings.
GLOBALS = {"KEYS", "ARGV", "redis", "string", "math", "table", "ipairs", "pairs"}
REDIS = {"call", "pcall", "error_reply", "status_reply"}
FORBIDDEN = {
    "a #! line": r"\A#!",
    "the bit library": r"\bbit\s*\.",
    "cmsgpack": r"\bcmsgpack\b",
    "redis.sha1hex": r"\bsha1hex\b",
    "unpack": r"\bunpack\b",
    "a read-only EVAL": r"(?i)\b(EVAL|EVALSHA|FCALL)_RO\b",
    "the TTL of a field": r"(?i)['\"]H(P?EXPIRE(AT)?|P?TTL|SETEX|GETEX)\b",
    "a conditional EXPIRE": r"(?i)['\"]P?EXPIRE(AT)?['\"][^\n]*['\"](NX|XX|GT|LT)['\"]",
    "XADD with a half-made id": r"(?i)['\"]XADD\b[^\n]*-\*",
}


def globals_of(source):
    """What a script uses and should not: globals read or written, and members that Lua 5.1 has not."""
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
    def test_globals(self, name):
        assert globals_of(scripts.load(name).source) == []

    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_forbidden(self, name):
        assert forbidden_in(scripts.load(name).source) == []

    @pytest.mark.parametrize("name", NAMES)
    def test_every_key_is_declared(self, name):
        """A command's key is an element of KEYS, or a local that was made from one."""
        code = re.sub(r"--[^\n]*", "", scripts.load(name).source)
        calls = re.findall(r"redis\.p?call\(\s*'(\w+)'\s*(?:,\s*(\w+))?", code)
        assert calls
        assert len(calls) == code.count("redis.")
        for command, key in calls:
            declared = key == "KEYS" or re.search(rf"local {key}\b[^=\n]*= KEYS\[", code)
            assert command == "TIME" or declared, f"{command} {key}"

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
    def test_the_search_for_globals_finds(self, source, wrong):
        assert globals_of(source) == wrong

    @pytest.mark.parametrize("source", ["local = 1", "if x then", "return 1 2", "f", "local a = 'x", "x ="])
    def test_what_cannot_be_read_is_an_error(self, source):
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
    def test_the_search_for_the_forbidden_finds(self, source, what):
        assert what in forbidden_in(source)
        assert forbidden_in("-- " + source) == []
