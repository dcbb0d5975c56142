"""Every interleaving of two holders of leases and one who looks after them, over the real Lua and the real reaping.

The first has taken its lease and opened a room. From there, the short form is one operation a process; to renew, to
look and to reap are not counted. HYPOTHESIS_PROFILE=long gives more of them, and more settings.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model.lease_explorer import LeaseExplorer, Setting
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
    # Fewer would mean that the processes could no longer do what they are to be tried with.
    assert report.states > 5_000


# Faults that must be found: (setting, script, what stands there, what is put there, what is said of it)
FAULTS = [
    ("leases", "lease", "math.max(2 * heartbeat_ms, 600)", "0", "was condemned, and it lives"),
    ("leases", "lease", "if suspected_ms == '0' or", "if false and", "was condemned, and it lives"),
    ("leases", "lease", "now_ms, '0'}, ' ')", "now_ms, '1'}, ' ')", "was condemned, and it lives"),
    ("leases", "lease", "now_ms - last_heartbeat_ms - ttl_ms <= 0", "false", "was condemned, and it lives"),
    ("leases, loss", "lease", "local is_lost = current > incarnation", "local is_lost = current ~= ''", "called lost"),
    ("leases", "lease", "if has_rooms(incarnation) then", "if false then", "would never fail"),
    ("leases", "lease", "redis.call('PEXPIRE', KEYS[i], ARGV[1])", "local _ = i", "has no TTL"),
    ("leases", "write", "elseif lease_lost then", "elseif false then", "under a lease that is over"),
    ("leases", "open", "elseif lease_lost then", "elseif false then", "under a lease that is over"),
    ("leases", "reap", "status ~= 'Success' and ", "", "was reaped for"),
    (
        "leases",
        "reap",
        "redis.call('HSET', room, 'status', 'Failed', 'updated_ms', now_ms)",
        "",
        "is not among the owned",
    ),
    ("leases", "open", "redis.call('ZADD', KEYS[4]", "local _ = tostring(KEYS[4]", "is not among the owned"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[1]}: {fault[2][:40]}".strip())
def test_mutated_script_violates_an_invariant(fault):
    name, script, good, bad, said = fault

    def broken(source):
        assert source.count(good) >= 1, "the script is another now: bring the fault up to date"
        return source.replace(good, bad)

    report = LeaseExplorer(replace(SETTINGS[name], broken={script: broken})).explore(most=30_000)
    assert report.violation is not None, str(report)
    assert said in report.violation, str(report)
