"""The heads of the scripts match the commands and the calls that are sent.

Each line of a head is compared with the ScriptSpec that calls are built from, and with KEYS and ARGV of real calls;
test_script_replies.py compares it with the replies of every server.
"""

from __future__ import annotations

import re

import pytest

from redis_kvpoll.model import Ending, Outcome, Refusal
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands, room_commands, script_specs, scripts
from redis_kvpoll.protocol import settings as settings_module
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.packed import ADVANCE_ONE, UPDATE_ONE
from redis_kvpoll.protocol.script_call import ScriptSpec
from redis_kvpoll.protocol.script_specs import SPECS
from redis_kvpoll.protocol.settings import ExpectedSettings
from tests.support.calls_of_scripts import ACTORS, OPERATIONS, A, B, named, send, table, take_lease
from tests.support.heads import INCLUDES, LABELS, MAY_LACK, NAMES, codes, head, last_keys, listed, text_of, words

SHARD_KEYS = {"feed": keys.feed, "epoch": keys.epoch, "leases": keys.leases, "owned": keys.owned}
SHARD_KEYS |= {"cleared": keys.cleared, "due": keys.due, "failed": keys.failed, "refused": keys.refused}
AFTER = ("refused", "feed")
"""The includes that go after their script."""
FAST_PATHS = ("advance", "quick_open")
"""Those that come before all else and define nothing."""
OTHERS = (settings_module.SETTINGS, lease_commands.LEASE, lease_commands.RENEW, UPDATE_ONE, ADVANCE_ONE)
"""With replies of their own, or short ways of another."""
MAX_LINES = 80
ENUM = {code.value: code.name for code in (*Outcome, *Ending, *Refusal)}


class TestHeads:
    @pytest.mark.parametrize("name", NAMES)
    def test_script_head_has_all_labels(self, name):
        prose, labelled = head(name)
        expected = tuple(label for label in LABELS if label not in MAY_LACK or label in labelled)
        assert tuple(labelled) == expected, "KEYS, ARGV, REPLY, FEED and perhaps CODES and INCLUDE, in this order"
        assert re.match(r"[A-Z][^.]+\.", prose), "a head begins with what the script does"
        assert ("_ms" in " ".join(labelled.values())) == ("imes are milliseconds" in prose), "units are named"
        assert lines_below_the_head(name) <= MAX_LINES

    @pytest.mark.parametrize("name", INCLUDES)
    def test_include_head_has_its_form(self, name):
        prose, labelled = head(f"include/{name}")
        assert re.match(r"[A-Z][^.]+\.", prose), "a head begins with what it is"
        assert ("_ms" in text_of(f"include/{name}")) == ("imes are milliseconds" in prose), "units are named"
        assert labelled.keys() <= {"INCLUDE"}, "KEYS and ARGV are said by the scripts that use it"
        assert lines_below_the_head(f"include/{name}") <= MAX_LINES
        assert max(map(len, functions_of(f"include/{name}")), default=0) <= MAX_LINES / 2

    def test_feed_ttl_is_the_same_in_lua_and_python(self):
        (in_lua,) = re.findall(r"FEED_TTL_MS = '(\d+)'", text_of("include/feed"))
        assert table().feed_ttl_ms == in_lua

    @pytest.mark.parametrize("name", NAMES)
    def test_includes_precede_script_and_some_follow(self, name):
        """In the order of the heads, each once, and each behind what it includes itself."""
        parts = included(name)
        assert len(parts) == len(set(parts))
        for at, part in enumerate(parts):
            assert set(listed(f"include/{part}", "INCLUDE")) <= set(parts[:at]), part
        own = listed(name, "INCLUDE")
        assert own == sorted(own, key=lambda part: AFTER.index(part) if part in AFTER else -1), (
            "in the order in which they stand"
        )
        at = len(parts) - len({*AFTER} & {*parts})
        files = [*(f"include/{part}" for part in parts[:at]), name, *(f"include/{part}" for part in parts[at:])]
        assert scripts.load(name).source == "".join(map(text_of, files))

    def test_every_named_include_is_used(self):
        paths = [*NAMES, *(f"include/{name}" for name in INCLUDES)]
        assert {part for path in paths for part in listed(path, "INCLUDE")} == set(INCLUDES)
        for path in paths:
            code = re.sub(r"--[^\n]*", "", text_of(path))
            for part in listed(path, "INCLUDE"):
                defined = {*locals_of(f"include/{part}"), *(("KEYS", "ARGV") if part == "caller" else ())}
                used = part in (*AFTER, *FAST_PATHS) or defined & set(re.findall(r"\w+", code))
                assert used, (path, part)

    def test_specs_and_script_files_match(self):
        assert set(NAMES) == {spec.script.name for spec in SPECS} | {other.script.name for other in OTHERS}

    def test_every_spec_is_listed_and_used(self):
        made = [value for value in vars(script_specs).values() if isinstance(value, ScriptSpec)]
        assert sorted(map(id, made)) == sorted(map(id, SPECS))
        used = {
            id(command.spec.of(table(actor))) for some in OPERATIONS.values() for command in some for actor in ACTORS
        }
        assert used == set(map(id, SPECS))

    def test_every_command_is_covered(self):
        functions = {
            name
            for module in (room_commands, fenced_commands)
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        } - {"room_list", "status_filter", "D"}  # argument checks that a store and a mirror call, too
        functions = functions - {"statuses"} | {"counts"}  # a part of counts and rooms, under their names
        tried = {command.operation for some in OPERATIONS.values() for command in some}
        # Scripts without a public method: the reads of followers, the replay of lost rooms, the failing of a lost
        # owner's rooms, and the writes of one who speaks for many ranks.
        assert tried - functions == {"snapshot", "statistics", "failures", "replay", "reap", "write_ranks"}
        assert functions <= tried

    @pytest.mark.parametrize("spec", SPECS, ids=named(SPECS))
    def test_head_matches_spec(self, spec):
        labelled = head(spec.script.name)[1]
        names = [*spec.room_keys, *(["prefix in mode prefill"] if spec.prefix_in_prefill else [])]
        assert words(labelled["KEYS"]) == (list(spec.shard_keys), names)
        assert last_keys(spec.script.name) == (list(spec.last_keys), spec.last_keys_if)
        assert words(labelled["ARGV"]) == (list(spec.shared_args), list(spec.room_args))
        told = ["feed_id"] * spec.feed + ["epoch"] * spec.epoch
        assert words(labelled["REPLY"]) == (told, list(spec.reply))
        assert codes(spec.script.name) == {code.value: code.name for code in spec.codes}
        assert ("outcome" in spec.reply) == bool(spec.codes)

    @pytest.mark.parametrize("spec", SPECS, ids=named(SPECS))
    def test_include_finds_its_keys_and_arguments(self, spec):
        """By their places: a script that puts others there would write the feed into the epoch."""
        used = included(spec.script.name)
        appends = spec.shared_args[:1] == ("feed_length",)  # ARGV[1] of all that use it
        assert ("feed" in used) == appends
        assert appends <= spec.feed
        prose = head("include/caller")[0]
        keys_said, once_said = (re.search(rf"{label} begin with ([^.]*)\.", prose)[1] for label in ("KEYS", "ARGV"))
        first, once = keys_said.split(", "), once_said.split(", ")
        assert (
            ("caller" in used)
            == (list(spec.shard_keys[: len(first)]) == first)
            == (list(spec.shared_args[: len(once)]) == once)
        )

    @pytest.mark.parametrize(("spec", "before"), [(UPDATE_ONE, []), (ADVANCE_ONE, ["feed_id", "epoch"])])
    def test_head_of_short_way_matches_spec(self, spec, before):
        labelled = head(spec.script.name)[1]
        assert words(labelled["KEYS"]) == (list(spec.shard_keys), list(spec.room_keys))
        assert words(labelled["ARGV"]) == (list(spec.shared_args), list(spec.room_args))
        assert words(labelled["REPLY"]) == (before, list(spec.reply))

    def test_renew_head_matches_call(self):
        labelled, spec = head("renew")[1], lease_commands.RENEW
        call = LeaseConfig.checked("prefill-0", 5.0, None).heartbeat_call(table(), "ns", "17")
        assert words(labelled["ARGV"]) == ([], list(spec.room_args))
        assert words(labelled["REPLY"]) == (["epoch", "feed_id", "room", "status"], list(spec.reply))
        assert call.shard_keys == [SHARD_KEYS[name]("ns") for name in words(labelled["KEYS"])[0]]
        assert (call.shared_args, call.room_args) == ([], ["prefill-0", "17", "5000", "500"])

    def test_settings_head_matches_call(self):
        labelled = head("settings")[1]
        assert words(labelled["KEYS"]) == (["settings"], [])
        assert words(labelled["ARGV"]) == (["ttl_ms", *settings_module.NAMES], [])
        assert words(labelled["REPLY"]) == (list(settings_module.NAMES), [])
        call = expected_settings().call()
        assert (len(call.shard_keys), len(call.shared_args)) == (1, 1 + len(settings_module.NAMES))
        assert call.room_keys == call.room_args == []

    @pytest.mark.parametrize("name", NAMES)
    def test_codes_match_enums(self, name):
        assert codes(name).items() <= ENUM.items()

    def test_codes_are_unique(self):
        assert len(ENUM) == len(Outcome) + len(Ending) + len(Refusal)
        assert {code for name in NAMES for code in codes(name)} == ENUM.keys()


class TestCalls:
    @pytest.mark.parametrize("mode", ["none", "prefill", "decode"])
    @pytest.mark.parametrize("actor", ACTORS)
    def test_call_matches_head(self, actor, mode):
        context = table(actor, mode=mode)
        for command in (command for some in OPERATIONS.values() for command in some):
            (call,) = command.calls(context)
            labelled = head(call.spec.script.name)[1]
            first_keys, each_key = words(labelled["KEYS"])
            each_key = [key for key in each_key if mode == "prefill" or not key.endswith(" in mode prefill")]
            once, item = words(labelled["ARGV"])
            assert call.shard_keys == [SHARD_KEYS[word]("ns") for word in first_keys]
            by_kind = {"room": keys.rooms, "prefix": keys.prefixes}
            last, status = last_keys(call.spec.script.name)
            items = [word for item in command.room_args for word in ([item] if isinstance(item, str) else item)]
            is_needed = not status or status in items
            assert call.last_keys == [SHARD_KEYS[word]("ns") for word in last if is_needed]
            assert call.room_keys == [
                by_kind[key.split()[0]]("ns", [room])[0] for room in command.rooms for key in each_key
            ]
            assert call.shared_args == [getattr(context, word) for word in once]
            width, given = len(item), len(command.spec.room_args)
            for at in range(len(command.rooms)):
                sent = call.room_args[at * width : (at + 1) * width]
                assert sent == [*command.room_args[at * given : (at + 1) * given], *[""] * (width - given)]
            assert len(call.room_args) == width * len(command.rooms)
            assert (call.tag, call.rooms, list(call.positions)) == ("ns", command.rooms, [*range(len(command.rooms))])

    @pytest.mark.parametrize(
        ("actor", "script"),
        [("plain", "update"), ("rank", "write"), ("owner", "write"), ("both", "write")],
    )
    def test_rank_or_lease_selects_update_script(self, actor, script):
        (call,) = room_commands.update_status(A, 1).calls(table(actor))
        assert call.spec.script.name == script

    @pytest.mark.parametrize(
        ("actor", "script"), [("plain", "poll"), ("rank", "poll_rank"), ("owner", "poll"), ("both", "poll_rank")]
    )
    def test_rank_selects_poll_script(self, actor, script):
        (own,), (all_of_them,) = (
            room_commands.poll([A]).calls(table(actor)),
            room_commands.statuses([A], "counts").calls(table(actor)),
        )
        assert (own.spec.script.name, all_of_them.spec.script.name) == (script, "poll")

    @pytest.mark.parametrize("actor", ACTORS)
    def test_each_shard_gets_arguments_of_its_rooms(self, actor):
        """Wider words, many shards and many calls a shard: each room keeps its own."""
        context = table(actor, shards=3)
        names = ("Bootstrapping", "WaitingForInput", "Transferring", "Success")
        rooms = {room: 1 + room % 4 for room in range(4_000)}
        sent = {}
        for call in room_commands.update_many(rooms).calls(context):
            width = len(call.spec.room_args)
            for at, room in enumerate(call.rooms):
                assert call.tag == keys.tag("ns", 3, room)
                assert call.room_keys[at] == keys.rooms(call.tag, [room])[0]
                assert call.room_args[at * width : (at + 1) * width] == [names[room % 4], *[""] * (width - 1)]
                sent[room] = call.positions[at]
        assert sent == {room: room for room in rooms}

    def test_like_calls_are_combined(self):
        one, two = (room_commands.abort(room, f"why {room}").calls(table(mode="prefill"))[0] for room in (A, B))
        assert one.can_merge_with(two)
        both = one.merged_with([two])
        twice = room_commands.abort(A, f"why {A}")._replace(rooms=[A, B], room_args=[f"why {A}", f"why {B}"])
        assert both.words() == twice.calls(table(mode="prefill"))[0].words()
        assert not one.can_merge_with(room_commands.clear(A).calls(table(mode="prefill"))[0])
        assert not one.can_merge_with(room_commands.abort(A, "why").calls(table(feed_length="0"))[0])

    @pytest.mark.parametrize("mode", ["none", "prefill"])
    @pytest.mark.parametrize("actor", ACTORS)
    @pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
    @pytest.mark.parametrize("statuses", [(0,), (2,), (0, 2), (2, 0), (0, 0), (2, 2)])
    def test_failures_are_declared_with_the_calls_that_fail(self, client, actor, mode, statuses):
        """Also in combined calls: the scripts tell by the number of keys how many each room has."""
        context, rooms = table(actor, mode=mode), range(len(statuses))
        calls = [room_commands.update_status(room, status).calls(context)[0] for room, status in enumerate(statuses)]
        call = calls[0].merged_with(calls[1:])
        assert call.last_keys == ([keys.failed("ns")] if 0 in statuses else [])
        take_lease(client, context)
        for room in rooms:
            send(client, room_commands.update_status(room, 1), context)
            send(client, room_commands.set_decode_prefix_len(room, 7), context)
        client.eval(call.spec.script.source, *call.words()[2:])
        status = "status:0" if context.rank else "status"
        found = [client.hget(key, status) for key in keys.rooms("ns", [*rooms, 99])[:-1]]
        assert found == ["WaitingForInput" if status else "Failed" for status in statuses]
        length = "length:0" if context.rank else "length"
        is_dropped = [not client.hexists(key, length) for key in keys.prefixes("ns", [*rooms])]
        assert is_dropped == [mode == "prefill" and not status for status in statuses]
        assert client.xlen(keys.failed("ns")) == (0 in statuses)

    def test_repeatable_and_other_calls_are_not_combined(self):
        """They share a script, and what is sent again when its reply was lost must be all of one kind."""
        plain, fenced = room_commands.clear(A).calls(table())[0], fenced_commands.clear(A, 1).calls(table())[0]
        assert plain.spec.script is fenced.spec.script
        assert not plain.can_merge_with(fenced)
        assert (plain.spec.repeatable, fenced.spec.repeatable) == (False, True)


def lines_below_the_head(name):
    return len(re.sub(r"\A(--[^\n]*\n)+", "", text_of(name)).splitlines())


def included(name):
    """All includes of a script, in the order in which they stand."""
    found = []
    for part in listed(name, "INCLUDE"):
        found += [*included(f"include/{part}"), part]
    return list(dict.fromkeys(found))


def locals_of(name):
    """What a file defines for those that include it."""
    found = re.findall(r"^local (?:function )?([\w, ]+)", text_of(name), re.MULTILINE)
    return [word.strip() for names in found for word in names.split(",")]


def functions_of(name):
    """The lines of each function of a file, in turn."""
    return [
        found.splitlines() for found in re.findall(r"^local function .*?^end$", text_of(name), re.DOTALL | re.MULTILINE)
    ]


def expected_settings():
    return ExpectedSettings.checked("ns", None, None, None, None)
