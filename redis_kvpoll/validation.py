"""Argument checks. Each function returns the clean value or raises InvalidInputError.

All arguments are checked before anything is sent. A message names the argument and shows the value, without terminal
escapes. To add an argument: add its check here, and its row to tests/table/test_inputs.py.
"""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast, get_args

from redis_kvpoll.errors import InvalidInputError, printable
from redis_kvpoll.model import KVPoll

Policy = Literal["compat", "strict"]
Mode = Literal["none", "prefill", "decode"]

MAX_ROOM = 2**64 - 1
"""SGLang keeps rooms in a buffer of uint64. Redis and Lua keep them as text."""
MAX_SHARDS = 1024
MAX_SECONDS = 1e9
"""About 31 years: far beyond use, and far below the milliseconds that overflow in PEXPIRE."""
MAX_REASON = 1000
"""Characters. A reason is read by people; a stack trace belongs in a log."""
MAX_REQUEST = 1000
"""Characters of a request id. vLLM's names two hosts with their domains."""
MAX_OWNER = 300
"""Characters of an owner's name: a host has up to 253, beside a role and a port."""
MAX_WORLD_SIZE = 1024
"""Ranks of a room. Each takes one or two fields of its hash."""
MAX_PREFIX_LEN = 2**53 - 1
MAX_GENERATION = 2**53 - 1
"""Lua's numbers hold no higher one exactly. Microseconds since 1970 reach it in the year 2255."""
MAX_FEED_LENGTH = 10_000_000
"""Entries per shard: about 4 GB if all of them come from batches."""

_OWNER = re.compile(r"[][A-Za-z0-9._:@/%-]{1,300}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_STATUSES = {int(status): status for status in KVPoll}
_NAMES = {status: status.name for status in KVPoll}
"""A dict lookup takes a tenth of the time of ``KVPoll.name``."""
_plain = str.__str__
"""The text itself: a subclass, such as an Enum that is a str too, may format otherwise than it compares. So this is
what is checked and sent."""


@contextlib.contextmanager
def of(operation: str) -> Iterator[None]:
    """Name the operation in the error of an invalid argument; one that cannot be iterated over is invalid, too."""
    try:
        yield
    except (InvalidInputError, TypeError) as error:
        raise InvalidInputError(f"{operation}: {error}") from None


def room(value: Any) -> int:
    """A bootstrap_room: an int in 0 … 2^64-1, or an object with ``__index__`` (a numpy int); no bool, no str."""
    if value.__class__ is int and 0 <= value <= MAX_ROOM:
        return value  # the usual case
    number = _integer(value, "a room")
    if not 0 <= number <= MAX_ROOM:
        raise InvalidInputError(f"a room is an int from 0 to 2^64-1, not {_shown(number)}")
    return number


def room_in_text(text: str) -> int | None:
    """The room in what a person has typed: decimal, or hexadecimal with 0x as in spans and logs; None if it is none."""
    if text.isdecimal() or _HEXADECIMAL.fullmatch(text):
        with contextlib.suppress(InvalidInputError, ValueError):  # int refuses thousands of digits
            return room(int(text, 10 if text.isdecimal() else 16))
    return None


def listed(rooms: Iterable[Any]) -> Iterable[Any]:
    """Many rooms, not yet checked. TypeError for a text: its characters or bytes would be taken for ids."""
    if isinstance(rooms, str | bytes | bytearray):
        raise TypeError(f"not {type(rooms).__name__}")
    return rooms


def rooms(values: Iterable[Any]) -> list[int]:
    """Many rooms."""
    numbers = list(values)
    # A batch of plain ints is checked as a whole; any other, room by room.
    if set(map(type, numbers)) == {int} and min(numbers) >= 0 and max(numbers) <= MAX_ROOM:
        return numbers
    return [room(number) for number in numbers]


def status(value: Any) -> KVPoll:
    """A KVPoll, or its int."""
    if value.__class__ is KVPoll:
        return value
    found = _STATUSES.get(_integer(value, "a status"))
    if found is None:
        names = ", ".join(f"{s.name} {int(s)}" for s in KVPoll)
        raise InvalidInputError(f"a status is one of {names}, not {_shown(value)}")
    return found


def status_name(value: Any) -> str:
    """The name of a status, as Redis stores it."""
    return _NAMES[value if value.__class__ is KVPoll else status(value)]


def status_names(values: Iterable[Any]) -> list[str]:
    """The names of many statuses."""
    return [_NAMES[value if value.__class__ is KVPoll else status(value)] for value in values]


def reason(value: Any) -> str:
    """A failure reason: text, cut to MAX_REASON characters."""
    if not isinstance(value, str):
        raise InvalidInputError(f"a reason is a str, not {_shown(value)}")
    plain = _plain(value)
    if not plain.strip():
        raise InvalidInputError("a reason must not be empty: give the cause of the failure")
    # A lone surrogate (from os.fsdecode, for example) has no UTF-8 form and becomes a question mark.
    text = plain.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


def request(value: Any) -> str:
    """The id of a request: short printable text, because it is shown in terminals."""
    text = _plain(value) if isinstance(value, str) else ""
    if not 1 <= len(text) <= MAX_REQUEST or not text.isprintable():
        raise InvalidInputError(f"a request is a str of 1 to {MAX_REQUEST:,} printable characters, not {_shown(value)}")
    return text


def generation(value: Any) -> int:
    """A generation of a room, of a handle that may come from anywhere. Scripts take an empty one for any generation."""
    if type(value) is not int or not 1 <= value <= MAX_GENERATION:
        raise InvalidInputError(f"a generation is an int from 1 to 2^53-1, not {_shown(value)}")
    return value


def owner(value: Any) -> str:
    """The name of a lease."""
    if not isinstance(value, str) or not _OWNER.fullmatch(value):
        raise InvalidInputError(f"an owner is 1 to {MAX_OWNER} of A-Z a-z 0-9 . _ : @ / % [ ] -, not {_shown(value)}")
    return _plain(value)


def opening_status(value: Any) -> str:
    """The name of a status with which a room may be opened."""
    found = status(value)
    if found not in (KVPoll.Bootstrapping, KVPoll.WaitingForInput):
        raise InvalidInputError(f"a room is opened at Bootstrapping or WaitingForInput, not {found.name}")
    return _NAMES[found]


def ranks(rank: Any, world_size: Any) -> tuple[str, str]:
    """(rank, world_size) as decimal strings; both empty if both are None."""
    if rank is None and world_size is None:
        return "", ""
    if rank is None or world_size is None:
        raise InvalidInputError("rank and world_size belong together: give both or none")
    number, size = _integer(rank, "rank"), _integer(world_size, "world_size")
    if not 1 <= size <= MAX_WORLD_SIZE:
        raise InvalidInputError(f"world_size is an int from 1 to {MAX_WORLD_SIZE}, not {_shown(size)}")
    if not 0 <= number < size:
        raise InvalidInputError(f"rank is an int from 0 to {size - 1} (world_size {size}), not {_shown(number)}")
    return str(number), str(size)


def seconds(value: Any, name: str) -> float:
    """A duration in seconds: finite, and at least 1 ms, the resolution of Redis."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"{name} is a number of seconds, not {_shown(value)}")
    if not 0.001 <= value <= MAX_SECONDS:  # also false for NaN
        raise InvalidInputError(f"{name} must be from 0.001 to {MAX_SECONDS:,.0f} seconds, not {_shown(value)}")
    return float(value)


def seconds_or_zero(value: Any, name: str) -> float:
    """A duration in seconds, or 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return 0.0 if is_number and value == 0 else seconds(value, name)


def timeout(value: Any) -> float | None:
    """The longest wait in seconds; 0 reads once, None waits without a limit."""
    return None if value is None else seconds_or_zero(value, "timeout, if not 0 or None,")


def wait_statuses(values: Iterable[Any]) -> frozenset[KVPoll]:
    """The statuses that end a wait for ``values`` (Success and Failed if empty): these and all later ones.

    A terminal status ends every wait: a Failed room reaches no other status, and Success is the last one.
    """
    first = min((s for s in map(status, values) if s is not KVPoll.Failed), default=KVPoll.Success)
    return frozenset(s for s in KVPoll if s >= first or s.is_terminal)


def prefix_len(value: Any) -> int:
    """A decode prefix length in tokens."""
    number = _integer(value, "a decode prefix length")
    if not 0 <= number <= MAX_PREFIX_LEN:
        raise InvalidInputError(f"a decode prefix length is an int from 0 to 2^53-1, not {_shown(number)}")
    return number


def namespace(value: Any) -> str:
    """A namespace. It is part of every key, so it is limited to characters that need no quoting."""
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        raise InvalidInputError(f"a namespace is 1 to 64 of A-Z a-z 0-9 . _ -, not {_shown(value)}")
    return _plain(value)


def policy(value: Any) -> Policy | None:
    return cast("Policy | None", _choice(value, "policy", get_args(Policy)))


def mode(value: Any) -> Mode | None:
    return cast("Mode | None", _choice(value, "mode", get_args(Mode)))


def shards(value: Any) -> int | None:
    """The number of hash tags of a namespace, or None."""
    if value is None:
        return None
    number = _integer(value, "shards")
    if not 1 <= number <= MAX_SHARDS:
        raise InvalidInputError(f"shards is an int from 1 to {MAX_SHARDS}, not {_shown(number)}")
    return number


def feed_length(value: Any) -> int | None:
    """The number of entries that a shard's feed keeps; 0 for no feed, or None."""
    if value is None:
        return None
    number = _integer(value, "feed_length")
    if not 0 <= number <= MAX_FEED_LENGTH:
        raise InvalidInputError(f"feed_length is an int from 0 (no feed) to {MAX_FEED_LENGTH:,}, not {_shown(number)}")
    return number


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} is True or False, not {_shown(value)}")
    return value


def count(value: Any, name: str) -> int:
    """A count: an int from 0."""
    number = _integer(value, name)
    if number < 0:
        raise InvalidInputError(f"{name} is an int from 0 on, not {_shown(number)}")
    return number


def _choice(value: Any, name: str, choices: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and (text := _plain(value)) in choices:
        return text
    raise InvalidInputError(f"{name} is one of {', '.join(choices)} (or None), not {_shown(value)}")


def _integer(value: Any, what: str) -> int:
    if value.__class__ is int:
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except Exception:  # __index__ of a foreign object may raise anything
        raise InvalidInputError(f"{what} is an int, not {_shown(value)}") from None


def _shown(value: Any) -> str:
    """``value`` for a message: short, on one line, printable, whatever its repr does."""
    try:
        text = repr(value)
    except Exception:
        text = f"an unprintable {type(value).__name__}"  # also for an int of many thousand digits
    return printable(text if len(text) <= 80 else text[:77] + "...")
