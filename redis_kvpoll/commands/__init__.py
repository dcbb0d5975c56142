"""Every operation as a command: what to send and what the reply means, without a client and without I/O."""

from redis_kvpoll.commands.feed import Change, FeedGap, History, Reading, Tail
from redis_kvpoll.commands.rooms import (
    abort,
    check_status,
    clear,
    clear_many,
    entry,
    failure_exception,
    failure_reason,
    get,
    poll,
    pop_decode_prefix_len,
    record_failure,
    set_decode_prefix_len,
    touch,
    update_many,
    update_status,
    wait,
)
from redis_kvpoll.commands.scan import Scan
from redis_kvpoll.commands.settings import Agreement, Settings
from redis_kvpoll.commands.shape import Call, Command, Layout

__all__ = [
    "Agreement",
    "Call",
    "Change",
    "Command",
    "FeedGap",
    "History",
    "Layout",
    "Reading",
    "Scan",
    "Settings",
    "Tail",
    "abort",
    "check_status",
    "clear",
    "clear_many",
    "entry",
    "failure_exception",
    "failure_reason",
    "get",
    "poll",
    "pop_decode_prefix_len",
    "record_failure",
    "set_decode_prefix_len",
    "touch",
    "update_many",
    "update_status",
    "wait",
]
