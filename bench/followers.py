"""What a change costs the server while many follow the table: by mirrors, and by the plugin's followers of failures.

The followers are simulated (simulated.py). One writer changes rooms one by one, RATE a second. A change's CPU is that
of the time of the changes, less what the server takes for as long a time without them: nothing but its own clock
beside mirrors, which then send no heartbeats; with the heartbeats of followers of failures, which have a row and a
budget of their own.

To add a kind of follower: give it a Kind in simulated.py, hold it to the real one's commands in its test, and measure
it here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench import capacity, instructions, link, ranks
from bench.capacity import Inputs
from bench.ground import Ground
from bench.instructions import Counter
from bench.measure import Spread
from bench.peers.known import p99
from bench.results import Budget, Row, Section
from bench.simulated import Feed, Kind, Simulator
from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys
from redis_kvpoll.replica import failures

MIRRORS = (0, 8, 64, 128)
PROCESSES = (64, 128)
"""Of the plugin. Each follows the failures of both roles' tables."""
PREFILL, DECODE = "many-prefill", "many-decode"
"""The tables of the two roles."""
RATE = 100.0
"""Changes a second."""
PLUGIN_BUDGET = Budget(1.2)
IDLE_BUDGET = Budget(10)
"""Millions of instructions a second, of 128 followers."""
LINK_BUDGET = Budget(2)
"""Percent of a CPU."""
_IDLE = 128
_SETTLE = 0.3
"""Seconds after the last change in which it is delivered."""


@dataclass(frozen=True, slots=True)
class Sizes:
    changes: int
    rounds: int
    more_rounds: int
    """Without mirrors: what the plugin's processes add is little beside what they take without changes."""
    idle_seconds: float
    link_seconds: float


FULL = Sizes(changes=300, rounds=3, more_rounds=4, idle_seconds=3.0, link_seconds=5.0)
QUICK = Sizes(changes=10, rounds=1, more_rounds=0, idle_seconds=0.2, link_seconds=0.5)


class Usage(NamedTuple):
    """What the server has used since its start."""

    cpu_us: float
    bytes_out: float
    commands: float

    @classmethod
    def of(cls, ground: Ground) -> Usage:
        cpu, stats = ground.client.info("cpu"), ground.client.info("stats")
        seconds = float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
        return cls(seconds * 1e6, float(stats["total_net_output_bytes"]), float(stats["total_commands_processed"]))

    def since(self, before: Usage) -> Usage:
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))


@dataclass(slots=True)
class Load:
    """What followers of one kind and number cost, in each round."""

    us: list[float] = field(default_factory=list)
    """CPU of the server for a change."""
    bytes_out: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)
    idle_us: list[float] = field(default_factory=list)
    """CPU of the server for a second without changes."""
    known_ms: list[float] = field(default_factory=list)
    """From each change to each follower."""


def measure(ground: Ground, sizes: Sizes, progress: Callable[[str], None]) -> list[Section]:
    loads: dict[tuple[Kind, int], Load] = {("mirror", count): Load() for count in MIRRORS}
    loads |= {("failures", count): Load() for count in PROCESSES}
    _prepare(ground)
    for number in range(sizes.rounds + sizes.more_rounds):
        for (kind, count), load in loads.items():
            if number >= sizes.rounds and kind == "mirror" and count:
                continue
            progress(f"{count} {'mirrors' if kind == 'mirror' else 'processes of the plugin'}, round {number + 1}")
            idle = loads["mirror", 0].idle_us
            _measure_load(ground, kind, count, sizes, load, idle[-1] if kind == "mirror" and count else None)
    progress(f"idle followers; instructions: {instructions.way()}")
    with instructions.counting(ground) as counter:
        idle_mirrors, idle_failures = (_idle(counter, kind, sizes) for kind in ("mirror", "failures"))
        request = ranks.request_instructions(counter) if counter else None
    progress("the plugin's link")
    link_percent = link.cpu_percent(ground, sizes.link_seconds)
    grouped_us = ranks.request_us(ground)
    change, delivery = _sections_of(loads)
    rows = [_idle_row("mirrors", idle_mirrors), _idle_row("followers of failures", idle_failures)]
    rows.append(_link_row(link_percent))
    quiet = Section("followers_idle", f"{_IDLE} followers without changes; the plugin's link", "figure", rows)
    change.named["scale"] = _named(loads, idle_mirrors, link_percent, request)
    return [change, delivery, quiet, *capacity.sections(_inputs(loads, grouped_us))]


def _prepare(ground: Ground) -> None:
    """Create the tables of both roles, each with its stream of failures."""
    for table in (PREFILL, DECODE):
        with ground.store(table) as store, store.failures(list):
            pass


def _feeds(ground: Ground, kind: Kind, count: int) -> list[Feed]:
    """What so many mirrors, or processes of the plugin, follow from now on."""
    key = keys.feed if kind == "mirror" else keys.failed
    feeds = []
    for table in (PREFILL,) if kind == "mirror" else (PREFILL, DECODE):
        namespace = f"{ground.id}.{table}"
        last: Any = ground.client.xrevrange(key(namespace), count=1)
        feeds.append(Feed(kind, namespace, last[0][0].decode(), count))
    return feeds


def _measure_load(ground: Ground, kind: Kind, count: int, sizes: Sizes, load: Load, idle_us: float | None) -> None:
    """Measure a round. ``idle_us`` is what the server takes for a second without changes; None to measure it."""
    rooms = ground.ids(sizes.changes)
    with ground.store(PREFILL) as store:
        store.update_many(dict.fromkeys(rooms, KVPoll.Bootstrapping))
        simulator = Simulator(ground.url, _feeds(ground, kind, count)) if count else None
        with simulator or nullcontext():
            quiet_us = _quiet_us(ground, sizes.idle_seconds / 2)
            before, began = Usage.of(ground), time.monotonic()
            starts = []
            for number, room in enumerate(rooms):
                time.sleep(max(0.0, began + number / RATE - time.monotonic()))
                starts.append(time.monotonic())
                store.update_status(room, KVPoll.Transferring)
            time.sleep(_SETTLE)
            used, took = Usage.of(ground).since(before), time.monotonic() - began
            # Before and after: the machine may have become slower meanwhile.
            load.idle_us.append((quiet_us + _quiet_us(ground, sizes.idle_seconds / 2)) / sizes.idle_seconds)
            found = simulator.stop() if simulator else []
    idle, asking = load.idle_us[-1] if idle_us is None else idle_us, Usage.of(ground)
    asking = Usage.of(ground).since(asking)
    load.us.append((used.cpu_us - idle * took) / sizes.changes)
    load.bytes_out.append((used.bytes_out - asking.bytes_out) / sizes.changes)
    load.commands.append((used.commands - asking.commands) / sizes.changes)
    for _, _, known_at in found:
        load.known_ms += [1000 * (end - start) for start, end in zip(starts, known_at, strict=False)]


def _quiet_us(ground: Ground, seconds: float) -> float:
    """Return the CPU of the server for so many seconds without changes."""
    before = Usage.of(ground)
    time.sleep(seconds)
    return Usage.of(ground).since(before).cpu_us


def _idle(counter: Counter | None, kind: Kind, sizes: Sizes) -> float | None:
    """The instructions a second of the server while 128 followers are idle, in millions, beyond its own."""
    if counter is None:
        return None
    ground = counter.ground
    _prepare(ground)
    alone = counter.count(lambda: time.sleep(sizes.idle_seconds))
    (feed, *_) = _feeds(ground, kind, _IDLE)
    with Simulator(ground.url, [feed]):
        counted = counter.count(lambda: time.sleep(sizes.idle_seconds))
    return None if alone is None or counted is None else max(0.0, counted - alone) / sizes.idle_seconds / 1e6


def _sections_of(loads: dict[tuple[Kind, int], Load]) -> tuple[Section, Section]:
    """The CPU of a change, and its delivery."""
    pace = f"{RATE:g} changes a second"
    change = Section("followers", f"The server's CPU for a change, with followers, {pace}", "times that without")
    change.ours, change.theirs = "CPU", "without"
    delivery = Section("followers_known", f"Delivery of a change to followers, {pace}", "bytes out a change")
    delivery.ours, delivery.theirs = "median", "p99"
    without = loads["mirror", 0].us
    for (kind, count), load in loads.items():
        name = f"{count} mirrors" if kind == "mirror" else f"{count} processes of the plugin"
        # On a busy machine a difference of two CPU times may be below zero.
        ratios = Spread.of([max(0.001, us) / max(0.001, base) for us, base in zip(load.us, without, strict=False)])
        budget = PLUGIN_BUDGET if (kind, count) == ("failures", PROCESSES[-1]) else None
        change.rows.append(Row(name, "", "us", Spread.of(load.us).median, Spread.of(without).median, ratios, budget))
        known, late = (statistics.median(load.known_ms), p99(load.known_ms)) if load.known_ms else (None, None)
        commands = f"{statistics.median(load.commands):.1f} commands a change"
        delivery.rows.append(Row(f"{name}: {commands}", "", "ms", known, late, Spread.of(load.bytes_out)))
    return change, delivery


def _idle_row(who: str, millions: float | None) -> Row:
    name = f"{_IDLE} {who}: million instructions/s ({instructions.way()})"
    if millions is None:
        return Row(name, "", "ratio", None, None, None, IDLE_BUDGET, "instructions cannot be counted here")
    return Row(name, "", "ratio", None, None, Spread(*[millions] * 3), IDLE_BUDGET)


def _link_row(percent: float) -> Row:
    name = f"the plugin's link at {link.RATE:g} changes/s: % of a CPU"
    return Row(name, "", "ratio", None, None, Spread(*[percent] * 3), LINK_BUDGET)


def _inputs(loads: dict[tuple[Kind, int], Load], request_us: float) -> Inputs:
    change, eight = (statistics.median(loads["mirror", count].us) for count in (0, 8))
    alone = statistics.median(loads["mirror", 0].idle_us)
    processes = PROCESSES[-1]
    beats = 2 * processes / failures.HEARTBEAT
    beat = (statistics.median(loads["failures", processes].idle_us) - alone) / beats
    return Inputs(change, max(0.0, (eight - change) / 8), max(0.0, beat), request_us)


def _named(
    loads: dict[tuple[Kind, int], Load], idle: float | None, link_percent: float, request: float | None
) -> dict[str, Any]:
    """The figures under names that programs may rely on. None where there is none to measure."""
    named: dict[str, Any] = {}
    for (kind, count), load in loads.items():
        us = {"server_us_per_change": round(statistics.median(load.us), 2)}
        if kind == "mirror":
            known = round(statistics.median(load.known_ms), 3) if load.known_ms else None
            us |= {"bytes_out_per_change": round(statistics.median(load.bytes_out), 1)}
            named[f"followers_{count}"] = us | {"known_p50_ms": known}
        else:
            named[f"plugin_{count}"] = us
    named[f"heartbeats_{_IDLE}"] = {"instructions_per_s": None if idle is None else round(idle * 1e6)}
    named["link_cpu_percent_at_200"] = round(link_percent, 2)
    named["request_t8"] = {"server_instructions": None if request is None else round(request)}
    return named
