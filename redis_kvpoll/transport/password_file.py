"""A password in a file of its own, as containers mount secrets: it is in no variable and in no list of processes.

Invariant: no message shows what the file contains.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from urllib.parse import quote

from redis_kvpoll.errors import InvalidInputError, printable

VARIABLE = "KVPOLL_PASSWORD_FILE"


def named(text: str, path: str) -> str:
    """Return an error's text; that of a refused password names the file that it is from, if it is from one."""
    if not path or "WRONGPASS" not in text:
        return text
    return f"{text}; the password is the first line of {printable(path)!r} ({VARIABLE})"


def with_password(url: str, path: str) -> str:
    """Return a URL with the password that is the first line of a file."""
    try:
        # A pipe that nobody writes to would block SGLang's start for good.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InvalidInputError(f"{VARIABLE}: {printable(path)!r} is no regular file: put the password into one")
        password = Path(path).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise InvalidInputError(f"{VARIABLE}: {printable(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInputError(f"{VARIABLE}: {printable(path)!r} is not UTF-8") from None
    if not password:
        raise InvalidInputError(f"{VARIABLE}: the first line of {printable(path)!r} is empty")
    scheme, separator, rest = url.partition("://")
    # A path or an option may have an @, too; a password that ended up there would be shown.
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not separator or scheme in ("memory", "embedded"):
        raise InvalidInputError(f"{VARIABLE} is set, and the URL names no server")
    if ":" in user:
        raise InvalidInputError(f"{VARIABLE} is set, and the URL has a password, too: give one of them")
    return f"{scheme}://{user}:{quote(password, safe='')}@{rest[len(user + at) :]}"
