"""Mutations of kvpoll doctor, as those of the client."""

IN_THE_DOCTOR = [
    (
        "a room that stands still for long is a warning only",
        "doctor.sample_checks:stuck",
        "problem if oldest.since > STUCK_LONG else warning",
        "warning",
        "doctor/test_tables.py::TestRooms::test_room_that_stands_still_is_stuck[400-3]",
    ),
    (
        "an owned room counts as an orphan",
        "doctor.sample_checks:orphans",
        "not room.has_owner and ",
        "",
        "doctor/test_tables.py::TestRooms::test_old_room_with_an_owner_is_well",
    ),
    (
        "a prefix that comes before its room is a leak",
        "doctor.sample_checks:leaks",
        "and DEFAULT_TTL - prefix.ttl > ORPHANED",
        "",
        "doctor/test_tables.py::TestKeys::test_old_prefix_without_a_room_is_a_warning",
    ),
    (
        "a lease counts as unnoticed before a sweep could notice it",
        "doctor.owner_checks:_unnoticed",
        "UNNOTICED_HEARTBEATS * owner.heartbeat",
        "0",
        "doctor/test_tables.py::TestLeases::test_lease_that_has_just_expired_is_no_finding",
    ),
    (
        "an instance that has died counts as there",
        "doctor.owner_checks:instances",
        'is_of(owner, role) and owner.state == "alive"',
        "is_of(owner, role)",
        "doctor/test_tables.py::TestInstances::test_missing_instance_is_a_problem",
    ),
    (
        "the two tables of a deployment count as misuse",
        "doctor.table_checks:namespaces",
        "set(own) <=",
        "set(own[1:]) <=",
        "doctor/test_tables.py::TestNamespaces::test_pair_of_a_deployment_is_well",
    ),
    (
        "a reader counts as a user who lacks rights",
        "doctor.table_checks:acl",
        "found.writes and len(found.writes) < found.asked_writes",
        "found.writes",
        "doctor/test_tables.py::TestUser::test_reader_of_one_namespace_is_enough[valkey]",
    ),
    (
        "a clock that goes back is not noticed",
        "doctor.node_checks:clock",
        "back > CLOCK_STEP",
        "back < 0",
        "doctor/test_servers.py::TestClock::test_clock_that_goes_back_is_a_problem",
    ),
    (
        "the errors of the look itself are a finding",
        "doctor.node_checks:errors",
        "count > USUAL_ERRORS.get(code, 0)",
        "count >= 0",
        "doctor/test_servers.py::TestCalls::test_own_calls_are_no_finding",
    ),
    (
        "keys of other nodes are not counted",
        "doctor.sampling:scan",
        "0 if slots is None else",
        "0 if slots else",
        "doctor/test_clusters.py::test_keys_on_two_nodes_are_a_warning",
    ),
]
