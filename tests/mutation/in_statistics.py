"""Mutations of the statistics, in the form of in_client.py."""

IN_STATISTICS = [
    (
        "a room of before a gap counts as a transition",
        "statistics.shard:ShardStatistics._changed",
        "elif before is not None and self.rooms.is_confirmed(before):",
        "elif before is not None:",
        "statistics/test_shard.py::test_room_of_before_a_gap_counts_no_transition",
    ),
    (
        "a duration counts though its beginning was not seen",
        "statistics.shard:ShardStatistics._left",
        "before.flags & SINCE_SEEN and ",
        "",
        "statistics/test_shard.py::test_duration_counts_if_both_ends_were_seen",
    ),
    (
        "a room opened anew forgets that the former one had expired",
        "statistics.shard:ShardStatistics._ended",
        "0 < before.due_ms <= at_ms",
        "False",
        "statistics/test_shard.py::test_room_opened_anew_has_ended_before[1500-expired]",
    ),
    (
        "a later reason counts, too",
        "statistics.shard:ShardStatistics._failed",
        "if before is None or before.status is not KVPoll.Failed:",
        "if True:",
        "statistics/test_shard.py::test_failure_counts_by_its_first_reason",
    ),
    (
        "rooms that a walk did not meet stay",
        "statistics.records:Rooms.end_walk",
        "!= self._walk",
        "== 7",
        "statistics/test_shard.py::test_walk_drops_rooms_that_are_gone_without_counting_them",
    ),
    (
        "a shorter TTL is noticed at the former one's end",
        "statistics.records:Rooms.put",
        " or record.due_ms // 1000 + 1 < scheduled",
        "",
        "statistics/test_records.py::test_shorter_ttl_is_noticed_at_its_end",
    ),
    (
        "a count of refused writes that begins anew falls",
        "statistics.totals:Totals.refused",
        "now - before if now >= before else now",
        "now - before",
        "statistics/test_shard.py::TestRefused::test_count_that_begins_anew_goes_on",
    ),
    (
        "a feed of another server is read on by its ids",
        "statistics.follow:StatisticsFollower._read_feed",
        "(entries[0][0], entries[0][1]) != (position.id, position.words)",
        "entries[0][0] != position.id",
        "statistics/test_model.py::test_feed_of_another_server_is_not_read_on",
    ),
    (
        "a touch that was read before the walk counts as a change of status",
        "statistics.shard:ShardStatistics._read",
        "since_ms=min(updated_ms, before.since_ms)",
        "since_ms=before.since_ms",
        "statistics/test_shard.py::test_touch_before_the_walk_is_no_change_of_status",
    ),
    (
        "rooms are counted however long they are at their status",
        "statistics.aggregates:Aggregates.count",
        "if longer_than else",
        "if False else",
        "statistics/test_statistics.py::test_rooms_are_counted_as_they_are_listed[sync-fakeredis]",
    ),
]
