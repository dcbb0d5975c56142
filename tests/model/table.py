"""A server's state in the explorer: the model's data, and which ranks reported Success; and its readable form."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from redis_kvpoll.protocol import keys
from tests.model.canonical import NOW_US, short
from tests.model.redis_model import EMPTY, Kept, State

NAMESPACE = "m"
ROOM = 2**53 + 1  # no double holds it
FEED = keys.feed(NAMESPACE).encode()
FAILED = keys.failed(NAMESPACE).encode()
ROOM_KEY = keys.rooms(NAMESPACE, [ROOM])[0].encode()
PREFIX_KEY = keys.prefixes(NAMESPACE, [ROOM])[0].encode()
CLEARED_KEY = keys.cleared(NAMESPACE).encode()
EPOCH_KEY = keys.epoch(NAMESPACE).encode()
NOW_MS = NOW_US // 1000
_TIMES = {b"opened_ms": b"1", b"updated_ms": b"1", b"version": b"1", b"opened": b"1-0"}
"""Fields that grow and that no decision depends on, with what replaces them."""


class Server(NamedTuple):
    state: State
    said: tuple[str, ...]
    """The ranks that have reported Success in the room's generation."""


NOTHING = Server(EMPTY, ())


def normal(state: State, now_us: int) -> State:
    """The state without what only grows: times, versions, feed entries, and failures."""
    return tuple(_normal(kept, NOW_MS - now_us // 1000) for kept in state if kept.key != FAILED)


def _normal(kept: Kept, late_ms: int) -> Kept:
    if kept.deadline is not None and kept.deadline < NOW_MS:
        kept = kept._replace(deadline=kept.deadline + late_ms)
    if kept.kind == "stream":
        return kept._replace(value=(((0, 0), ()),))
    if kept.key == ROOM_KEY:
        value = tuple((field, _TIMES.get(field, text)) for field, text in kept.value)
        return kept._replace(value=value)
    return kept


class View:
    """A readable view of a server's state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.kept = {kept.key: kept for kept in state}

    @cached_property
    def room(self) -> dict[str, str]:
        """The room's fields; none when it is absent."""
        kept = self.kept.get(ROOM_KEY)
        return {field.decode(): text.decode() for field, text in kept.value} if kept else {}

    @property
    def status(self) -> str | None:
        return self.room.get("status")

    @property
    def generation(self) -> str | None:
        return self.room.get("generation")

    @property
    def tombstone(self) -> str:
        """The generation that was cleared here after a replay had created it; empty if there is none."""
        kept = self.kept.get(CLEARED_KEY)
        return dict(kept.value).get(b"%d" % ROOM, b"").decode() if kept else ""

    def own(self, rank: str) -> str | None:
        """A rank's own status; of a room without ranks, its status."""
        return self.room.get(f"status:{rank}" if rank and "world_size" in self.room else "status")

    def seen(self, rank: str) -> str | None:
        """A rank's view: its own status, or Failed once the room has failed, until it has cleared."""
        is_over = self.status == "Failed" and "world_size" in self.room and f"cleared:{rank}" not in self.room
        return "Failed" if rank and is_over else self.own(rank)

    @cached_property
    def entries(self) -> list[list[str]]:
        """The words of the feed's entries; of a normalised state, one entry without words."""
        kept = self.kept.get(FEED)
        return [[word.decode() for word in words] for _, words in kept.value] if kept else []

    @property
    def failures(self) -> list[tuple[bool, dict[str, str]]]:
        """What the last step has told of failures: whether with the id of the feed's last entry, and the words."""
        there = self.kept[FAILED].value if FAILED in self.kept else ()
        ids = [entry_id for entry_id, _ in self.kept[FEED].value] if FEED in self.kept else []
        words = [(entry_id, [word.decode() for word in words]) for entry_id, words in there]
        return [(entry_id == ids[-1], dict(zip(found[::2], found[1::2], strict=True))) for entry_id, found in words]

    def without(self, *names: bytes) -> State:
        return tuple(kept for kept in self.state if kept.key not in names)

    def __str__(self) -> str:
        if not self.state:
            return "an empty server"
        room = {name: text for name, text in self.room.items() if name.encode() not in _TIMES}
        text = " ".join(f"{name}={text}" for name, text in room.items()) or "absent"
        others = [
            f"{kept.key.decode().rpartition(':')[2] if kept.key != PREFIX_KEY else 'prefix'} {_text(kept)}"
            for kept in self.state
            if kept.key not in (ROOM_KEY, FEED, FAILED)
        ]
        return short("; ".join([f"room: {text}", *others]))


def _text(kept: Kept) -> str:
    text = " ".join(
        f"{name.decode()}={text.decode() if isinstance(text, bytes) else f'{text:.0f}'}" for name, text in kept.value
    )
    return f"({text})"
