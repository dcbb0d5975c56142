"""A minimal Redis in memory: the commands that the scripts send, and no others.

It serves the explorer (see explorer.py), which puts a server into some state, runs one script and takes the state
out again, some hundred thousand times. So a state goes in and out as one immutable value, and the clock stands still
unless it is moved. test_redis_model.py compares its replies and its data with real servers.

Words and replies are bytes, as on the wire; an error reply is redis-py's ResponseError. An unknown command is a
NotImplementedError. To let a script use another command: add a method here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from redis.exceptions import ResponseError

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Kept(NamedTuple):
    """One key in a state."""

    key: bytes
    kind: str
    deadline: int | None
    """Milliseconds of the server's time; None for a key without TTL."""
    value: tuple[Any, ...]
    """A hash's (field, value) and a sorted set's (member, score), sorted; a stream's (id, words), in its order."""


State = tuple[Kept, ...]
EMPTY: State = ()


class RedisModel:
    """One server with one database. ``now_us`` is its clock."""

    def __init__(self, now_us: int = 1_800_000_000_000_000) -> None:
        self.now_us = now_us
        self._kinds: dict[bytes, str] = {}
        self._values: dict[bytes, dict[Any, Any]] = {}
        """A stream too is a dict, from (ms, number) to its words."""
        self._deadlines: dict[bytes, int] = {}

    # States

    def put(self, state: State) -> None:
        self._kinds = {kept.key: kept.kind for kept in state}
        self._values = {kept.key: dict(kept.value) for kept in state}
        self._deadlines = {kept.key: kept.deadline for kept in state if kept.deadline is not None}

    def state(self) -> State:
        """Everything but the counts of refused writes: no script reads them, and they would multiply the states."""
        self.expire()
        kept = []
        for key in sorted(key for key in self._values if not key.endswith(b":refused")):
            kind, value = self._kinds[key], self._values[key].items()
            in_order = tuple(value) if kind == "stream" else tuple(sorted(value))
            kept.append(Kept(key, kind, self._deadlines.get(key), in_order))
        return tuple(kept)

    def expire(self) -> None:
        now = self.now_us // 1000
        for key in [key for key, deadline in self._deadlines.items() if deadline <= now]:
            self._drop(key)

    # Commands

    def execute(self, name: bytes, *args: bytes) -> Any:
        """One command's reply; ResponseError is raised."""
        command = _COMMANDS.get(name.upper())
        if command is None:
            raise NotImplementedError(f"the model knows no {name.decode()}")
        return command(self, *args)

    def _drop(self, key: bytes) -> bool:
        self._deadlines.pop(key, None)
        self._kinds.pop(key, None)
        return self._values.pop(key, None) is not None

    def _read(self, key: bytes, kind: str) -> dict[Any, Any]:
        if self._kinds.get(key, kind) != kind:
            raise ResponseError(WRONG_TYPE)
        return self._values.get(key, _NOTHING)

    def _write(self, key: bytes, kind: str) -> dict[Any, Any]:
        if self._kinds.setdefault(key, kind) != kind:
            raise ResponseError(WRONG_TYPE)
        return self._values.setdefault(key, {})

    def _tidy(self, key: bytes) -> None:
        """A hash or sorted set without members is no key."""
        if not self._values.get(key, True):
            self._drop(key)

    # Keys

    def delete(self, *keys: bytes) -> int:
        return sum(self._drop(key) for key in keys)

    def exists(self, *keys: bytes) -> int:
        return sum(key in self._values for key in keys)

    def pexpire(self, key: bytes, milliseconds: bytes) -> int:
        if key not in self._values:
            return 0
        if int(milliseconds) <= 0:
            self._drop(key)
        else:
            self._deadlines[key] = self.now_us // 1000 + int(milliseconds)
        return 1

    def pttl(self, key: bytes) -> int:
        if key not in self._values:
            return -2
        return self._deadlines[key] - self.now_us // 1000 if key in self._deadlines else -1

    def time(self) -> list[bytes]:
        return [b"%d" % part for part in divmod(self.now_us, 1_000_000)]

    # Hashes

    def hget(self, key: bytes, field: bytes) -> bytes | None:
        return self._read(key, "hash").get(field)

    def hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        there = self._read(key, "hash")
        return [there.get(field) for field in fields]

    def hgetall(self, key: bytes) -> list[bytes]:
        return [word for pair in self._read(key, "hash").items() for word in pair]

    def hkeys(self, key: bytes) -> list[bytes]:
        return list(self._read(key, "hash"))

    def hlen(self, key: bytes) -> int:
        return len(self._read(key, "hash"))

    def hexists(self, key: bytes, field: bytes) -> int:
        return int(field in self._read(key, "hash"))

    def hset(self, key: bytes, *pairs: bytes) -> int:
        if not pairs or len(pairs) % 2:
            raise ResponseError("wrong number of arguments for 'hset' command")
        there = self._write(key, "hash")
        before = len(there)
        there.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(there) - before

    def hsetnx(self, key: bytes, field: bytes, value: bytes) -> int:
        there = self._write(key, "hash")
        if field in there:
            return 0
        there[field] = value
        return 1

    def hdel(self, key: bytes, *fields: bytes) -> int:
        there = self._read(key, "hash")
        count = sum(there.pop(field, None) is not None for field in fields)
        self._tidy(key)
        return count

    def hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        there = self._write(key, "hash")
        try:
            number = int(there.get(field, b"0")) + int(by)
        except ValueError:
            raise ResponseError("hash value is not an integer") from None
        there[field] = b"%d" % number
        return number

    # Sorted sets

    def zadd(self, key: bytes, *pairs: bytes) -> int:
        scores = [_score(word) for word in pairs[::2]]
        there = self._write(key, "zset")
        before = len(there)
        there.update(zip(pairs[1::2], scores, strict=True))
        return len(there) - before

    def zrem(self, key: bytes, *members: bytes) -> int:
        there = self._read(key, "zset")
        count = sum(there.pop(member, None) is not None for member in members)
        self._tidy(key)
        return count

    def zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> int:
        return self.zrem(key, *self.zrangebyscore(key, low, high))

    def zcard(self, key: bytes) -> int:
        return len(self._read(key, "zset"))

    def zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._read(key, "zset").get(member)
        return None if score is None else b"%.17g" % score

    def zcount(self, key: bytes, low: bytes, high: bytes) -> int:
        return len(self.zrangebyscore(key, low, high))

    def zrangebyscore(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> list[bytes]:
        at, count = 0, -1
        if options:
            if options[0].upper() != b"LIMIT" or len(options) != 3:
                raise NotImplementedError(f"the model's ZRANGEBYSCORE knows LIMIT alone, not {options}")
            at, count = int(options[1]), int(options[2])
        above, below = _bound(low, 1), _bound(high, -1)
        ordered = sorted((score, member) for member, score in self._read(key, "zset").items())
        found = [member for score, member in ordered if above <= (score, 0) <= below]
        return found[at:] if count < 0 else found[at : at + count]

    # Streams

    def xadd(self, key: bytes, *words: bytes) -> bytes | None:
        rest, make = list(words), True
        if rest[0].upper() == b"NOMKSTREAM":
            rest, make = rest[1:], False
        if rest[0].upper() == b"MAXLEN":
            if rest[1] != b"~":  # by ~ a server drops whole nodes of a hundred entries, and so long no test is
                raise NotImplementedError("the model's XADD knows MAXLEN ~ alone")
            rest = rest[3:]
        if len(rest) < 3 or len(rest) % 2 == 0:
            raise ResponseError("wrong number of arguments for 'xadd' command")
        there = self._read(key, "stream")
        if not make and key not in self._values:
            return None
        now, last = (self.now_us // 1000, 0), next(reversed(there), (0, 0))
        if rest[0] == b"*":
            entry_id = now if now > last else (last[0], last[1] + 1)
        elif (entry_id := _entry_id(rest[0])) <= last:
            raise ResponseError("The ID specified in XADD is equal or smaller than the target stream top item")
        self._write(key, "stream")[entry_id] = tuple(rest[1:])
        return b"%d-%d" % entry_id

    def xlen(self, key: bytes) -> int:
        return len(self._read(key, "stream"))

    def xrange(self, key: bytes, start: bytes, end: bytes, *options: bytes) -> list[list[Any]]:
        there = self._read(key, "stream")
        if (start, end) == (b"-", b"+") and len(options) == 2 and options[0].upper() == b"COUNT":
            found = list(there)[: int(options[1])]
        elif start == end and not options:
            found = [entry_id for entry_id in [_entry_id(start)] if entry_id in there]
        else:
            raise NotImplementedError("the model's XRANGE knows - + COUNT and one id alone")
        return [[b"%d-%d" % entry_id, list(there[entry_id])] for entry_id in found]

    def xrevrange(self, key: bytes, end: bytes, start: bytes, *options: bytes) -> list[list[Any]]:
        if (end, start) != (b"+", b"-") or len(options) != 2 or options[0].upper() != b"COUNT":
            raise NotImplementedError("the model's XREVRANGE knows + - COUNT alone")
        entries = reversed(self._read(key, "stream").items())
        return [
            [b"%d-%d" % entry_id, list(words)]
            for (entry_id, words), _ in zip(entries, range(int(options[1])), strict=False)
        ]


def _score(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:
        raise ResponseError("value is not a valid float") from None


def _entry_id(word: bytes) -> tuple[int, int]:
    milliseconds, _, number = word.partition(b"-")
    if not milliseconds.isdigit() or not number.isdigit():
        raise NotImplementedError("the model's stream ids are <milliseconds>-<number>")
    return int(milliseconds), int(number)


def _bound(word: bytes, outward: int) -> tuple[float, int]:
    """A limit of a range of scores, such that (score, 0) is within it or not; "(" leaves the limit itself out."""
    open_ = word.startswith(b"(")
    return _score(word.removeprefix(b"(")), outward if open_ else 0


_NOTHING: dict[Any, Any] = {}
_COMMANDS = {
    b"DEL": RedisModel.delete,
    **{
        name.upper().encode(): getattr(RedisModel, name)
        for name in (
            *("exists", "pexpire", "pttl", "time"),
            *("hget", "hmget", "hgetall", "hkeys", "hlen", "hexists", "hset", "hsetnx", "hdel", "hincrby"),
            *("zadd", "zrem", "zremrangebyscore", "zcard", "zscore", "zcount", "zrangebyscore"),
            *("xadd", "xlen", "xrange", "xrevrange"),
        )
    },
}
KNOWN = frozenset(name.decode() for name in _COMMANDS)
