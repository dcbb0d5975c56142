"""The only module that writes: ``abort`` and ``clear`` of one room, with the connection of ``--actions-redis``.

Invariant: an action names its room twice (in the address, and typed), and is logged with who asked for it, before it is
sent and with its outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.errors import CorruptEntryError, KVPollError, printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.statistics.reasons import by_hand

ACTIONS = ("abort", "clear")
DEFAULT_REASON = "aborted by {who} on the page of kvpoll"
LONGEST_REASON = 200

log = logging.getLogger("redis_kvpoll.serve.actions")


class ActionAnswer(NamedTuple):
    """What an action did."""

    status: int
    """As HTTP has it."""
    text: str


class RoomActions:
    """Carries out actions, on a store a namespace."""

    def __init__(self, stores: Mapping[str, AsyncStatusStore]) -> None:
        self._stores = stores

    async def act(self, action: str, namespace: str, room: int, who: str, form: Mapping[str, str]) -> ActionAnswer:
        """Carry out one action, if it was confirmed by the room's number."""
        if form.get("confirm", "").strip() != str(room):
            return ActionAnswer(400, f"Nothing was done: type {room} to confirm.")
        reason = form.get("reason", "").strip()[:LONGEST_REASON] or DEFAULT_REASON.format(who=who)
        reason = by_hand(reason)
        said = f"{action} of room {room} in {namespace} by {printable(who)}"
        log.warning("%s%s", said, f": {printable(reason)}" if action == "abort" else "")
        try:
            answer = await self._run(action, self._stores[namespace], room, reason)
        except KVPollError as error:
            answer = ActionAnswer(502, f"{action}: {error}")
        log.warning("%s: %s", said, printable(answer.text))
        return answer

    async def _run(self, action: str, store: AsyncStatusStore, room: int, reason: str) -> ActionAnswer:
        if await store.settings() is None:  # a store that writes would create the namespace
            return ActionAnswer(404, "The namespace does not exist.")
        if action == "clear":
            return await _clear(store, room)
        with suppress(CorruptEntryError):  # abort fails a room of an unknown status, and refuses what else is corrupt
            if await store.get(room) is KVPoll.Success:
                return ActionAnswer(409, f"Room {room} is at Success: abort fails live rooms only.")
        update = await store.abort(room, reason)
        if update.status is None:
            return ActionAnswer(404, f"Room {room} is not in the table.")
        if not update.changed:
            return ActionAnswer(409, f"Room {room} had failed already.")
        return ActionAnswer(200, f"Room {room} was aborted.")

    async def close(self) -> None:
        for store in self._stores.values():
            await store.aclose()


async def _clear(store: AsyncStatusStore, room: int) -> ActionAnswer:
    """Clear a room. One that is corrupt is removed, too, but the answer of ``clear`` has no status of it."""
    was = ""
    try:
        await store.entry(room)
    except CorruptEntryError:
        was = "corrupt"
    status = await store.clear(room)
    if status is not None:
        was = f"at {status.name}"
    if not was:
        return ActionAnswer(404, f"Room {room} is not in the table.")
    return ActionAnswer(200, f"Room {room} was cleared; it was {was}.")
