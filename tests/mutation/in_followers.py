"""Mutations of followers, and of those to whom they tell what they find.

Each is (what is wrong then, where, the text there, its replacement, the test that fails). To add one: put a tuple
here; ``where`` is ``module:Class.function`` below redis_kvpoll.
"""

IN_FOLLOWERS = [
    (
        "what a callback raises ends the thread that follows",
        "replica.listeners:Listeners._call",
        " and self.turn.may_be_interrupted()",
        "",
        "mirror/test_entry.py::test_mirror_goes_on_after_what_a_callback_has_raised[fakeredis-KeyboardInterrupt]",
    ),
    (
        "what rooms= raises ends the thread that follows",
        "sync.follower:FollowerThread._run",
        "except BaseException as error",
        "except Exception as error",
        "mirror/test_entry.py::test_mirror_goes_on_after_what_its_rooms_have_raised[fakeredis-SystemExit]",
    ),
    (
        "what a heartbeat raises ends the thread of a lease",
        "sync.lease:Lease._keep",
        "except BaseException:",
        "except Exception:",
        "leases/test_live.py::test_heartbeat_is_sent_after_one_that_raised[SystemExit]",
    ),
    (
        "an entry waits for a follower whose sessions fail",
        "sync.follower:FollowerThread._run",
        "pause = self.follower.health.failed_unexpectedly(error)",
        "pause = REJECTED_RETRY",
        "mirror/test_entry.py::test_entry_is_told_what_the_rooms_have_raised[fakeredis-mirror-SystemExit]",
    ),
    (
        "what is found while another follower calls the listeners is told late",
        "replica.listeners:Listeners.tell",
        "while has_news() and self.turn.take():",
        "if has_news() and self.turn.take():",
        "replica/test_listeners.py::test_who_calls_them_goes_on_with_what_others_find",
    ),
    (
        "followers find more than the listeners can be told",
        "sync.follower:ThreadTurn.take",
        "timeout=TURN_PATIENCE",
        "blocking=False",
        "replica/test_listeners.py::test_thread_waits_for_its_turn",
    ),
    (
        "a callback that raises CancelledError ends its follower",
        "replica.listeners:Listeners._call",
        "except BaseException as error:",
        "except Exception as error:",
        "mirror/test_failures.py::TestOnServers::test_callback_that_raises_stops_nothing[async-CancelledError-fakeredis]",
    ),
    (
        "a follower of failures answers after its close",
        "replica.failures_base:FailuresBase.get",
        "if self._log is None or self._closed:",
        "if self._log is None:",
        "mirror/test_failures.py::TestOnServers::test_closed_follower_says_so[async-fakeredis]",
    ),
    (
        "two tasks enter one mirror",
        "aio.mirror:AsyncMirror.__aenter__",
        "if self._replica is not None:  # another",
        "if False:  # another",
        "mirror/test_entry.py::test_second_entry_at_once_is_refused[fakeredis-mirror]",
    ),
    (
        "a mirror whose entry failed is opened by a read",
        "sync.mirror:Mirror._open_replica",
        "self._was_open and ",
        "",
        "mirror/test_entry.py::test_failed_entry_opens_nothing[sync-mirror]",
    ),
    (
        "own writes are kept for a feed that nobody reads",
        "replica.replica:Replica.observe_write",
        "not shard.is_followed or ",
        "",
        "replica/test_own_writes.py::TestWithoutReads::test_rooms_that_come_and_go_leave_nothing[Run]",
    ),
    (
        "own writes are kept for a follower that hangs",
        "replica.replica:Replica.observe_write",
        "if shard.is_followed and shard.is_overrun and",
        "if False and",
        "replica/test_own_writes.py::TestWithoutReads::test_follower_that_does_not_read_is_given_up[RankedRun]",
    ),
    (
        "a mirror forgets what it was told while it could not follow",
        "replica.shard:ShardReplica._leave_to_resync",
        "self._unconfirmed.add(room)",
        "pass",
        "replica/test_own_writes.py::TestWithoutReads::test_room_that_is_again_as_it_was_is_read[Run]",
    ),
    (
        "what an open was told is dropped with a failure that it replaces",
        "replica.failures:FailureLog.deliver",
        "self.latest.get(room) is failure",
        "True",
        "replica/test_failures.py::test_room_opened_while_the_held_ones_are_listed_is_kept",
    ),
    (
        "a room that was cleared meanwhile has a part of the sweep read",
        "replica.shard:ShardReplica.known_rooms",
        " if room in self._ids",
        "",
        "mirror/test_ghosts.py::TestSweep::test_room_that_was_cleared_meanwhile_is_left_out[plain]",
    ),
    (
        "a read that proves nothing waits for a whole heartbeat",
        "replica.continuity:Continuity.wait_ms",
        "min(most, until_due)",
        "most",
        "replica/test_follow.py::TestLooks::test_copy_stays_synced_after_a_short_burst",
    ),
    (
        "a follower that was given up brings cleared rooms back",
        "replica.replica:Replica._change_followed",
        "action() if shard.is_followed else None",
        "action()",
        "replica/test_own_writes.py::TestWithoutReads::test_given_up_follower_brings_no_cleared_room_back[Run-feed]",
    ),
    (
        "an outage ends a wait that has begun",
        "replica.host:WaitTurns.after",
        "if is_away and is_first:",
        "if is_away:",
        "replica/test_waiting.py::TestTurns::test_outage_only_prolongs_a_wait[True]",
    ),
    (
        "an outage ends a wait of a signal handler",
        "sync.waits:poll",
        "with contextlib.suppress(StoreUnavailableError):",
        "if True:",
        "mirror/test_waits.py::test_wait_of_a_signal_handler_outlasts_an_outage",
    ),
    (
        "a mirror answers while it is being entered",
        "aio.mirror:AsyncMirror._open_replica",
        " or not self._is_open",
        "",
        "mirror/test_entry.py::test_mirror_answers_once_it_is_entered[fakeredis]",
    ),
    (
        "a follower goes on behind a failure that it could not tell",
        "replica.failures:FailureFollower._take",
        (
            "    self._log.deliver(delivered)  # first: if ``rooms`` fails, the next session reads them again\n"
            "    for number, entries in enumerate(found):\n"
            "        if entries:\n"
            "            self._read_up_to[number], self._words[number] = number_of(entries[-1][0]), entries[-1][1]\n"
        ),
        (
            "    for number, entries in enumerate(found):\n"
            "        if entries:\n"
            "            self._read_up_to[number], self._words[number] = number_of(entries[-1][0]), entries[-1][1]\n"
            "    self._log.deliver(delivered)\n"
        ),
        "mirror/test_failures.py::TestOnServers::test_failure_at_a_moment_of_wrong_rooms_is_told_later[sync-valkey]",
    ),
    (
        "a rejection that has ended and comes back is not logged",
        "replica.health:FollowerHealth.succeeded",
        'self.failure, self.trouble = None, ""',
        'self.trouble = ""',
        "replica/test_health.py::test_rejection_that_comes_back_is_logged_again",
    ),
    (
        "what ended an earlier session is told as why a follower is not current",
        "replica.health:FollowerHealth.succeeded",
        'self.failure, self.trouble = None, ""',
        "self.failure = None",
        "replica/test_health.py::test_trouble_is_the_latest_loss_until_it_is_current",
    ),
]
