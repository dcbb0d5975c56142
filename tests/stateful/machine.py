"""The rules: every public method of stores and handles, heartbeats, losses and faults, in any order."""

from __future__ import annotations

import functools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from redis_kvpoll import KVPoll
from tests.stateful import flavours
from tests.stateful.bench import HEARTBEAT, LEASE_TTL, ROOMS, Bench

PROCESS = st.integers(0, 2)
ROOM = st.sampled_from((ROOMS[0], *ROOMS))
SOME = st.lists(ROOM, max_size=4)
STATUS = st.sampled_from(KVPoll)
REASON = st.sampled_from(("cause", "symptom", "naïve ☃\n"))
REQUEST = st.sampled_from(("rid", "rid", "other"))
NAME = st.sampled_from(("prefill-0", "prefill-0", "decode-0"))
NEWEST = st.sampled_from((0, 0, 0, 1, 2, 5))
"""Which handle: most often the newest."""


def step(**draws):
    """A rule after which nothing may differ. (An invariant would fill half of what is printed of an example.)"""

    def wrap(body):
        @functools.wraps(body)
        def checked(self, **drawn):
            body(self, **drawn)
            self.bench.check()

        return rule(**draws)(checked)

    return wrap


class Machine(RuleBasedStateMachine):
    """Three processes: all without a rank, or two ranks and an operator."""

    def __init__(self, servers, flavour):
        super().__init__()
        self.servers, self.flavour = servers, flavour
        self.bench = None

    @initialize(
        policy=st.sampled_from(("compat", "strict")),
        mode=st.sampled_from(("none", "prefill")),
        shards=st.sampled_from((1, 2)),
        world_size=st.sampled_from((None, 2)),
    )
    def begin(self, policy, mode, shards, world_size):
        self.bench = Bench(self.servers, self.flavour, policy, mode, shards, world_size)
        self.handles = []
        self.passed = 0

    def teardown(self):
        if self.bench:
            self.bench.close()

    # Plain calls

    @step(by=PROCESS, room=ROOM, status=STATUS)
    def update_status(self, by, room, status):
        self.bench.do(by, "update_status", room, status)

    @step(by=PROCESS, statuses=st.dictionaries(ROOM, STATUS, max_size=3))
    def update_many(self, by, statuses):
        self.bench.do(by, "update_many", statuses)

    @step(by=PROCESS, room=ROOM, reason=REASON)
    def abort(self, by, room, reason):
        self.bench.do(by, "abort", room, reason)

    @step(by=PROCESS, room=ROOM, reason=REASON)
    def record_failure(self, by, room, reason):
        self.bench.do(by, "record_failure", room, reason)

    @step(by=PROCESS, room=ROOM, length=st.sampled_from((0, 1, 2**53 - 1)))
    def set_decode_prefix_len(self, by, room, length):
        self.bench.do(by, "set_decode_prefix_len", room, length)

    @step(by=PROCESS, how=st.sampled_from(("clear", "failure_exception", "pop_decode_prefix_len")), room=ROOM)
    def destroy(self, by, how, room):
        self.bench.do(by, how, room)

    @step(by=PROCESS, how=st.sampled_from(("clear_many", "touch")), rooms=SOME)
    def many(self, by, how, rooms):
        self.bench.do(by, how, rooms)

    @step(by=PROCESS, how=st.sampled_from(("get", "check_status", "failure_reason", "entry", "collect")), room=ROOM)
    def read(self, by, how, room):
        self.bench.do(by, how, room)

    @step(by=PROCESS, rooms=SOME, status=st.none() | STATUS)
    def read_all(self, by, rooms, status):
        for how, *args in (("poll", rooms), ("consensus", rooms), ("rooms", status), ("counts",), ("owners",)):
            self.bench.do(by, how, *args)

    @step(by=PROCESS, room=ROOM)
    def read_feed(self, by, room):
        flavours.history(self.bench, by, room)
        flavours.tail(self.bench, by)
        flavours.settings(self.bench, by)

    @step(by=PROCESS, room=ROOM)
    def wait(self, by, room):
        flavours.wait(self.bench, by, room)

    @step(by=PROCESS, room=ROOM, status=STATUS)
    def mirror(self, by, room, status):
        flavours.mirror(self.bench, by, room, status)

    # Generations

    def keep(self, handle):
        if handle:
            self.handles.insert(0, handle)
            del self.handles[8:]

    def handle(self, at):
        """One of the handles; if there is none yet, a process opens a room."""
        if not self.handles:
            self.keep(self.bench.tracked(at % 3, "open", ROOMS[0], "rid", KVPoll.Bootstrapping))
        return self.handles[min(at, len(self.handles) - 1)] if self.handles else None

    @step(
        by=PROCESS, room=ROOM, request=REQUEST, status=st.sampled_from((KVPoll.Bootstrapping, KVPoll.WaitingForInput))
    )
    def open(self, by, room, request, status):
        self.keep(self.bench.tracked(by, "open", room, request, status))

    @step(by=PROCESS, room=ROOM)
    def attach(self, by, room):
        self.keep(self.bench.tracked(by, "attach", room))

    @step(at=NEWEST, by=PROCESS)
    def hand_over(self, at, by):
        if handle := self.handle(at):
            self.keep(self.bench.hand_over(handle, by))

    @step(at=NEWEST, status=STATUS)
    def room_update(self, at, status):
        self.use(at, "update", status)

    @step(at=NEWEST, statuses=st.lists(STATUS, min_size=2, max_size=3))
    def room_goes_on(self, at, statuses):
        for status in statuses:
            self.use(at, "update", status)

    @step(at=NEWEST, reason=REASON)
    def room_fail(self, at, reason):
        self.use(at, "fail", reason)

    @step(at=NEWEST, by_with=st.booleans())
    def room_clear(self, at, by_with):
        if not by_with:
            self.use(at, "clear")
        elif handle := self.handle(at):
            flavours.leave(self.bench, handle)

    @step(at=NEWEST, length=st.sampled_from((0, 7)))
    def room_length(self, at, length):
        self.use(at, "set_decode_prefix_len", length)
        self.use(at, "decode_prefix_len")

    @step(at=NEWEST)
    def room_read(self, at):
        self.use(at, "status")
        self.use(at, "decode_prefix_len")

    @step(room=ROOM, order=st.permutations(range(3)), status=STATUS)
    def open_together(self, room, order, status):
        """As the ranks of one request do, or two processes that want the same room."""
        for by in order:
            self.keep(self.bench.tracked(by, "open", room, "rid", KVPoll.Bootstrapping))
            self.use(0, "update", status)

    def use(self, at, name, *args):
        if handle := self.handle(at):
            self.bench.use(handle, name, *args)

    # Leases

    @step(by=PROCESS, name=NAME)
    def take_lease(self, by, name):
        if self.bench.processes[by].lease is None:
            self.bench.lease(by, "take", name, LEASE_TTL, HEARTBEAT)

    @precondition(lambda self: any(process.lease for process in self.bench.processes))
    @step(at=st.integers(0, 2), last=st.sampled_from((False, False, True)))
    def send_heartbeat(self, at, last):
        holders = [process.number for process in self.bench.processes if process.lease]
        by = holders[at % len(holders)]
        self.bench.lease(by, "send_heartbeat")
        if last:
            self.bench.lease(by, "release")

    @precondition(lambda self: self.passed < 60 and self.bench.world.leases)
    @step(room=ROOM, at=st.integers(0, 2), by=PROCESS)
    def die(self, room, at, by):
        """A holder's heartbeats end, and another process sweeps twice."""
        holders = [process.number for process in self.bench.processes if process.lease]
        self.keep(
            self.bench.tracked(holders[at % len(holders)], "open", room, "rid", KVPoll.Bootstrapping)
            if holders
            else None
        )
        for steps in (3, 2):
            self.passed += steps
            self.bench.pass_time(steps)
            self.bench.do(by, "reap")

    @step(by=PROCESS)
    def reap(self, by):
        self.bench.do(by, "reap")

    @step(by=PROCESS, room=ROOM)
    def lease_for_a_moment(self, by, room):
        if self.bench.processes[by].lease is None:
            flavours.lease(self.bench, by, room)

    # Time, and faults

    @precondition(lambda self: self.passed < 60)
    @step(steps=st.integers(1, 5))
    def pass_time(self, steps):
        self.passed += steps
        self.bench.pass_time(steps)

    @step(order=st.permutations(range(3)))
    def lose_all_data(self, order):
        self.bench.lose_all(order)

    @step(how=st.sampled_from(("break_connections", "forget_scripts")))
    def fault(self, how):
        for side in self.bench.sides:
            getattr(side, how)()
