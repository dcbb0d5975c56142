"""What a running ``kvpoll serve`` answers instead of the table: which rooms are stuck.

It follows the table, so it knows the rooms without a reading of all of them. Invariant: whatever goes wrong here is
said on stderr, and the command reads the table itself. An answer is a hint: every room in it is read from the table
before it is shown.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

from redis_kvpoll import validation
from redis_kvpoll.cli.durations import human
from redis_kvpoll.cli.selection import Found, Selection
from redis_kvpoll.errors import InvalidInputError, printable
from redis_kvpoll.model import KVPoll, RoomRow

VARIABLE = "KVPOLL_SERVE"
TIMEOUT = 2.0
MOST_ROOMS = 1000
"""As many as one answer of serve has."""
MOST_BYTES = 10_000_000
LATE = 5.0
"""Seconds behind the table from which on an answer is not used."""


class ServeAddress(NamedTuple):
    """A running serve."""

    url: str
    token_file: str | None = None
    """Used if the URL has no credentials."""


class UselessAnswerError(Exception):
    """Why serve was of no use: one clause."""


class ServeAnswer(NamedTuple):
    """The stuck rooms, as far as serve lists them: those that are stuck for the longest first."""

    rooms: list[Found]
    matching: int
    total: int
    lag: float

    @property
    def is_whole(self) -> bool:
        return len(self.rooms) >= self.matching

    @property
    def source(self) -> str:
        """Who has answered, for stderr."""
        return f"from kvpoll serve, {human(self.lag)} behind"


def is_question(wanted: Selection) -> bool:
    """Whether serve can tell which rooms match: those that are stuck, perhaps of some statuses."""
    return wanted.stuck is not None and wanted == Selection(stuck=wanted.stuck, status=wanted.status)


def ask(server: ServeAddress, namespace: str, wanted: Selection) -> ServeAnswer:
    """Return the rooms that match; raises UselessAnswerError if there is no answer, or none that is current."""
    live = [status.name for status in KVPoll if not status.is_terminal]
    names = [name for name in live if not wanted.status or name.lower() in map(str.lower, wanted.status)]
    if not names:  # only ended rooms were asked for, of which none is stuck
        raise UselessAnswerError("it is asked for live rooms only")
    query = {"n": namespace, "status": ",".join(names), "longer_than": wanted.stuck or 0, "limit": MOST_ROOMS}
    answer = _get(server, f"/api/rooms?{urlencode(query)}")
    try:
        return _checked(answer)
    except (KeyError, TypeError, ValueError, InvalidInputError):
        raise UselessAnswerError("its answer is not that of kvpoll serve") from None


def _checked(answer: dict[str, Any]) -> ServeAnswer:
    lag = answer["lag_seconds"]
    if not answer["synced"] or lag is None or not lag < LATE:
        raise UselessAnswerError(
            "it does not know the whole table yet" if lag is None else f"it is {human(lag)} behind"
        )
    rooms = [
        RoomRow(
            validation.room(int(each["room"])),
            KVPoll[each["status"]],
            _number(each["since"]),
            _number(each["opened_at"]),
            math.inf if each["ttl_seconds"] is None else _number(each["ttl_seconds"]),
            None if each["owner"] is None else str(each["owner"]),
        )
        for each in answer["rooms"]
    ]
    return ServeAnswer(
        [Found(row) for row in rooms], int(answer["matching"]), int(answer["total"]), max(0.0, float(lag))
    )


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _get(server: ServeAddress, path: str) -> Any:
    """Return the JSON at a path below serve's URL, without redirects and proxies: they would get the token."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    try:
        address, headers = _address(server)
        request = Request(address + path, headers=headers)  # noqa: S310 - _address takes http and https alone
        with build_opener(ProxyHandler({}), Stay).open(request, timeout=TIMEOUT) as reply:
            return json.loads(reply.read(MOST_BYTES))
    except HTTPError as error:
        raise UselessAnswerError(_status(error.code)) from None
    except (OSError, HTTPException) as error:
        raise UselessAnswerError(f"no answer ({printable(str(getattr(error, 'reason', None) or error))})") from None
    except ValueError:  # no JSON, or no UTF-8
        raise UselessAnswerError("its answer is not that of kvpoll serve") from None


def _status(code: int) -> str:
    match code:
        case 401:
            return "it wants credentials: name:password@ in the URL, or --serve-token-file"
        case 404:
            return "it does not serve this namespace"
        case _:
            return f"it answers with HTTP {code}"


def _address(server: ServeAddress) -> tuple[str, dict[str, str]]:
    """Split serve's URL into an address without credentials, and the headers that have them."""
    from base64 import b64encode

    try:
        parts = urlsplit(server.url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise UselessAnswerError("its URL is not http:// or https:// with a host")
    headers = {"accept": "application/json"}
    if parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    elif server.token_file is not None:
        headers["authorization"] = f"Bearer {_token(server.token_file)}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}", headers


def _token(path: str) -> str:
    """Return the token in a file, which may have a name before it, as in serve's own file."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            name, colon, secret = file.readline().strip().partition(":")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UselessAnswerError(f"--serve-token-file: {printable(path)!r} cannot be read: {why}") from None
    token = secret if colon else name
    if not token or not token.isascii() or not token.isprintable():
        raise UselessAnswerError(f"--serve-token-file: the first line of {printable(path)!r} has no token")
    return token
