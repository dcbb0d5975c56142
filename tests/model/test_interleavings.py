"""Every interleaving of a few processes on one room, over the real Lua: all invariants hold after every step.

The short form is 3 processes x 2 operations; HYPOTHESIS_PROFILE=long makes it 3 x 3, except where noted. How
many states were visited is at the end of pytest's report. Mutations of the scripts, and of what a store tracks,
show that the explorer detects violations.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.model import handles, settings
from tests.model.explorer import Explorer
from tests.model.mutated import mutated
from tests.support.fuzzing import LONG

EACH = 3 if LONG else 2
SETTINGS = {
    "plain": settings.plain,
    "fenced": settings.fenced,
    "loss": settings.lossy,
    "loss, clock behind": lambda policy, each: settings.lossy(policy, each, is_behind=True),
    "2 ranks": settings.ranked,
    "2 ranks, operator": lambda policy, each: settings.ranked(policy, each, third=2),
    "2 ranks, loss": settings.ranked_lossy,
    "2 ranks, one for both": settings.grouped,
}
if LONG:
    # States grow by ten with each process that may send again, in any order, what it had no reply to: 3 x 2 is
    # as far as this goes. Plain and fenced have such messages in both forms.
    SETTINGS["loss, lost reply"] = lambda policy, _: settings.lossy(policy, 2, lost=1)
    SETTINGS["2 ranks, lost reply"] = lambda policy, _: settings.ranked(policy, 2, lost=1)


def _worth_it(name, policy):
    """Fenced writes are strict under either policy: where there is little else, one policy is enough."""
    return LONG or policy == "compat" or "loss" not in name


@pytest.mark.parametrize(
    ("policy", "name"), [(p, n) for p in ("compat", "strict") for n in SETTINGS if _worth_it(n, p)]
)
def test_every_interleaving_keeps_all_invariants(name, policy, request):
    report = Explorer(SETTINGS[name](policy, EACH)).explore()
    request.node.user_properties.append(("explored", f"{name}, {policy}: {report}"))  # see conftest
    assert report.violation is None, str(report)
    # Fewer would mean that processes can no longer do all operations.
    assert report.states > 5_000


# Mutations that must be found: (setting, policy, script, the text there, its replacement, the violation)
MUTATIONS = [
    ("plain", "compat", "update", "redis.call('PEXPIRE', room, ttl_ms)", "", "has no TTL"),
    (
        "plain",
        "compat",
        "update",
        "not current and 5 or",
        "not current and 1 or",
        "update Failed created an absent room",
    ),
    (
        "plain",
        "compat",
        "update",
        "ORDER[incoming] > (ORDER[current] or 9)",
        "ORDER[incoming] ~= (ORDER[current] or 9)",
        "went back from",
    ),
    ("plain", "strict", "update", "not (strict and current == 'Failed') and ", "", "left Failed"),
    (
        "plain",
        "compat",
        "abort",
        "outcome = 5\n",
        "outcome = 5 redis.call('HSET', room, 'reason', 'x')\n",
        "abort created",
    ),
    ("plain", "compat", "abort", "and failures[changes[i]]", "and false", "the stream of failures says"),
    ("2 ranks", "compat", "write", "and (is_first or previous ~= 'Failed')", "", "the stream of failures says"),
    ("plain", "compat", "abort", "= room, status, ARGV[2]", "= room, 'Success', ARGV[2]", "the feed does not have it"),
    (
        "plain",
        "compat",
        "touch",
        "kept = status\n  elseif",
        "kept = status\n  elseif redis.call('HDEL', KEYS[i], 'status') and",
        "",
    ),
    ("plain", "compat", "clear", "else\n    redis.call('DEL', prefix)\n", "", "outlived its room"),
    ("fenced", "compat", "write", "fields.generation ~= expected_generation or", "false or", "is stale and changed"),
    ("fenced", "compat", "write", "not (strict and fields.status == 'Failed') and ", "", "left Failed"),
    ("fenced", "compat", "clear", "fields[3] ~= expected_generation", "false", "is stale and changed"),
    ("fenced", "strict", "open", "not is_mine and fields.status ~= 'Failed'", "false", "took the room"),
    ("fenced", "strict", "open", "local is_mine = fields.status and", "local is_mine = false and", "was refused as if"),
    ("loss", "compat", "replay", "if role ~= 'creator' then", "if false then", "attached created"),
    ("loss", "compat", "replay", "is_above(current, generation) or", "false or", "which is older"),
    ("loss", "strict", "replay", "if outcome ~= 3 then", "if false then", ""),
    ("loss, clock behind", "compat", "open", "then last = seen end", "then end", "was given after"),
    (
        "loss, clock behind",
        "compat",
        "open",
        "if is_number(last) and not is_above(now_us, last) then",
        "if false then",
        "was given after",
    ),
    (
        "2 ranks",
        "strict",
        "write",
        "counts[1] + counts[2] + counts[3] + counts[4] - ARGV[7] ~= 0 or",
        "",
        "only ['0'] of 2 said so",
    ),
    (
        "2 ranks",
        "strict",
        "clear",
        "counts[5] = counts[5] + 1\n  return",
        "counts[4], counts[5] = 0, counts[5] + 1\n  return",
        "the counts are",
    ),
    (
        "2 ranks",
        "strict",
        "clear",
        "ranks_left(counts) <= 1",
        "ranks_left(counts) <= 9",
        "went with the clear of one rank",
    ),
    ("2 ranks, loss", "strict", "clear", "not (fields[8] and", "not (false and", "the replayed room went with"),
    ("2 ranks", "strict", "abort", "counts[0] = name, 'Failed'", "counts[0] = 'reason', 'x'", ""),
    (
        "2 ranks, one for both",
        "strict",
        "write_ranks",
        "if own then counts[from] = counts[from] - 1 end",
        "",
        "the counts are",
    ),
    (
        "2 ranks, one for both",
        "strict",
        "write_ranks",
        "(generation == found[3] or (generation == '' and not is_clear))",
        "true",
        "is stale and changed",
    ),
    ("2 ranks", "compat", "write", "if fields[cleared_field] then", "if false then", "has cleared, and is there again"),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation[2]}: {mutation[3][:40]}".strip())
def test_mutated_script_violates_an_invariant(mutation):
    name, policy, script, good, bad, violation = mutation
    broken = {script: partial(mutated, good=good, bad=bad)}
    report = Explorer(replace(SETTINGS[name](policy, 2), broken=broken)).explore(most=20_000)
    assert report.violation is not None, str(report)
    assert violation in report.violation, str(report)


def test_path_to_violation_is_short_and_readable():
    """It is the shortest, with the table after each step."""
    broken = {"clear": partial(mutated, good="fields[3] ~= expected_generation", bad="false")}
    report = Explorer(replace(settings.fenced("compat", 2), broken=broken)).explore(most=20_000)
    assert len(report.path) <= 4
    assert (
        "open for a -> CREATED, Bootstrapping\n     room: generation=g0 request=a status=Bootstrapping"
        in report.path[0]
    )
    assert "room.clear is stale and changed something\n     before: " in report.violation


def test_recovery_of_cleared_room_is_a_violation(monkeypatch):
    monkeypatch.setattr(handles.TrackedRooms, "mark_room_clearing", lambda *_: None)
    report = Explorer(settings.lossy("compat", 2, lost=1)).explore(most=50_000)
    assert "was cleared by the process that brings it back" in (report.violation or ""), str(report)
