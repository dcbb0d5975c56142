"""The parts of pages without a server: markup, numbers, charts and their history."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import replace

import pytest

from redis_kvpoll import AsyncStatusStore, Entry, KVPoll, StoreUnavailableError
from redis_kvpoll.cli import durations as cli_durations
from redis_kvpoll.cli.rows import HISTORY_COLUMNS, period_rows
from redis_kvpoll.protocol import durations
from redis_kvpoll.protocol.periods import Period
from redis_kvpoll.serve import charts, formats, turns
from redis_kvpoll.serve.examine import Examination
from redis_kvpoll.serve.history import PERIOD, SLOTS, ChartHistory
from redis_kvpoll.serve.markup import join, tag
from redis_kvpoll.serve.room_changes import RoomChanges
from redis_kvpoll.serve.turns import BusyError, Turns
from redis_kvpoll.serve.view import Cell, Row, View
from redis_kvpoll.serve.watch import Watch
from redis_kvpoll.statistics.model import BOUNDS, Histogram, Snapshot
from tests.support import pace

BOOT = KVPoll.Bootstrapping


class TestMarkup:
    def test_text_is_escaped_wherever_it_is(self):
        text = "<b> & \"'"
        escaped = "&lt;b&gt; &amp; &quot;&#x27;"
        assert tag("p", text, title=text) == f'<p title="{escaped}">{escaped}</p>'
        assert join([text, [text]]) == escaped * 2

    def test_markup_is_put_in_as_it_is(self):
        assert tag("p", tag("b", "x"), None, [" ", tag("i")]) == "<p><b>x</b> <i></i></p>"

    def test_invisible_characters_are_spelled_out(self):
        assert tag("p", "a\u202eb\x1b[2J\n") == "<p>a\\u202eb\\x1b[2J\\n</p>"

    def test_attributes_may_be_flags(self):
        assert tag("input", class_="a", data_key="k", required=True, hidden=False, id=None) == (
            '<input class="a" data-key="k" required>'
        )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
        (math.inf, "never"),
        (-3.0, "0 ms"),
        (0.00096, "1 ms"),
        (0.0025, "2.5 ms"),
        (0.0996, "0.1 s"),
        (9.94, "9.9 s"),
        (59.96, "60 s"),
        (99.94, "100 s"),
        (297.7, "4 min 58 s"),
        (35_940.0, "9 h 59 min"),
        (100.0, "1 min 40 s"),
        (3599.6, "1 h"),
        (86400 * 3 + 3600, "3 d 1 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert formats.duration(seconds) == text


@pytest.mark.parametrize("seconds", [0.0, 0.00049, 0.0031, 0.25, 44.0, 99.96, 700.0, 5000.0, 90_000.0, math.inf])
def test_one_duration_is_written_alike_everywhere(seconds):
    assert formats.duration(seconds) == cli_durations.human(seconds)
    row, *_ = period_rows(Period(1000.0, "Success", 1000.0 + seconds))
    assert row[HISTORY_COLUMNS.index("lasted")] == durations.human(1000.0 + seconds - 1000.0)


@pytest.mark.parametrize(
    ("per_second", "text"), [(0, "0.0/s"), (0.02, "0.02/s"), (12.34, "12.3/s"), (1234.5, "1,234/s")]
)
def test_rates_have_three_digits(per_second, text):
    assert formats.rate(per_second) == text


def test_times_outside_a_calendar_are_no_error():
    assert formats.clock(1e20) == formats.moment(-1e20) == formats.NONE
    assert formats.clock(0.1234, 3) == "00:00:00.123"


class TestCharts:
    @pytest.mark.parametrize("largest", [0.0, 0.004, 0.99, 1, 7.3, 11, 999, 1001, 123456])
    def test_top_is_round_and_above_every_value(self, largest):
        top = charts.ceiling([None, largest], 0.001)
        assert largest <= top <= max(2.1 * largest, 0.001)

    def test_line_has_a_gap_where_nothing_was_seen(self):
        path = charts.line([0, 10, None, 5, 10], 10)
        assert path == "M0 120L150 0M450 60L600 0"

    def test_single_value_is_a_dot(self):
        assert charts.line([None, 5, None], 10) == "M300 60h1"

    def test_areas_stand_on_each_other(self):
        low, high = charts.stack([[1, 1], [2, 3]], 4)
        assert low == "M0 90L600 90L600 120L0 120Z"
        assert high == "M0 30L600 0L600 90L0 90Z"

    def test_areas_have_a_gap_where_nothing_was_seen(self):
        (path,) = charts.stack([[1, None, 1]], 4)
        assert path.count("M") == 2


def snapshot(at, rooms=0, ends=0, synced=True, durations=()):
    counts = [0] * (len(BOUNDS) + 1)
    for bucket in durations:
        counts[bucket] += 1
    return Snapshot(
        "prod",
        at,
        synced=synced,
        lag_seconds=0.0,
        counts={BOOT: rooms},
        transitions={("Transferring", "Success"): ends},
        status_durations={BOOT: Histogram(tuple(counts), 0.0)},
    )


class TestHistory:
    def test_rate_is_the_difference_of_two_samples(self):
        history = ChartHistory()
        history.add(snapshot(1000.0, ends=0))
        history.add(snapshot(1000.0 + PERIOD, ends=10))
        assert history.drawings()["ends"].latest[0] == "2.0/s"

    def test_unsynced_time_is_a_gap(self):
        history = ChartHistory()
        history.add(snapshot(1000.0, rooms=3))
        history.add(snapshot(1000.0 + PERIOD, rooms=3, synced=False))
        history.add(snapshot(1000.0 + 2 * PERIOD, rooms=3))
        assert history.drawings()["rooms"].paths[0].count("M") == 2

    def test_quantile_is_of_the_last_minute_alone(self):
        history = ChartHistory()
        slow, fast = len(BOUNDS) - 1, 0
        for number in range(30):
            durations = [slow] * 5 if number < 10 else [slow] * 5 + [fast] * number
            history.add(snapshot(1000.0 + PERIOD * number, durations=durations))
        assert history.drawings()["durations"].latest[0] == "1 ms"

    def test_old_samples_are_dropped(self):
        history = ChartHistory()
        for number in range(2 * SLOTS):
            history.add(snapshot(1000.0 + PERIOD * number, rooms=1))
        assert len(history) < SLOTS + 20
        assert len(history.drawings()["rooms"].rows) == 30

    def test_clock_that_went_back_begins_anew(self):
        history = ChartHistory()
        history.add(snapshot(1e6, rooms=7))
        history.add(snapshot(1000.0, rooms=3))
        assert history.drawings()["rooms"].latest[0] == "3"
        assert len(history) == 1

    def test_clock_that_went_back_a_little_shows_what_is_now(self):
        """A step of a minute: the slots of that minute are written anew, those before it stay."""
        history = ChartHistory()
        for number in range(20):
            history.add(snapshot(1000.0 + PERIOD * number, rooms=7))
        for number in range(8, 10):
            history.add(snapshot(1000.0 + PERIOD * number, rooms=3))
            assert history.drawings()["rooms"].latest[0] == "3"
            assert len(history) == number + 1

    def test_nothing_seen_is_drawn(self):
        for drawing in ChartHistory().drawings().values():
            assert set(drawing.paths) == {""}


def test_view_is_encoded_with_its_text_as_it_is():
    view = View({"state": Cell("<b>\u202e", "good")}, {"rooms": (Row("1", (Cell("1", "", "/room/1"), Cell("x"))),)})
    assert json.loads(view.encoded("b")) == {
        "build": "b",
        "texts": {"state": ["<b>\\u202e", "good"]},
        "tables": {"rooms": [["1", ["1", "", "/room/1"], "x"]]},
        "charts": {},
    }


def test_ages_are_counted_from_now_while_the_table_is_known():
    """A room that changed after the snapshot would be older than its own time."""
    store = AsyncStatusStore.from_url("memory://", namespace="prod")
    watch = Watch(store, "prod", 60.0)
    watch.snapshot = replace(snapshot(1000.0), lag_seconds=2.0)
    watch.ticked_at = time.monotonic() - 1.0
    assert watch.now() >= 1003.0
    watch.snapshot = replace(snapshot(1000.0, synced=False), lag_seconds=math.inf)
    assert watch.now() == 1000.0


@pytest.mark.parametrize(("has_feed", "expected"), [(True, 59.0), (False, None)])
def test_doctor_is_told_the_lag_behind_a_feed_alone(monkeypatch, has_feed, expected):
    """Without a feed the table is read once a minute, which is no fault of the network."""
    told = []

    def fail(**_):
        raise RuntimeError("the snapshot stays as it is")

    async def run():
        loop, has_looked = asyncio.get_running_loop(), asyncio.Event()

        def examine(lag):
            told.append(lag)
            loop.call_soon_threadsafe(has_looked.set)
            return Examination((), "", "")

        async with AsyncStatusStore.from_url("memory://", read_only=True) as store:
            monkeypatch.setattr(store, "statistics", fail)
            watch = Watch(store, "prod", 60.0, examine)
            watch.snapshot = replace(snapshot(1000.0), lag_seconds=59.0, has_feed=has_feed)
            running = asyncio.create_task(watch.run())
            await asyncio.wait_for(has_looked.wait(), pace.patience(30))
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(run())
    assert told == [expected]


class TestReadsOfTheFeed:
    @pytest.fixture
    def read(self, monkeypatch):
        """Reads the histories of rooms, each only once; returns the results, and which rooms were read."""
        monkeypatch.setattr(turns, "SHARE", 1.0)  # no pause
        monkeypatch.setattr("redis_kvpoll.serve.room_changes.SHARE_OF_EACH", 1e-9)

        def read(*groups):
            return asyncio.run(read_all(groups))

        async def read_all(groups):
            rooms, results, reading = [], [], []

            async def history(room):
                assert not reading, "one at a time"
                reading.append(room)
                rooms.append(room)
                await asyncio.sleep(0.001)
                reading.clear()
                return []

            async with AsyncStatusStore.from_url("memory://") as store:
                monkeypatch.setattr(store, "history", history)
                watch = Watch(store, "prod", 60.0)
                for group in groups:
                    calls = [watch.changes.read(Entry(room, BOOT, 0.0, 0.0, 1.0)) for room in group]
                    results += await asyncio.gather(*calls, return_exceptions=True)
            return results, rooms

        return read

    def test_one_is_read_at_a_time_and_few_wait(self, read):
        results, rooms = read(range(10))
        assert rooms == list(range(1 + turns.MOST_WAITING))
        assert [type(result) for result in results[len(rooms) :]] == [BusyError] * (10 - len(rooms))

    def test_who_waited_for_the_same_room_takes_what_was_read(self, read):
        assert read([7, 7, 7])[1] == [7]

    def test_oldest_is_dropped_alone(self, read, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.serve.room_changes.MOST_KEPT", 2)
        assert read([1], [2], [3], [2], [3], [1])[1] == [1, 2, 3, 1]

    def test_page_of_a_room_waits_for_no_turn(self):
        """While others read, it shows what was read of the same life and status, or nothing."""

        async def run():
            all_turns = Turns()
            async with AsyncStatusStore.from_url("memory://") as store:
                changes = RoomChanges(store, all_turns)
                handle = await store.open(7)
                first = await store.entry(7)
                read = await changes.known(first)
                async with all_turns.take():
                    kept = await changes.known(first)
                    await handle.update(KVPoll.Transferring)
                    moved = await changes.known(await store.entry(7))
                    await handle.clear()
                    await store.open(7)
                    reused = await changes.known(await store.entry(7))
                return read, kept, moved, reused

        read, kept, moved, reused = asyncio.run(run())
        assert [change.status for change in read] == [BOOT]
        assert (kept, moved, reused) == (read, None, None)

    def test_page_of_a_room_says_nothing_of_what_it_could_not_read(self, monkeypatch):
        async def fail(_):
            raise StoreUnavailableError("history")

        async def run():
            async with AsyncStatusStore.from_url("memory://") as store:
                monkeypatch.setattr(store, "history", fail)
                return await RoomChanges(store, Turns()).known(Entry(7, BOOT, 0.0, 0.0, 1.0))

        assert asyncio.run(run()) is None

    def test_pause_follows_a_turn(self, monkeypatch):
        monkeypatch.setattr(turns, "SHARE", 1e-9)

        async def run():
            all_turns = Turns()
            async with all_turns.take():
                await asyncio.sleep(0.001)
            return all_turns.is_taken

        assert asyncio.run(run())


def test_watch_that_breaks_begins_again(monkeypatch, caplog):
    """Nothing else would: the process goes on, and would show old numbers."""
    monkeypatch.setattr("redis_kvpoll.serve.watch.INTERVAL", 0.001)

    async def run():
        third_turn, turns = asyncio.Event(), []

        def fail(**_):
            turns.append(1)
            if len(turns) == 3:
                third_turn.set()
            raise RuntimeError("unforeseen")

        async with AsyncStatusStore.from_url("memory://", read_only=True) as store:
            monkeypatch.setattr(store, "statistics", fail)
            running = asyncio.create_task(Watch(store, "prod", 60.0).run())
            await asyncio.wait_for(third_turn.wait(), pace.patience(30))
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(run())
    assert "unforeseen" in caplog.text
