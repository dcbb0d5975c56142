"""Who may look and act: the names and secrets of the files, and the session of a page.

Invariant: a secret is compared in constant time, and leaves this module in no other form than a keyed hash.

The key of a session follows from the user's own secret. So a session survives a restart of the process, ends when the
secret is changed, and tells its holder nothing of another user's secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from redis_kvpoll.errors import InvalidInputError

SESSION_SECONDS = 12 * 3600
MIN_PASSWORD, MIN_TOKEN = 8, 16
"""Characters: what a person remembers, and what a machine makes."""
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, slots=True)
class User:
    """A name for the log of actions, with its secret."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"User({self.name!r})"


def read_passwords(path: str) -> list[User]:
    """Return the users of a file with a line ``name:password`` for each; without a name it is ``kvpoll``."""
    return _read(path, "--password-file", "kvpoll", "password", MIN_PASSWORD)


def read_tokens(path: str, option: str = "--token-file") -> list[User]:
    """Return the users of a file with a line ``name:token`` or ``token`` for each; errors name the option."""
    return _read(path, option, "token", "token", MIN_TOKEN)


def _read(path: str, option: str, default_name: str, what: str, shortest: int) -> list[User]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None
    users = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, colon, secret = line.strip().partition(":")
        if not colon:
            name, secret = default_name, name
        if not _NAME.fullmatch(name):
            raise InvalidInputError(f"{option} {path}, line {number}: a name has 1 to 64 of A-Z a-z 0-9 . _ @ -")
        if len(secret) < shortest:
            raise InvalidInputError(f"{option} {path}, line {number}: a {what} has {shortest} characters or more")
        users.append(User(name, secret))
    if not users:
        raise InvalidInputError(f"{option} {path} is empty: write one name:{what} a line")
    return users


class Credentials:
    """Checks secrets and sessions against the users that there are."""

    def __init__(self, users: Iterable[User]) -> None:
        self._users = tuple(users)
        self._keys = {user: _session_key(user) for user in self._users}

    def __bool__(self) -> bool:
        return bool(self._users)

    def check(self, secret: str, name: str | None = None) -> str | None:
        """Return the name of the user who has this secret (and, if given, this name), else None."""
        found = None
        for user in self._users:  # all of them: the time must not tell which one was near
            is_equal = hmac.compare_digest(user.secret.encode(), secret.encode("utf-8", "replace"))
            if is_equal and name in (None, "", user.name):
                found = user.name
        return found

    def check_header(self, authorization: str) -> str | None:
        """Return the name of the user of an Authorization header, Bearer or Basic, else None."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return self.check(value.strip())
        if scheme.lower() == "basic":
            try:
                name, _, secret = base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")
            except (binascii.Error, ValueError):
                return None
            return self.check(secret, name)
        return None

    def start_session(self, name: str, now: float) -> str:
        """Return the value of a cookie that says who this is, until SESSION_SECONDS from now."""
        user = next(user for user in self._users if user.name == name)
        until = str(int(now + SESSION_SECONDS))
        return f"{name}:{until}:{self._sign(user, until)}"

    def check_session(self, cookie: str, now: float) -> str | None:
        """Return the name of the user of a session's cookie, else None."""
        name, _, rest = cookie.partition(":")
        until, _, signature = rest.partition(":")
        if not (until.isascii() and until.isdecimal() and len(until) < 15 and now < int(until)):
            return None
        for user in self._users:  # in bytes: of two texts, compare_digest takes ASCII alone
            if user.name == name and hmac.compare_digest(self._sign(user, until).encode(), signature.encode()):
                return name
        return None

    @staticmethod
    def session_ends_at(cookie: str) -> float:
        """Return when a session ends, of a cookie that ``check_session`` has accepted."""
        return float(cookie.split(":")[1])

    def _sign(self, user: User, until: str) -> str:
        return hmac.new(self._keys[user], f"{user.name}:{until}".encode(), "sha256").hexdigest()


def _session_key(user: User) -> bytes:
    """Return a key from which the secret cannot be guessed in a useful time."""
    return hashlib.scrypt(user.secret.encode(), salt=b"kvpoll session " + user.name.encode(), n=2**14, r=8, p=1)
