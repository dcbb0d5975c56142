"""The Lua and what is said of it: heads against the commands, against what is sent, and against what comes back.

A head that nothing holds to is wrong within a year. So each line of it is compared with the Shape that calls are built
from, with the KEYS and ARGV of real calls, and with the replies of every server.
"""

from __future__ import annotations

import re

import pytest

from redis_kvpoll import KVPoll, Outcome, commands, keys, scripts
from redis_kvpoll.commands import Agreement, Command, shapes
from redis_kvpoll.commands import settings as settings_module
from redis_kvpoll.commands.shape import Shape
from redis_kvpoll.commands.shapes import POLL, SHAPES, SNAPSHOT
from tests.feeds import entries
from tests.layouts import layout

NAMES = sorted(scripts.names())
SHARED = sorted(file.name.removesuffix(".lua") for file in (scripts.folder() / "shared").iterdir())
LABELS = ("KEYS", "ARGV", "REPLY", "FEED", "CODES", "USES")
MAY_LACK = ("CODES", "USES")
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
    "snapshot": [commands.wait(A), Command("snapshot", SNAPSHOT, [A, B], [], lambda *_: [], lambda *_: None)],
}


def table(mode="none", policy="compat", feed="100"):
    return layout(policy=policy, mode=mode, feed_length=feed, ttl_ms=TTL_MS, terminal_ttl_ms=TTL_MS)


def text_of(name):
    """A script's own file, without what it shares with others."""
    return (scripts.folder() / f"{name}.lua").read_text(encoding="utf-8")


def head(name):
    """(the prose, {label: text}) of a script's first comment."""
    lines = []
    for line in text_of(name).split("\n"):
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
        expected = tuple(label for label in LABELS if label not in MAY_LACK or label in labelled)
        assert tuple(labelled) == expected, "KEYS, ARGV, REPLY, FEED and perhaps CODES and USES, in this order"
        assert re.match(r"[A-Z][^.]+\.", prose), "a head begins with what the script does"
        assert ("_ms" in " ".join(labelled.values())) == ("imes are milliseconds" in prose), "units are named"
        assert text_of(name).count("\n") <= 64

    @pytest.mark.parametrize("name", SHARED)
    def test_the_form_of_what_is_shared(self, name):
        prose, labelled = head(f"shared/{name}")
        assert re.match(r"[A-Z][^.]+\.", prose), "a head begins with what it is"
        assert "imes are milliseconds" in prose
        assert not labelled, "KEYS and ARGV are said by the scripts that use it"
        assert text_of(f"shared/{name}").count("\n") <= 60

    def test_a_feed_has_one_ttl_whoever_begins_it(self):
        (in_lua,) = re.findall(r"FEED_TTL_MS = '(\d+)'", text_of("shared/feed"))
        assert table().feed_ttl_ms == in_lua

    def test_what_is_shared_is_used_and_goes_behind(self):
        used = {name: head(name)[1]["USES"] for name in NAMES if "USES" in head(name)[1]}
        assert set(used.values()) == set(SHARED)
        for name in NAMES:
            shared = text_of(f"shared/{used[name]}") if name in used else ""
            assert scripts.load(name).source == text_of(name) + shared

    def test_every_script_is_known_and_every_known_script_is_there(self):
        assert set(NAMES) == {shape.script.name for shape in SHAPES} | {settings_module.SETTINGS.script.name}
        assert len(SHAPES) == len({shape.script.name for shape in SHAPES})

    def test_every_shape_is_listed_and_used(self):
        made = [value for value in vars(shapes).values() if isinstance(value, Shape)]
        assert sorted(shape.script.name for shape in made) == sorted(shape.script.name for shape in SHAPES)
        for name, operations in OPERATIONS.items():
            assert {command.shape.script.name for command in operations} == {name}
        assert set(OPERATIONS) == {shape.script.name for shape in SHAPES}
        functions = {word for word in commands.__all__ if word.islower()}
        operations = {command.operation for some in OPERATIONS.values() for command in some}
        assert operations - functions == {"snapshot"}, (
            "snapshot has no method of a store: it is what mirrors begin with"
        )
        assert functions <= operations

    @pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.script.name)
    def test_a_head_says_what_its_shape_says(self, shape):
        labelled = head(shape.script.name)[1]
        names = [*shape.keys, *(["prefix in mode prefill"] if shape.prefix_in_prefill else [])]
        assert words(labelled["KEYS"]) == (["feed"] if shape.feed else [], names)
        assert words(labelled["ARGV"]) == (list(shape.once), list(shape.item))
        assert words(labelled["REPLY"]) == (["feed_id"] if shape.feed else [], list(shape.reply))
        appends = shape.once[:1] == ("feed_length",)  # ARGV[1] of all that use it
        assert labelled.get("USES") == ("feed" if appends else None)
        assert appends <= shape.feed
        assert codes(shape.script.name) == {outcome.value: outcome.name for outcome in shape.codes}
        assert ("outcome" in shape.reply) == bool(shape.codes)

    def test_the_head_of_settings(self):
        labelled = head("settings")[1]
        assert words(labelled["KEYS"]) == (["settings"], [])
        assert words(labelled["ARGV"]) == (["ttl_ms", *settings_module.NAMES], [])
        assert words(labelled["REPLY"]) == (list(settings_module.NAMES), [])
        call = agreement().call()
        assert (len(call.first_keys), len(call.once)) == (1, 1 + len(settings_module.NAMES))
        assert call.keys == call.items == []

    @pytest.mark.parametrize("name", NAMES)
    def test_codes_are_those_of_the_enum(self, name):
        assert codes(name).items() <= {outcome.value: outcome.name for outcome in Outcome}.items()


class TestCalls:
    @pytest.mark.parametrize("mode", ["none", "prefill", "decode"])
    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_what_is_sent_and_what_comes_back(self, client, name, mode):
        labelled = head(name)[1]
        first_keys, each_key = words(labelled["KEYS"])
        each_key = [key for key in each_key if mode == "prefill" or not key.endswith(" in mode prefill")]
        once, item = words(labelled["ARGV"])
        first_replies, each_reply = words(labelled["REPLY"])
        for command in over_all_fills(client, name, mode):
            (call,) = command.calls(table(mode))
            count = len(command.rooms)
            assert call.first_keys == [{"feed": keys.feed("ns")}[word] for word in first_keys]
            assert len(call.keys) == len(each_key) * count
            assert call.once == [getattr(table(mode), word) for word in once]
            assert len(call.items) == len(item) * count
            assert (call.tag, call.rooms, list(call.positions)) == ("ns", command.rooms, list(range(count)))
            assert len(send(client, command, table(mode))) == len(first_replies) + len(each_reply) * count

    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_what_is_appended_is_what_the_head_says(self, client, name):
        appended = []
        for command in over_all_fills(client, name):
            before = len(entries(client, "ns"))
            last = send(client, command, table())[0]
            after = entries(client, "ns")
            appended += [fields for _, fields in after[before:]]
            if command.shape.feed and len(after) > before:
                assert last == after[-1][0].decode()
            elif command.shape.feed:
                assert last is None or (name, last) == ("snapshot", after[-1][0].decode())
        found = list(dict.fromkeys(word for fields in appended for word in feed_words(fields)))
        said = head(name)[1]["FEED"]
        assert found == ([] if said == "nothing" else [word.strip() for word in said.split(",")])

    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_what_a_shape_says_that_it_leaves(self, client, name):
        """A mirror takes the caller's own writes from the reply."""
        for command in over_all_fills(client, name):
            looked = Command("poll", POLL, command.rooms, [], lambda *_: [], lambda *_: None)
            before = send(client, looked, table())
            reply = send(client, command, table())
            leaves = command.shape.leaves
            assert send(client, looked, table()) == (leaves(reply[1:]) if leaves else before)

    @pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"snapshot"}))  # mirrors need a feed
    def test_without_a_feed_nothing_is_appended(self, client, name):
        for command in over_all_fills(client, name, feed="0"):
            (call,) = command.calls(table(feed="0"))
            assert {*call.first_keys} <= {*call.keys}, "a cluster waits with several keys where it goes on with one"
            send(client, command, table(feed="0"))
        assert not client.exists(keys.feed("ns"))

    def test_settings(self, client):
        call = agreement().call()
        reply = client.eval(call.shape.script.source, *call.words()[2:])
        assert len(reply) == len(settings_module.NAMES)

    def test_calls_of_a_kind_become_one(self):
        one, two = (commands.abort(room, f"why {room}").calls(table("prefill"))[0] for room in (A, B))
        assert one.is_like(two)
        both = one.together([two])
        twice = Command("abort", one.shape, [A, B], [f"why {A}", f"why {B}"], lambda *_: [], lambda *_: None)
        assert both.words() == twice.calls(table("prefill"))[0].words()
        assert not one.is_like(commands.clear(A).calls(table("prefill"))[0])
        assert not one.is_like(commands.abort(A, "why").calls(table(feed="0"))[0])

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
                    seen[command.shape.script.name].add(send(client, command, table(policy=policy))[1])
        assert seen == {name: set(codes(name)) for name in seen}


def agreement():
    return Agreement.checked("ns", None, None, None, None)


def over_all_fills(client, name, mode="none", feed="100"):
    """Each operation of a script, on an empty table and on one that has the room, live and at its end."""
    for fill in (None, 1, 4):
        client.flushall()
        for command in OPERATIONS[name]:
            if fill:
                send(client, commands.update_status(A, fill), table(mode, feed=feed))
            yield command


def send(client, command, table):
    (call,) = command.calls(table)
    return client.eval(call.shape.script.source, *call.words()[2:])


def feed_words(fields):
    """What a head calls the names and values of an entry."""
    text = [word.decode() for word in fields]
    for name, value in zip(text[::2], text[1::2], strict=True):
        if name.isdigit():
            assert value == "absent" or value in KVPoll.__members__
            yield "absent" if value == "absent" else "status"
        else:
            yield name
