"""Detection of lost data, and the replay of this store's rooms.

A shard was verified on one server, in one epoch. Another epoch means that all its data was lost. Another server with
the same epoch (a promoted replica, a restart with data on disk) has a prefix of the history: the marks tell how much.
In both cases the call that detects it replays the tracked rooms before any other, also a clear, goes to that shard.

Invariant: a connection to the server on which a shard was verified needs no check, however it came about.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from redis_kvpoll.engine.effects import Flow, Send
from redis_kvpoll.engine.recovery import tracking
from redis_kvpoll.engine.recovery.data_loss import DataLossLog
from redis_kvpoll.engine.recovery.lease_holder import LeaseHolder, Renewable
from redis_kvpoll.engine.recovery.marks import Answer, Mark, ShardState, mark_of, questions
from redis_kvpoll.engine.recovery.members import Members
from redis_kvpoll.engine.recovery.tracked_rooms import TrackedRooms
from redis_kvpoll.engine.retry import Attempts
from redis_kvpoll.engine.session import Session, SyncTokens
from redis_kvpoll.protocol.script_call import Call, CallContext, Command
from redis_kvpoll.protocol.script_specs import OPEN, SET_PREFIX, UPDATE, WRITE, WRITTEN

UNDER_LEASE = (UPDATE, WRITE, OPEN, SET_PREFIX)
"""The scripts that a store with a lost lease must not call, even where the shard does not know of the loss."""

_UNKNOWN_ID = b"0-0"
"""With no tokens, as of a call from before the last resync: the observers show the reply, and read the rooms."""


class Recovery(LeaseHolder):
    """The tracked rooms of a store and its lease, and the server and epoch of each shard."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.tracked_rooms = TrackedRooms.of(session.identity, bool(session.identity.rank))
        self.members = Members(self.tracked_rooms)
        """The ranks for which this store speaks besides itself."""
        self.losses = DataLossLog(session.namespace)
        self._session = session
        self.servers: dict[str, bytes] = {}
        """The identity of the server on which each shard was verified."""
        self._shards: dict[str, ShardState] = {}
        self.is_clustered = False
        """Whether shards may be on different servers. The driver sets it."""
        self._asked: set[str] = set()
        """The shards of which a server is being asked."""
        self.unverified: set[str] = set()
        """The shards that are to be verified. A set, since threads that send to other shards change it, too."""
        self._noticed = b""
        """The identity of the server that was noticed last."""

    # The lease

    def attach_lease(self, lease: Renewable, owner: str, incarnation: str) -> None:
        """Put this store under the lease for which it is reserved."""
        self.lease = lease
        self._session.set_owner(owner, incarnation)

    def detach_lease(self, lease: Renewable) -> None:
        """Take this store from under a lease. Does nothing if it is not under this one."""
        if self.lease is lease:
            self._session.set_owner("", "")
        super().detach_lease(lease)

    # A call: whether the shard is current, the server to send it to, and its reply

    def build_calls(self, command: Command[Any, Any], context: CallContext) -> list[Call]:
        """Return a command's calls, or raise LeaseLostError."""
        if self.lease is not None and command.spec in UNDER_LEASE:
            self.lease.check(command.operation)
        return command.calls(context)

    def needs_check(self, tags: Iterable[str]) -> bool:
        """Whether one of these shards must be verified, or has rooms to replay, before a call is sent to it."""
        return not self.is_current and any(map(self._needs_check, tags))

    @property
    def is_current(self) -> bool:
        """Whether no shard must be verified, and none has rooms to replay."""
        if self.unverified or self.tracked_rooms.awaiting_shards:
            return False
        return not self.members or not any(rooms.awaiting_shards for rooms in self.members.all_tracked)

    def epoch_of(self, tag: str) -> str:
        """Return the epoch of a shard; empty if unknown."""
        shard = self._shards.get(tag)
        return (shard.epoch or b"").decode() if shard is not None else ""

    def accept_reply(
        self, call: Call, server: bytes | None, tokens: SyncTokens, reply: list[Any], is_repeated: bool = False
    ) -> list[Any] | None:
        """Process a reply: detect a loss of data, then inform the observers, then update the tracked rooms.

        Removes the head from ``reply`` and returns the fields of the rooms: of the first ones only, if the script has
        stopped early. None if data was lost: once that was replayed, the call must be sent again.
        """
        spec, tag, feed_end = call.spec, call.tag, None
        shard = self._shards.get(tag) or self._shards.setdefault(tag, ShardState())
        if server is not None:
            self.servers[tag] = server
        # The head: the entry that the call appended (or, with a "/", the feed's end), the epoch, the last entry.
        as_of = entry_id = reply.pop(0) if spec.feed else None
        if entry_id is not None and b"/" in entry_id:
            feed_end, entry_id = Mark.parse(entry_id), None
            as_of = feed_end.feed_id if feed_end is not None else None
        if as_of is None and is_repeated:
            as_of, tokens = _UNKNOWN_ID, ()  # an attempt whose reply was lost may have appended the entry
        epoch = reply.pop(0) if spec.epoch else None
        tail = Mark.of_entry(*(reply.pop(0) for _ in range(3))) if spec.tail else None

        if spec.epoch and epoch != shard.epoch and self._must_repeat(shard, epoch, call, reply):
            return None
        call = call.replied(reply) if spec.may_stop else call
        if as_of is not None and self._session.observers and spec.statuses_after:
            for observer, token in self._session.observers_now(tokens):
                observer.observe_write(token, call, as_of, reply)
        if (self.tracked_rooms or spec.epoch or self.lease is not None) and not self._session.read_only:
            if tail is not None:
                shard.marks.tails.append(tail)
                for rooms in self.members.all_tracked:
                    rooms.mark_all(tag, tail)
            self._track(shard, call, feed_end if entry_id is None else mark_of(call, entry_id, reply), reply)
        return reply

    def _must_repeat(self, shard: ShardState, epoch: bytes | None, call: Call, reply: list[Any]) -> bool:
        """Adopt a shard's first epoch; of another one, note the loss, and return whether to send the call again."""
        if shard.epoch is None:
            shard.epoch = epoch
        if shard.epoch == epoch or self._session.read_only:
            return False
        shard.answer = None  # it may be from before the loss
        self.unverified.add(call.tag)
        # A renewal that found the lease lost is final: the script may say so once only.
        return call.spec.repeatable and not (call.spec.tail and reply[0] == b"lost")

    def _track(self, shard: ShardState, call: Call, mark: Mark | None, reply: list[Any]) -> None:
        """Learn what a reply says of the tracked rooms. ``mark`` is its entry in the feed, or the feed's end."""
        if mark is not None:
            shard.marks.last_write = mark
        if self.members:
            self.members.observe(call, reply, mark, time.monotonic())
        else:
            tracking.observe(self.tracked_rooms, call, reply, mark, time.monotonic())

    def server_changed(self, tag: str, server: bytes) -> None:
        """Note that a shard is on another server now, maybe a lagging replica: it must be verified."""
        if self._holds(tag):
            shard = self._shards[tag]
            if shard.answer is not None and shard.answer.server != server:
                shard.answer = None
            self.unverified.add(tag)
        else:
            self.servers[tag] = server
        if server != self._noticed:  # once for all shards of a server
            self._noticed = server
            self._session.server_changed()

    def _needs_check(self, tag: str) -> bool:
        return tag in self.unverified or self.members.await_creator(tag, time.monotonic())

    def _holds(self, tag: str) -> bool:
        return self.lease is not None or bool(self.members.leases) or self.members.any_tracks(tag)

    # Verification

    def make_current(self, tag: str, attempts: Attempts, call: Call | None = None) -> Flow[None]:
        """Do what must precede a call to a shard: verify the settings, and the shard if needed.

        What ``call`` clears, which is sent after this, is not created for that moment.

        A deadline or an interrupt may stop this at any effect; the next call continues it.

        Raises:
            ServerChanged: another server has taken over meanwhile; to be repeated.
        """
        session, has_asked = self._session, False
        while True:
            if not session.is_verified:
                changes = session.server_changes
                session.adopt_settings((yield from attempts.ask_settings()), changes)
            if not self._needs_check(tag):
                return
            shard = self._shards[tag]
            if tag in self.unverified and not has_asked:
                yield from self._verify(tag, shard, attempts)
            has_asked = not session.is_verified  # a loss was found, and the settings come before the replay
            if not has_asked and (yield from self._replay(tag, shard, attempts, call)):
                shard.answer = None  # when it is verified again, it is for something later
                self.unverified.discard(tag)
                if not self.unverified:
                    self.losses.ended()

    def _verify(self, tag: str, shard: ShardState, attempts: Attempts) -> Flow[None]:
        """Find out what a shard may have lost, in one round trip for all shards of its server."""
        answer, shard.answer = shard.answer, None
        if answer is None or list(answer.marks) != shard.marks.all():
            answer = yield from self._ask(tag, shard, attempts)
        before, now, has_feed = self.servers.get(tag), time.monotonic(), self._context.feed_length != "0"
        epoch, server, kept = answer.epoch, answer.server, answer.kept
        if shard.epoch not in (None, epoch):
            self._session.server_changed()  # the settings were lost, too, and nothing is replayed under other ones
            self._lost("epoch", self.members.data_lost(tag, now))
            shard.marks.keep_until(None)
        elif server != before and has_feed:
            rooms = self.members.server_changed(tag, kept, now)
            if answer.marks and kept != answer.marks[-1]:
                self._lost("server", rooms)
            shard.marks.keep_until(kept)
        elif server != before:
            self._lost("server", self.members.data_lost(tag, now, with_ended=True))
        if shard.epoch not in (None, epoch) or server != before:
            shard.renew_leases_at = 0.0
        shard.epoch = epoch  # None until the first write creates one
        if server is not None:
            self.servers[tag] = server
        self._drop_answers()

    def _ask(self, tag: str, shard: ShardState, attempts: Attempts) -> Flow[Answer]:
        """Ask a shard's server for it, and for the other shards there, which keep their answers."""
        asked = {tag: shard.marks.all()}
        if not self.is_clustered:
            others = list(self._shards.items())
            asked |= {one: it.marks.all() for one, it in others if one not in self._asked and self._holds(one)}
        words = {one: questions(one, marks) for one, marks in asked.items()}
        self._asked.update(asked)
        try:
            first, *then = [question for of_shard in words.values() for question in of_shard]
            send = Send(tag, first, then=then)
            replies = iter((yield from attempts.send(send)))
        finally:
            self._asked.difference_update(asked)
        answers = {
            one: Answer.parse(marks, send.server, [next(replies) for _ in words[one]]) for one, marks in asked.items()
        }
        answer = answers.pop(tag)
        for one, other in answers.items():
            self._shards[one].answer = other
        return answer

    def _drop_answers(self) -> None:
        """Drop the answers about shards that need no verification."""
        for tag, shard in list(self._shards.items()):
            if (answer := shard.answer) and tag not in self.unverified and answer.server == self.servers.get(tag):
                shard.answer = None

    def _lost(self, what: str, rooms: int) -> None:
        """Note that a shard has lost data: most likely the others have, too, and it is one loss."""
        self.losses.noticed(what, rooms)
        self.unverified.update(filter(self._holds, list(self._shards)))

    def _replay(self, tag: str, shard: ShardState, attempts: Attempts, before: Call | None) -> Flow[bool]:
        """Renew the leases and replay the rooms that are due. Returns False if data or a lease was lost during it."""
        if not (yield from self._renew_leases(tag, shard, attempts)):
            return False
        for replay in self.members.replays(tag, self._context, before):
            call = replay
            while call.rooms:
                tokens = self._session.sync_tokens()
                reply = yield from attempts.send_script(call, self.servers.get(tag))
                if (outcomes := self.accept_reply(call, None, tokens, reply)) is None:
                    return False
                self.losses.restored(sum(code in WRITTEN for code, *_ in call.spec.rows(outcomes)))
                _, call = call.split(outcomes)
                if not (yield from self._renew_leases(tag, shard, attempts)):
                    return False
        return True

    def _renew_leases(self, tag: str, shard: ShardState, attempts: Attempts) -> Flow[bool]:
        """Renew the leases if due: heartbeats wait while rooms are replayed. Returns False if data or one was lost."""
        if time.monotonic() < shard.renew_leases_at:
            return True
        leases = [lease for lease in (self.lease, *self.members.leases) if lease is not None and not lease.lost]
        is_first = shard.renew_leases_at == 0.0  # since a loss: then it is not there at all
        for lease in leases:
            if not is_first and lease.stands_still():
                continue
            reply = yield from attempts.send_script(call := lease.renewal(tag, ""), self.servers.get(tag))
            if (report := self.accept_reply(call, None, (), reply)) is None:
                return False
            lease.observe_renewal(report)
        if leases:
            shard.renew_leases_at = time.monotonic() + min(lease.retry_interval for lease in leases)
        return not any(lease.lost for lease in leases)

    @property
    def _context(self) -> CallContext:
        assert self._session.context is not None  # noqa: S101 - set by the first call, before any room is tracked
        return self._session.context
