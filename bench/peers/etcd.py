"""etcd: a transaction that compares the key's revision, by its JSON gateway over one connection."""

from __future__ import annotations

import http.client
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.peers.way import GIVE_UP_SECONDS, Shared, Way, merged


class Etcd(Way):
    shown: ClassVar[str] = "etcd transaction"
    service: ClassVar[str] = "etcd"
    learns: ClassVar[str] = "etcd watch"
    lacks: ClassVar[str] = "a TTL without a lease a room (rates are without one)"

    def __init__(self, shared: Shared) -> None:
        self._address = shared.address
        self._prefix = f"{shared.namespace}/"
        self._connection = self._connect()
        self._watching = self._connect()
        self._changes: http.client.HTTPResponse | None = None

    def merge(self, room: int, status: int) -> bool:
        # The first attempt assumes that the room is absent; if it fails, its answer has the current value.
        current, revision = (None, "0") if status else self._get(room)
        while True:
            new = merged(current, status)
            if new is None or new == current:
                return False
            answer = self._swap(room, revision, new)
            if answer.get("succeeded"):
                return current is None
            current, revision = _value(answer["responses"][0]["response_range"])

    def clear(self, room: int) -> bool:
        return "deleted" in self._call("kv/deleterange", {"key": self._key(room)})

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        if len(rooms) == 1:
            return [self._get(rooms[0])[0]]
        answer = self._call("kv/range", self._all())
        skip = len(self._prefix)
        found = {int(b64decode(kv["key"])[skip:]): int(b64decode(kv["value"])) for kv in answer.get("kvs", ())}
        return [found.get(room) for room in rooms]

    def listen(self, rooms: Sequence[int]) -> None:
        self._watching.request("POST", "/v3/watch", json.dumps({"create_request": self._all()}))
        self._changes = self._watching.getresponse()
        self._changes.readline()  # the confirmation

    def until(self, room: int, status: int) -> None:
        assert self._changes is not None  # noqa: S101 - listen was called
        while True:
            message = json.loads(self._changes.readline())
            for event in message["result"].get("events", ()):
                kv = event["kv"]
                if kv["key"] == self._key(room) and int(b64decode(kv["value"])) == status:
                    return

    def close(self) -> None:
        self._connection.close()
        if self._changes is not None:
            self._changes.close()
        self._watching.close()

    def _get(self, room: int) -> tuple[int | None, str]:
        return _value(self._call("kv/range", {"key": self._key(room)}))

    def _swap(self, room: int, revision: str, status: int) -> dict[str, Any]:
        key = self._key(room)
        return self._call(
            "kv/txn",
            {
                "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}],
                "success": [{"request_put": {"key": key, "value": _text(str(status))}}],
                "failure": [{"request_range": {"key": key}}],
            },
        )

    def _call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        self._connection.request("POST", f"/v3/{method}", json.dumps(request))
        with self._connection.getresponse() as response:
            answer: dict[str, Any] = json.loads(response.read())
            if response.status != 200:
                raise OSError(f"etcd answered: {answer}")
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=GIVE_UP_SECONDS)

    def _key(self, room: int) -> str:
        return _text(f"{self._prefix}{room}")

    def _all(self) -> dict[str, str]:
        """The range of all keys with the prefix: its end has the next last character."""
        return {"key": _text(self._prefix), "range_end": _text(self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1))}


def _text(plain: str) -> str:
    return b64encode(plain.encode()).decode()


def _value(answer: dict[str, Any]) -> tuple[int | None, str]:
    """The key's value and revision; an absent key has revision 0."""
    for kv in answer.get("kvs", ()):
        return int(b64decode(kv["value"])), kv["mod_revision"]
    return None, "0"
