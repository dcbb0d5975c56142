"""Mutations of SGLang's plugin and of the parts that only it depends on.

Each is (what is wrong then, where, the text there, its replacement, the test that fails). To add one: put a tuple
here; ``where`` is ``module:Class.function`` below redis_kvpoll.
"""

_PLUGIN = "integrations.sglang"

IN_THE_PLUGIN = [
    (
        "what a thread saw of a former use changes the next",
        f"{_PLUGIN}.registry:RoomRegistry.put",
        "elif at != room or seen in (None, number):",
        "else:",
        "plugin/test_registry.py::TestStatuses::test_nor_after_the_room_was_opened_anew",
    ),
    (
        "a late write brings a cleared room back",
        f"{_PLUGIN}.registry:RoomRegistry.put",
        "if status in OPENING and (at != room or seen is None):",
        "if status in OPENING:",
        "plugin/test_registry.py::TestStatuses::test_what_a_thread_decided_before_a_clear_changes_nothing_after_it",
    ),
    (
        "a reason goes with its room",
        f"{_PLUGIN}.registry:RoomRegistry.end",
        "dict.pop(self.lengths, room, None)",
        "dict.pop(self.lengths, room, None); dict.pop(self.reasons, room, None)",
        "plugin/test_registry.py::TestReasons::test_it_outlives_the_clear_and_not_the_next_opening",
    ),
    (
        "a reason stays for the room's next use",
        f"{_PLUGIN}.registry:RoomRegistry._open",
        "dict.pop(self.reasons, room, None)",
        "pass",
        "plugin/test_registry.py::TestReasons::test_it_outlives_the_clear_and_not_the_next_opening",
    ),
    (
        "a failure elsewhere fails the room's next use",
        f"{_PLUGIN}.registry:RoomRegistry.fail_from_table",
        "self._numbers.get(room) != number",
        "room not in self._numbers",
        "plugin/test_registry.py::TestWhatIsHeard::test_one_of_a_use_that_is_over_is_none",
    ),
    (
        "what could not be said is said after what came later",
        f"{_PLUGIN}.outbox:Outbox.put_back",
        "lives.insert(0, life)",
        "lives.append(life)",
        "plugin/test_registry.py::TestWhatIsToBeSaid::test_and_before_what_is_of_a_later_use",
    ),
    (
        "the uses that the table was never told of grow without bound",
        f"{_PLUGIN}.outbox:Outbox._bound",
        "if len(self._whole) > LIMIT:",
        "if False:",
        "plugin/test_registry.py::TestWhatIsToBeSaid::test_it_is_bounded_and_what_lives_is_kept",
    ),
    (
        "a pipeline forgets SGLang's own store while Redis is away",
        f"{_PLUGIN}.dicts:ConsensusMap.collect",
        " and self.registry.is_alone_with(room)",
        " and False",
        "plugin/test_registry.py::TestConsensus::test_sglang_s_own_store_counts_while_the_table_cannot_be_heard",
    ),
    (
        "a room waits in the table before its prefix length is there",
        f"{_PLUGIN}.publisher:OutboxPublisher._say",
        "life.status in OPENING and life.length is None",
        "use.status in OPENING",
        "plugin/test_worker.py::TestTelling::test_the_prefix_length_comes_before_its_status[at once]",
    ),
    (
        "a status is told before the prefix length",
        f"{_PLUGIN}.publisher:OutboxPublisher._say",
        "if life.length is not None:",
        "if status is not None:\n        await handle.update(status)\n    if life.length is not None:",
        "plugin/test_worker.py::TestTelling::test_the_prefix_length_comes_before_its_status[later]",
    ),
    (
        "a mirror holds on to an own write that the feed has passed",
        "replica.rank_shard:RankShardReplica.read",
        "own is not None and own.at == at and own.followed is not None",
        "False",
        "replica/test_rank_shard.py::TestRanksOfRoom::test_many_room_write_ends_with_its_last_entry",
    ),
]
