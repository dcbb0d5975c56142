"""Stores recover from servers that have a prefix of the history: every interleaving, and no room too many or too few.

First by the rule alone, in Python, where each part of it is shown to be needed; then over the real Recovery and the
real scripts. A few settings are bounded to be quick; HYPOTHESIS_PROFILE=long gives each one operation more.
"""

from __future__ import annotations

import pytest

from redis_kvpoll.engine.recovery import tracked_rooms, tracked_state
from tests.model import group_explorer, loss_explorer, recovery_explorer
from tests.model.group_explorer import GROUPS
from tests.model.loss_rule import Rule
from tests.model.recovery_settings import ATTACHED, MUTATIONS, PARTS, RECOVERIES, RULES, Setting

MOST = 60_000


@pytest.mark.parametrize("name", RULES)
def test_rule_of_loss_keeps_all_invariants(name, request):
    report = loss_explorer.explore(RULES[name])
    request.node.user_properties.append(("explored", f"rule of loss, {name}: {report}"))
    assert report.violation is None, str(report)
    assert report.worlds > 1_000  # fewer would mean that stores can no longer do everything


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part[0])
def test_rule_without_a_part_violates_an_invariant(part):
    name, setting, violation = part
    report = loss_explorer.explore(loss_explorer.Setting(Rule(**{name: False}), **setting), MOST)
    assert violation in (report.violation or ""), str(report)


@pytest.mark.parametrize("name", RECOVERIES)
def test_recovery_keeps_all_invariants(name, request):
    report = recovery_explorer.explore(RECOVERIES[name])
    request.node.user_properties.append(("explored", f"recovery, {name}: {report}"))
    assert report.violation is None, str(report)
    assert report.worlds > 1_000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation[1]}: {mutation[2][:40]}")
def test_recovery_by_mutated_script_violates_invariant(mutation):
    setting, *mutated, violation = mutation
    report = recovery_explorer.explore(Setting(mutated=(tuple(mutated),), **setting), MOST)
    assert report.violation is not None
    assert violation in report.violation, str(report)


@pytest.mark.parametrize("name", GROUPS)
def test_recovery_of_groups_keeps_all_invariants(name, request):
    """Of a store that speaks for two ranks, which may open, write and clear a room in one call."""
    report = group_explorer.explore(GROUPS[name])
    request.node.user_properties.append(("explored", f"recovery of a group, {name}: {report}"))
    assert report.violation is None, str(report)
    assert report.worlds > 1_000


@pytest.mark.parametrize("part", group_explorer.PARTS, ids=lambda part: part[0])
def test_group_without_a_part_violates_an_invariant(part, monkeypatch):
    name, replacement, setting, violation = part
    monkeypatch.setattr(f"redis_kvpoll.engine.{name.replace(':', '.')}", replacement)
    report = group_explorer.explore(setting, MOST)
    assert report.violation is not None
    assert violation in report.violation, str(report)


def test_recovery_by_server_identity_alone_revives_rooms():
    """Without a feed there are no marks: another server counts as one that has lost everything."""
    report = recovery_explorer.explore(Setting(feed_length="0"), MOST)
    assert "it was cleared, and is created again" in (report.violation or ""), str(report)


def test_late_reply_of_former_server_is_a_violation():
    """So a transport must count it as lost."""
    report = recovery_explorer.explore(Setting(attached=ATTACHED, late=1, late_replies_count=True), MOST)
    assert "was told 4, and is 1" in (report.violation or ""), str(report)


def test_room_that_remembers_one_opening_is_revived(monkeypatch):
    """A store that reaches a former server again needs the opening that it knew there."""
    monkeypatch.setattr(tracked_state, "MAX_OPENINGS", 1)
    report = recovery_explorer.explore(Setting(attached=ATTACHED, returns=1), MOST)
    assert "it was cleared, and is created again" in (report.violation or ""), str(report)


def test_status_from_an_unchanged_reply_is_said_again(monkeypatch):
    """It has left no entry in the feed, so no mark tells whether the next server has it."""
    monkeypatch.setattr(tracked_rooms.TrackedRooms, "unmark", lambda *_: None)
    report = recovery_explorer.explore(Setting(ops=4), MOST)
    assert "was told 3, and is 1" in (report.violation or ""), str(report)


def test_path_to_a_violation_of_the_rule_is_readable():
    report = loss_explorer.explore(loss_explorer.Setting(Rule(opening_returned=False)), MOST)
    assert report.path == (
        "X on S0: opens 0 (10)",
        "Y on S0: joins 0",
        "S1 has the first 1 of S0's 2 changes",
        "Y reaches S1, due: [0]",
    )
