"""Mutations of SGLang's plugin and of the parts that only it depends on.

Each is (what is wrong then, where, the text there, its replacement, the test that fails). To add one: put a tuple
here; ``where`` is ``module:Class.function`` below redis_kvpoll.
"""

_PLUGIN = "integrations.sglang"

IN_THE_PLUGIN = [
    (
        "a write decided in one life changes the next",
        f"{_PLUGIN}.registry:RoomRegistry.write_status",
        "elif number is not None and scope.number in (None, number):",
        "elif number is not None:",
        "plugin/test_statuses.py::TestLateUpdate::test_write_decided_before_reopening_is_dropped[Manager]",
    ),
    (
        "a late write brings a cleared room back",
        f"{_PLUGIN}.registry:RoomRegistry.write_status",
        "elif number is None and scope.number is None and status in CREATING:",
        "elif number is None and status in CREATING:",
        "plugin/test_statuses.py::TestLateUpdate::test_write_decided_before_clear_is_dropped[Manager]",
    ),
    (
        "what a thread has read stays with it after the call",
        f"{_PLUGIN}.scope:Scopes.around",
        "threads.current = outer",
        "pass",
        "plugin/test_statuses.py::TestUpdate::test_update_that_raises_leaves_no_scope",
    ),
    (
        "the plugin joins whatever update_status does",
        f"{_PLUGIN}.behaviour:check_update_status",
        "if found != wanted:",
        "if False:",
        "plugin/test_behaviour.py::test_other_update_status_is_incompatible[LowersStatus-with the map]",
    ),
    (
        "a reason goes with its room",
        f"{_PLUGIN}.registry:RoomRegistry._remove",
        "dict.pop(self.lengths, room, None)",
        "dict.pop(self.lengths, room, None); dict.pop(self.reasons, room, None)",
        "plugin/test_registry.py::TestReasons::test_reason_after_clear_stays_until_reopening",
    ),
    (
        "a reason stays for the room's next life",
        f"{_PLUGIN}.registry:RoomRegistry._open",
        "dict.pop(self.reasons, room, None)",
        "pass",
        "plugin/test_registry.py::TestReasons::test_reason_after_clear_stays_until_reopening",
    ),
    (
        "a failure in the table fails the room's next life",
        f"{_PLUGIN}.registry:RoomRegistry.fail_from_table",
        "self._lives.get(room) != number",
        "room not in self._lives",
        "plugin/test_registry.py::TestFailFromTable::test_failure_of_an_earlier_life_is_ignored",
    ),
    (
        "a life that is put back comes after later ones",
        f"{_PLUGIN}.outbox:Outbox.put_back",
        "lives.insert(0, life)",
        "lives.append(life)",
        "plugin/test_registry.py::TestOutbox::test_life_put_back_comes_before_the_next_life",
    ),
    (
        "unpublished lives grow without bound",
        f"{_PLUGIN}.outbox:Outbox._drop_excess",
        "if len(self._ended_unpublished) > MAX_ENDED_LIVES:",
        "if False:",
        "plugin/test_registry.py::TestOutbox::test_outbox_over_limit_drops_ended_lives_only",
    ),
    (
        "a pipeline does without SGLang's own store",
        f"{_PLUGIN}.maps:ConsensusMap.collect",
        "if self._rank == self._peers[0]:",
        "if False:",
        "plugin/test_consensus_map.py::test_collect_on_rank_0_is_sglangs_own",
    ),
    (
        "a room that another stage has cleared is still collected",
        f"{_PLUGIN}.maps:ConsensusMap.remove",
        "self._sglangs.pop(room)",
        "pass",
        "plugin/test_consensus_map.py::test_every_write_reaches_sglangs_own_store",
    ),
    (
        "a room reaches WaitingForInput in the table before its prefix length",
        f"{_PLUGIN}.publisher:OutboxPublisher._send",
        "life.status in CREATING and life.length is None",
        "life.status in CREATING",
        "plugin/test_worker.py::TestPublishing::test_prefix_length_is_published_before_the_status[at once]",
    ),
    (
        "a status is published before the prefix length",
        f"{_PLUGIN}.publisher:OutboxPublisher._send",
        "if life.length is not None:",
        "if status is not None:\n        await handle.update(status)\n    if life.length is not None:",
        "plugin/test_worker.py::TestPublishing::test_prefix_length_is_published_before_the_status[later]",
    ),
    (
        "a mirror keeps an own write that the feed has passed",
        "replica.rank_shard:RankShardReplica.read",
        "own is not None and own.at == at and own.followed is not None",
        "False",
        "replica/test_rank_shard.py::TestRanksOfRoom::test_many_room_write_ends_with_its_last_entry",
    ),
    (
        "any instance's failure fails decode's room",
        f"{_PLUGIN}.peers:concerns",
        "return author in peers",
        "return True",
        "plugin/test_peers.py::test_failure_concerns_its_author_or_instance[other dp]",
    ),
    (
        "a room is published before its sender is known",
        f"{_PLUGIN}.registry:RoomRegistry._open",
        "elif self.awaits_claims:",
        "elif False:",
        "plugin/test_claims.py::TestClaims::test_room_without_sender_is_not_published",
    ),
    (
        "a failure from the table by-passes SGLang's update_status",
        f"{_PLUGIN}.registry:RoomRegistry.fail_from_table",
        "self.update_status(room, FAILED)",
        "self.write_status(room, FAILED)",
        "plugin/test_worker.py::TestFailureFromTable::test_failure_of_a_room_runs_sglangs_update_status",
    ),
    (
        "a receiver clears the next use of its room",
        f"{_PLUGIN}.registry:RoomRegistry.clear",
        "number = None if self.scopes.is_late(room) else self._lives.pop(room, None)",
        "number = self._lives.pop(room, None)",
        "plugin/test_claims.py::TestLives::test_clear_of_a_former_life_leaves_the_next",
    ),
]
