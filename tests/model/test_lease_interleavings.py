"""Every interleaving of two holders of leases and one sweeper, over the real Lua and the real reaper.

The first has taken its lease and opened a room. From there, the short form is one operation a process; renewing,
sweeping and reaping are not counted. HYPOTHESIS_PROFILE=long gives more operations, and more settings.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.model.lease_explorer import LeaseExplorer, Setting
from tests.model.mutated import mutated
from tests.support.fuzzing import LONG

TWO_NAMES, ONE_NAME = ("p", "q", ""), ("p", "p", "")
SETTINGS = {
    # Two operations each at two ticks would be more states than memory holds.
    "leases": Setting(TWO_NAMES, each=2, ticks=1) if LONG else Setting(TWO_NAMES, each=1, ticks=2),
    "leases, loss": Setting(ONE_NAME, each=1, ticks=1 + LONG, pauses=int(LONG), losses=1),
}
if LONG:
    SETTINGS["leases, taken name"] = Setting(ONE_NAME, each=1, ticks=3)
    SETTINGS["leases, all reap"] = Setting(ONE_NAME, each=1, ticks=2, all_reap=True)
    SETTINGS["leases, lost reply"] = Setting(TWO_NAMES, each=1, ticks=2, lost=1)
    SETTINGS["leases, no pause"] = Setting(TWO_NAMES, each=1, ticks=6, pauses=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_interleaving_keeps_all_invariants(name, request):
    report = LeaseExplorer(SETTINGS[name]).explore()
    request.node.user_properties.append(("explored", f"{name}, 3 x {SETTINGS[name].each}: {report}"))  # see conftest
    assert report.violation is None, str(report)
    # Fewer would mean that processes can no longer do all operations.
    assert report.states > 5_000


# Mutations that must be found: (setting, script, the text there, its replacement, the violation)
MUTATIONS = [
    ("leases", "lease", "math.max(2 * heartbeat_ms, 600)", "0", "was lost, and it is alive"),
    ("leases", "lease", "if suspected_ms == '0' or", "if false and", "was lost, and it is alive"),
    ("leases", "lease", "now_ms, '0'}, ' ')", "now_ms, '1'}, ' ')", "was lost, and it is alive"),
    ("leases", "lease", "elseif now_ms - due_ms > 0 then", "else", "was lost, and it is alive"),
    (
        "leases",
        "renew",
        "lease and string.find(lease, ARGV[at + 1] .. ' ', 1, true) == 1",
        "true",
        "under a lease that is over",
    ),
    (
        "leases, loss",
        "lease",
        "local is_lost = is_above(current, incarnation)",
        "local is_lost = current ~= ''",
        "called lost",
    ),
    ("leases", "lease", "if has_rooms(incarnation) then", "if false then", "would never fail"),
    ("leases", "lease", "redis.call('PEXPIRE', KEYS[i], ARGV[1])", "local _ = i", "has no TTL"),
    ("leases", "write", "if lease_lost then return -2", "if false then return -2", "under a lease that is over"),
    ("leases", "open", "elseif lease_lost then", "elseif false then", "under a lease that is over"),
    ("leases", "reap", "status ~= 'Success' and ", "", "was reaped for"),
    (
        "leases",
        "reap",
        "{'status', 'Failed', 'updated_ms', now_ms}",
        "{'updated_ms', now_ms}",
        "is not among the owned",
    ),
    ("leases", "open", "redis.pcall('ZADD', KEYS[4]", "tostring(KEYS[4]", "is not among the owned"),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation[1]}: {mutation[2][:40]}".strip())
def test_mutated_script_violates_an_invariant(mutation):
    name, script, good, bad, violation = mutation
    broken = {script: partial(mutated, good=good, bad=bad)}
    report = LeaseExplorer(replace(SETTINGS[name], broken=broken)).explore(most=30_000)
    assert report.violation is not None, str(report)
    assert violation in report.violation, str(report)
