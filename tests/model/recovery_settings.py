"""What is explored of the loss of data: by the rule alone, and over the real Recovery and scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.model.loss_explorer import Setting as RuleSetting
from tests.model.loss_rule import Rule
from tests.support.fuzzing import LONG

MORE = 1 if LONG else 0
"""Operations beyond those of the short form."""
ATTACHED = (False, True)
"""An opener, and a store that attaches what it opened; otherwise two openers of one request."""


@dataclass(frozen=True)
class Setting:
    """As loss_explorer.Setting."""

    attached: tuple[bool, ...] = (False, False)
    rooms: int = 1
    ops: int = 3
    failovers: int = 1
    trims: int = 0
    lost: int = 0
    returns: int = 0
    late: int = 0
    """Writes that reach a former server, and whose replies come late."""
    behind: bool = False
    is_slow: bool = True
    """Whether a minute passes with each step, so that no room was opened in the last minute."""
    clears_first: bool = False
    """Whether a recovery may precede a clear, which is sent after it or never."""
    has_lease: bool = False
    """Whether stores renew a lease before they replay."""
    feed_length: str = "100"
    late_replies_count: bool = False
    """A mutation: a late reply over a connection to a former server is processed."""
    mutated: tuple[tuple[str, str, str], ...] = ()
    """Mutations of scripts: (script, a text in it, its replacement)."""


RULES = {
    "a lost reply": RuleSetting(lost=1, ops=4 + MORE),
    "attached, two failovers": RuleSetting(attached=ATTACHED, failovers=2, ops=3 + MORE),
    "two failovers": RuleSetting(failovers=2, ops=3 + MORE),
    "two rooms": RuleSetting(rooms=2, ops=3 + MORE),
    "expiry": RuleSetting(expiries=1, lost=1, ops=3 + MORE),
    "trimmed feed, old rooms": RuleSetting(trims=2, deletes=True, ops=3 + MORE),
    "trimmed feed, new rooms": RuleSetting(Rule(recent=True), trims=1, deletes=True, ops=3 + MORE),
    "ids used again": RuleSetting(behind=True, failovers=2, ops=3 + MORE),
    "late reply": RuleSetting(late=1, ops=3 + MORE),
    "back to a former server": RuleSetting(attached=ATTACHED, returns=1, ops=3 + MORE),
}
RECOVERIES = {
    "a lost reply": Setting(lost=1, ops=3 + MORE),
    "attached, a lost reply": Setting(attached=ATTACHED, lost=1, ops=3 + MORE),
    "attached, ids used again, two failovers": Setting(attached=ATTACHED, behind=True, failovers=2, ops=3 + MORE),
    "ids used again": Setting(behind=True, ops=4 + MORE),
    "trimmed feed, old rooms": Setting(attached=ATTACHED, trims=1, ops=3 + MORE),
    "trimmed feed, new rooms": Setting(attached=ATTACHED, trims=1, is_slow=False, ops=3 + MORE),
    "attached, leases": Setting(attached=ATTACHED, has_lease=True, lost=1, ops=3 + MORE),
    "late reply": Setting(attached=ATTACHED, late=1, ops=3 + MORE),
    "back to a former server": Setting(attached=ATTACHED, returns=1, ops=3 + MORE),
    "before a clear": Setting(clears_first=True, lost=1, ops=3 + MORE),
    "attached, before a clear": Setting(attached=ATTACHED, clears_first=True, ops=3 + MORE),
}
if LONG:
    RECOVERIES["two rooms"] = Setting(rooms=2, ops=4)
    RECOVERIES["two failovers"] = Setting(failovers=2, ops=4)

# What breaks without a part of the rule: (the part, the setting, the violation)
PARTS: list[tuple[str, dict[str, Any], str]] = [
    ("marks_decide", {}, "created again"),
    ("opening_returned", {}, "is not there again"),
    ("openings_add_up", {"returns": 1, "attached": ATTACHED}, "created again"),
    ("opening_decides", {"behind": True}, "is not there again"),
    ("opening_unknown", {"trims": 1}, "is not there again"),
    ("named_openings", {"behind": True}, "is not there again"),
    ("resends", {}, "was told 2, and is 1"),
    ("tombstones", {}, "created again"),
    ("late_replies_lost", {"late": 1}, "was told 2, and is 1"),
]
# Mutations of scripts that must be found: (the setting, script, the text there, its replacement, the violation)
MUTATIONS: list[tuple[dict[str, Any], str, str, str, str]] = [
    ({}, "clear", "if fields[8] and is_number(fields[3] or '') then", "if false then", "created again"),
    ({}, "replay", "if changed_ms then", "if false then", "created again"),
    ({"ops": 4}, "replay", "if survived then return 6 end", "", "created again"),
    ({"ops": 4}, "replay", "if is_named and (", "if false and (", "created again"),
    (
        {},
        "open",
        "fields.request or false, fields.opened or false",
        "fields.request or false, false",
        "not there again",
    ),
    ({}, "replay", "is_above(current, generation) or", "false or", ""),
    ({"trims": 1}, "replay", "now_us - generation > RECENT_US", "false", "created again"),
]
