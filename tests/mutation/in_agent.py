"""Mutations of the agent's connections: what is wrong, where, the text, its replacement, and the test that must fail.

A test's agent is a process of its own, where no mutation is. So these are of its client's side, and of what a test
calls itself.
"""

from __future__ import annotations

_AGENT = "agent"

IN_THE_AGENT = [
    (
        "a message is sent before the rest of the one before it",
        f"{_AGENT}.link:Link.send",
        "if self._unsent and not self._send_rest():",
        "if False:",
        "agent/test_link.py::test_a_message_follows_the_rest_of_the_one_before",
    ),
    (
        "nobody hears that there is room again",
        f"{_AGENT}.channel:AgentChannel._follow",
        "if link.flush() and self._link is link:",
        "if False:",
        "agent/test_channel.py::TestFullSocket::test_a_refused_message_is_followed_by_a_call",
    ),
    (
        "another thread sends before the greeting",
        f"{_AGENT}.channel:AgentChannel.send",
        "if self._greeter is not None and self._greeter != threading.get_ident():",
        "if False:",
        "agent/test_channel.py::TestConnection::test_only_the_greeter_sends_before_on_connected_returns",
    ),
    (
        "a forked child keeps the socket",
        f"{_AGENT}.channel:AgentChannel.after_fork",
        "link.socket.close()",
        "pass",
        "agent/test_channel.py::TestConnection::test_a_forked_child_has_no_channel",
    ),
    (
        "a thread waits for another one that sends",
        f"{_AGENT}.link:Link.send",
        "self._sending.acquire(blocking=False)",
        "self._sending.acquire()",
        "agent/test_interrupts.py::test_a_handler_may_use_the_channel_at_any_place",
    ),
    (
        "a process starts an agent although it stood still itself",
        f"{_AGENT}.channel:AgentChannel._ask",
        "if not link.is_in_use:",
        "if True:",
        "agent/test_interrupts.py::test_an_exception_at_any_place_costs_one_connection[5]",
    ),
    (
        "a pid that is used again counts",
        f"{_AGENT}.process_death:open_watch",
        "if start_of(pid) == hello.started:",
        "if True:",
        "agent/test_death.py::TestWatch::test_a_pid_that_is_used_again_is_not_its_process",
    ),
    (
        "a folder that others may use is used",
        f"{_AGENT}.rendezvous:private_folder",
        "if not _is_ours(folder):",
        "if False:",
        "agent/test_launch.py::TestFolder::test_a_link_is_refused",
    ),
    (
        "the number of a stopped agent is used again",
        f"{_AGENT}.rendezvous:Rendezvous.next_number",
        "max(above + 1, int(time.time() * 1000))",
        "int(time.time() * 1000)",
        "agent/test_launch.py::TestStart::test_numbers_grow_even_if_the_clock_does_not",
    ),
    (
        "pieces of two kinds make one message",
        f"{_AGENT}.frames:Assembler.add",
        "(self._pieces and kind != self._kind)",
        "False",
        "agent/test_frames.py::test_an_invalid_packet_is_noticed[packets3]",
    ),
    (
        "the lease of a rank that stands still is renewed",
        "aio.rank_group:AsyncRankGroup._keep",
        "and not self._stands_still[identity]()",
        "",
        "agent/test_shared_table.py::TestEnds::test_rank_that_stands_still_loses_its_lease_alone",
    ),
    (
        "rooms that ranks have from a former agent are not replayed",
        "engine.rank_group:RankGroup.adopt",
        '"creator"',
        '"attached"',
        "agent/test_shared_table.py::TestGoingOn::test_rooms_from_a_former_agent_survive_a_loss_of_data",
    ),
    (
        "a room that a rank has from a former agent has no opening",
        "engine.rank_group:RankGroup.adopt",
        'tracked.add_opening(entry.room, (entry.opening or "").encode())',
        "pass",
        "engine/test_adopted_rooms.py::test_old_room_comes_back_from_data_of_before_its_opening[sync-rank]",
    ),
    (
        "a rank that comes later hears of no failure before that",
        "agent.shared_table:SharedFailures.followed",
        "await self._read(rooms.rooms(), on_failure)",
        "pass",
        "agent/test_shared_table.py::TestFailures::test_rank_that_comes_later_hears_of_the_other_table",
    ),
    (
        "a rank that joins a Failed room does not hear of it",
        "agent.publisher:OutboxPublisher._send",
        "if handle.has_failed:",
        "if False:",
        "agent/test_shared_table.py::TestFailures::test_rank_that_joins_a_failed_room_hears_of_it",
    ),
    (
        "a failure that one rank was told is not told to one that opens its room later",
        "agent.shared_table:SharedFailures.since",
        "if failure is not None and at >= moment:",
        "if False:",
        "agent/test_shared_table.py::TestFailures::test_room_told_late_has_failed_in_the_other_table",
    ),
    (
        "each rank has its own store",
        "agent.shared_table:_key",
        'if name != "rank"',
        "",
        "agent/test_shared_table.py::TestOneCall::test_changes_of_one_round_are_one_call",
    ),
    (
        "an agent that counts its answers is given up",
        f"{_AGENT}.patience:AgentPatience.is_over",
        "if agent.answers != self._answers:",
        "if False:",
        "agent/test_patience.py::test_agent_that_counts_its_answers_is_never_given_up",
    ),
    (
        "a caller that polls handles what is for the channel's thread",
        f"{_AGENT}.channel:AgentChannel._pass_on",
        "elif kind not in self._polled_kinds:",
        "elif False:",
        "agent/test_channel.py::TestMessages::test_kinds_that_are_not_polled_reach_the_channels_thread",
    ),
    (
        "a room from a former agent is not brought back",
        "engine.tracked_rooms:TrackedRooms.own",
        'tracked.role = "creator"',
        "pass",
        "agent/test_table_parts.py::test_room_from_a_former_agent_survives_a_loss_of_data",
    ),
    (
        "a failure that a follower has read is forgotten with the data",
        "engine.tracked_rooms:TrackedRooms.fail",
        "self.merge_status(tracked, KVPoll.Failed, now)",
        "pass",
        "agent/test_table_parts.py::test_room_failed_by_hand_is_brought_back_as_failed",
    ),
    (
        "the agent is the owner",
        "aio.lease:hold_for",
        "process=process or lease._keeper.config.process",
        "process=lease._keeper.config.process",
        "agent/test_table_parts.py::test_owner_is_the_process_and_not_its_agent",
    ),
    (
        "a client's end overtakes its changes",
        f"{_AGENT}.client:TableClient._send_last",
        "self._sender.post_last(",
        "self._sender.post(",
        "agent/test_client.py::test_client_leaves_behind_its_changes",
    ),
    (
        "a count of a former agent is forgotten",
        f"{_AGENT}.client:TableClient._handle_words",
        "self._dropped_before + state.dropped",
        "state.dropped",
        "agent/test_client.py::test_dropped_lives_of_a_former_agent_stay_counted",
    ),
    (
        "a connection that ends behind its welcome is tried again at once",
        f"{_AGENT}.channel:AgentChannel._leave",
        "or self._short_ones > 1",
        "",
        "agent/test_channel.py::TestConnection::test_an_agent_that_ends_each_connection_is_asked_rarely",
    ),
    (
        "a checksum of the password is in the agent's name",
        f"{_AGENT}.open_channel:agent_name",
        "_servers(hello.url)",
        "hello.url",
        "agent/test_client.py::TestAgentName::test_no_part_of_it_depends_on_a_password[password]",
    ),
]
