"""Whether and when a failure in the table may end a request on decode, into whose pages prefill may still write.

A request that polls Failed gives its pages away. Decode *defers* that from SGLang 0.5.21 on, unless it is switched off:
SGLang asks every prefill process of the request to stop, and holds the pages until all have acknowledged it, or until a
time limit. Where decode does not defer, the pages are free in the same iteration of its scheduler.

Invariant: what comes from the table frees no page earlier than SGLang alone would have, unless every prefill process
has acknowledged the end of its writes. An operator's abort on decode counts as a client's.

To add a cause of failures: a Cause, and its rules in ``decide_deferring`` and ``decide_at_poll``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from enum import Enum
from typing import Any
from weakref import WeakValueDictionary

from redis_kvpoll.agent.merge import FAILED
from redis_kvpoll.integrations.sglang.compat import takes_aborts

logger = logging.getLogger("redis_kvpoll")


class Cause(Enum):
    """Why a room is Failed in the table."""

    FAILURE = "failure"
    """Prefill's or another rank's failure, or a lost lease. It does not show whether prefill still writes: a lost
    process may be stopped, and its transfers go on."""
    BY_HAND = "by hand"
    """An operator has aborted the room in decode's table."""


class Action(Enum):
    """What to do about it."""

    NOTHING = "nothing"
    """SGLang ends the request by itself."""
    FAIL = "fail"
    FAIL_AND_HOLD = "fail and hold"
    """Fail it, and let its pages be held until SGLang alone would have given them away."""
    ABORT = "abort"
    """Do what SGLang does when a client aborts."""


def decide_deferring(cause: Cause) -> Action:
    """Return what to do where decode defers: SGLang holds only pages that prefill was asked for."""
    return Action.FAIL if cause is Cause.BY_HAND else Action.FAIL_AND_HOLD


def decide_at_poll(cause: Cause, *, has_asked: bool) -> Action:
    """Return what to do where decode does not defer, when the scheduler polls a request.

    ``has_asked``: whether the request has asked prefill for its pages.
    """
    if not has_asked:
        return Action.FAIL
    return Action.ABORT if cause is Cause.BY_HAND else Action.NOTHING


def defers(receiver: Any) -> bool:
    """Return whether a Failed of a receiver starts SGLang's own abort, acknowledgement and hold, whoever wrote it.

    0.5.19 and 0.5.20 hold only what ``receiver.abort`` has ended, so they count as not deferring.
    """
    return _may_hold(receiver) and _can_notify(receiver)


def _may_hold(receiver: Any) -> bool:
    return getattr(receiver.kv_mgr, "enable_deferred_decode_kv_release", False) is True


def has_asked(receiver: Any) -> bool:
    """Return whether a request may have asked prefill for its pages: it counts as having done so if nothing tells."""
    return getattr(receiver, "init_time", 0.0) is not None


def knows_abort(receiver: Any) -> bool:
    """Return whether prefill knows SGLang's message of an abort, if it is of the receiver's release and backend."""
    return _can_notify(receiver) or takes_aborts(type(receiver.kv_mgr).__mro__)


def _can_notify(receiver: Any) -> bool:
    return callable(getattr(receiver, "ensure_abort_notified", None))


class DecodeFailures:
    """Ends requests of one decode manager for failures in the table.

    ``registry`` is its RoomRegistry. ``can_hold``: whether SGLang's queue of held pages is hooked. ``holds_long`` is
    False if who runs SGLang has switched the longer hold off. ``has_ranks``: whether this process is one of several.
    """

    def __init__(self, registry: Any, *, can_hold: bool, holds_long: bool = True, has_ranks: bool = False) -> None:
        self.can_hold = can_hold
        self.lost_nodes: dict[str, float] = {}
        """By prefill's bootstrap address: when SGLang's own heartbeat has found it lost, in monotonic seconds."""
        self._registry = registry
        self._holds_long = holds_long
        self._has_ranks = has_ranks
        self._receivers: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def add(self, receiver: Any) -> None:
        """Take note of the receiver that has opened a room."""
        self._receivers[receiver.bootstrap_room] = receiver

    def on_failure(self, room: int, number: int, reason: str, publish: bool) -> None:
        """End a life because of a failure in either table, as far as its pages allow."""
        self._end(Cause.FAILURE, room, number, reason, publish)

    def on_abort(self, room: int, number: int, reason: str) -> None:
        """End a life that an operator has aborted in decode's table."""
        self._end(Cause.BY_HAND, room, number, reason, False)

    def mark_prolonged(self, receiver: Any) -> bool:
        """Return whether to hold the pages of a request, which has just failed, for longer than SGLang does.

        If another rank's failure is the reason, the receiver is marked now.

        SGLang's ranks fail a request together. What another rank has failed may have come from the table there. From
        0.5.23 on they also give its pages away together, but a rank whose prefill has acknowledged waits only for
        the others' limits: so each rank whose prefill is silent needs the later one itself.
        """
        is_from_another = self._has_ranks and self._registry.last_status(receiver.bootstrap_room) != FAILED
        if is_from_another and self._holds_long:
            receiver.kvpoll_failed_at = time.monotonic()
        return getattr(receiver, "kvpoll_failed_at", None) is not None

    def _end(self, cause: Cause, room: int, number: int, reason: str, publish: bool) -> None:
        receiver = self._receivers.get(room)
        life = None if receiver is None else receiver.kvpoll_life
        if life is None or life.number != number:
            return
        needs_no_long_hold = cause is Cause.BY_HAND or not self._holds_long
        if defers(receiver) and (self.can_hold or needs_no_long_hold):
            self._do(decide_deferring(cause), receiver, reason, publish)
        else:
            self._end_at_poll(cause, receiver, reason, publish)

    def _end_at_poll(self, cause: Cause, receiver: Any, reason: str, publish: bool) -> None:
        """Decide when SGLang's scheduler polls the receiver next: until then it may ask prefill for the pages."""

        waiting = vars(receiver).setdefault("kvpoll_waiting", deque())
        waiting.append((cause, reason, publish))  # first: a poll for an earlier failure may be under way

        def poll() -> Any:
            vars(receiver).pop("poll", None)
            while waiting:
                cause, reason, publish = waiting.popleft()
                self._do(decide_at_poll(cause, has_asked=has_asked(receiver)), receiver, reason, publish)
            return receiver.poll()

        receiver.poll = poll

    def _do(self, action: Action, receiver: Any, reason: str, publish: bool) -> None:
        room, number = receiver.bootstrap_room, receiver.kvpoll_life.number
        if not self._registry.is_undecided(room, number):
            return
        if action is Action.NOTHING:
            logger.debug("redis_kvpoll: room %d goes on, as prefill may still write to its pages: %s", room, reason)
        elif action is Action.ABORT:
            self._registry.record_reason(room, reason)
            receiver.abort()
        else:
            if action is Action.FAIL_AND_HOLD and self._holds_long:
                receiver.kvpoll_failed_at = time.monotonic()  # first: the scheduler may poll Failed at once
            self._registry.fail_from_table(room, number, reason, publish)


def tell_to_stop(receiver: Any, registry: Any) -> None:
    """Tell prefill to stop writing into the pages of a request that another rank has failed: they are given away.

    SGLang's ranks fail a request together. Where decode defers, SGLang itself tells prefill then; elsewhere only a rank
    that was aborted does. 0.5.19 and 0.5.20 can hold the pages of a rank that tells it, and then only of that one.
    """
    is_own_end = not registry.is_undecided(receiver.bootstrap_room, receiver.kvpoll_life.number)
    if is_own_end or not has_asked(receiver) or _may_hold(receiver) or not knows_abort(receiver):
        return
    if _can_notify(receiver):
        receiver.ensure_abort_notified()
    elif not receiver.abort_notified and receiver.bootstrap_infos is not None:
        receiver._send_abort_notification()  # abort() would fail the room here, with a reason that is not why it failed
        receiver.abort_notified = True


def leave_to_sglang(room: int, _: int, reason: str, __: bool) -> None:
    """Leave a request of a pipeline to SGLang, whatever the table says.

    The stages of decode agree only that a request is over, and each then does what its own status says. A failure that
    one stage hears of before its transfer is complete, and another one after, would make their batches differ.
    """
    logger.debug("redis_kvpoll: room %d goes on, as one of several stages of decode: %s", room, reason)


def leave_abort_to_sglang(room: int, _: int, reason: str) -> None:
    """Leave a request of a pipeline that an operator has aborted to SGLang."""
    logger.warning(
        "redis_kvpoll: room %d goes on: with several stages, decode's requests end by SGLang's /abort_request only: %s",
        room,
        reason,
    )


def release_time(asked_at: float | None, waiting_timeout: float, hold: float) -> float:
    """Return when SGLang alone would have given the pages of a silent prefill away, in monotonic seconds.

    That is after its waiting timeout, which counts from ``asked_at`` (in seconds of ``time.time``), and its hold: at
    least a hold from now on.
    """
    waits = 0.0 if asked_at is None else asked_at - time.time()
    return time.monotonic() + max(0.0, waits + waiting_timeout) + hold
