"""A store's URL, parsed. Nothing is opened here.

Invariant: no message shows a password, also of a URL that is wrong, where the place of the password is a guess. So a
message shows only the parts of a URL that are certainly none, and quotes nothing else of it.

To add a scheme: give it a Kind, its form in SCHEMES, and a branch in ``transport_from_url`` of sync and aio.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from redis.connection import parse_url

from redis_kvpoll.errors import InvalidInputError, printable

Kind = Literal["memory", "embedded", "single", "sentinel", "cluster"]

SCHEMES = (
    "memory://, embedded://, redis://, rediss://, valkey://, valkeys://, unix://, "
    "redis+sentinel://host:port,host:port/service/db, redis+cluster://host:port"
)
_PORTS = {"single": 6379, "cluster": 6379, "sentinel": 26379}

HIDDEN = "***"
_SCHEME = re.compile(r"[a-z]+(\+[a-z]+)*")
_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])(?::([0-9]{1,5}))?")
_PATHS = {
    "single": re.compile("[0-9]*"),
    "cluster": re.compile("[0-9]*"),
    "sentinel": re.compile("[A-Za-z0-9._-]*(/[0-9]*)?"),
}
_SHOWN_OPTION = re.compile(
    r"(?:client_name|db|protocol|socket_timeout|socket_connect_timeout|ssl_(?!password)[a-z_]+)=[A-Za-z0-9._:/+-]*"
)
_REDIS_PY = "Invalid value for "
"""How redis-py begins an error about an option, which names the option alone."""


_ESCAPES = "write / ? # @ [ ] and blanks inside a user name or a password as %2F %3F %23 %40 %5B %5D %20"


class _URLError(ValueError):
    """What is wrong with a URL, in words that quote nothing of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    """The name of the primary, for Sentinel."""
    options: dict[str, Any] = field(default_factory=dict)
    """redis-py's keyword arguments for a connection."""
    sentinel_options: dict[str, Any] = field(default_factory=dict)
    shown: str = ""
    """The URL without its password."""


def parse(url: Any) -> Target:
    """Parse a URL; InvalidInputError names what is wrong with it, without its password."""
    if not isinstance(url, str):
        raise InvalidInputError(f"a URL is a str, not {type(url).__name__}")
    shown = _without_secrets(url)
    scheme, separator, rest = url.partition("://")
    try:
        if separator and scheme in ("memory", "embedded"):
            if rest:
                raise _URLError(f"nothing may follow {scheme}://")
            return Target(scheme, shown=shown)  # type: ignore[arg-type]
        base, _, kind = scheme.replace("valkey", "redis", 1).partition("+")
        if not separator or base not in ("redis", "rediss", "unix") or (base == "unix" and kind):
            raise _URLError(f"it must start with one of {SCHEMES}")
        if kind not in ("", "sentinel", "cluster"):
            raise _URLError(f"it must start with one of {SCHEMES}")
        return _servers(base, kind or "single", rest, shown)  # type: ignore[arg-type]
    except ValueError as error:
        what = str(error)
        if not isinstance(error, _URLError) and not what.startswith(_REDIS_PY):
            what = _ESCAPES  # urllib's own text quotes what it does not understand
        raise InvalidInputError(f"URL {shown}: {what}") from None


def place(host: str, port: int | str) -> str:
    """Return a host and a port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _servers(base: str, kind: Kind, rest: str, shown: str) -> Target:
    if base == "unix":
        options = parse_url(f"unix://{rest}")
        if not options.get("path") or urlsplit(f"//{rest}").hostname:
            raise _URLError("it names no absolute path to a socket: unix:///path/to/redis.sock")
        return Target(kind, options=_plain(options), shown=shown)
    # Where an unencoded password ends is a guess; a wrong one would show half of it as a host or a database.
    if re.search(r"[/?#\s]", rest.rpartition("@")[0]) or "#" in rest or re.search(r"\s", rest):
        raise _URLError(_ESCAPES)
    where, _, query = rest.partition("?")
    authority, _, path = where.partition("/")
    user, at, addresses = authority.rpartition("@")
    hosts = tuple(_address(address, kind) for address in addresses.split(","))
    if len(hosts) > 1 and kind == "single":
        raise _URLError("more than one host takes redis+sentinel:// or redis+cluster://")
    service, path = _path(kind, path)
    # redis-py's parser reads the user and the options. It takes one host, so it gets a placeholder.
    options = _plain(parse_url(f"{base}://{user}{at}host/{path}?{query}"))
    if "path" in options:
        raise _URLError("it has an option 'path', which is for unix:// alone")
    if kind == "cluster" and options.pop("db", 0):
        raise _URLError("a cluster has only database 0")
    if base == "rediss":
        options["ssl"] = True
    if kind == "single":
        options["host"], options["port"] = hosts[0]
    sentinel = _for_sentinels(options) if kind == "sentinel" else {}
    return Target(kind, hosts, service, options, sentinel, shown)


def _path(kind: Kind, path: str) -> tuple[str, str]:
    """Return the service, for Sentinel, and the database of a path."""
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise _URLError("it names no service: redis+sentinel://host:port/service/db")
    if path and not path.isdecimal():
        raise _URLError("the database is a number: redis://host:6379/0")
    return service, path


def _for_sentinels(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the Sentinels' options and return them; TLS is for them and for the servers."""
    names = [name for name in options if name.startswith("sentinel_")]
    taken = {name.removeprefix("sentinel_"): options.pop(name) for name in names}
    return taken | ({"ssl": True} if "ssl" in options else {})


def _without_secrets(url: str) -> str:
    """Return the URL, with ``***`` for whatever may be a user name or a password, or part of one."""
    scheme, separator, rest = url.partition("://")
    if not url.strip():  # as of a variable that is not set: *** would say that something is hidden
        return repr(url)
    if not separator:
        return url if ":" in url and _is_host_and_port(url) else HIDDEN
    if not _SCHEME.fullmatch(scheme):
        return HIDDEN
    before, at, after = rest.rpartition("@")
    return printable(f"{scheme}://{HIDDEN * bool(before)}{at}{_shown_place(scheme, after)}")


def _shown_place(scheme: str, after: str) -> str:
    """Return what follows the password: the hosts, the path and the options."""
    where, mark, query = after.partition("?")
    options = mark + "&".join(map(_shown_option, query.split("&")))
    if scheme == "unix" and where.startswith("/"):
        return where + options
    hosts, slash, path = where.partition("/")
    # One part that is no host makes all doubtful: a password may hold commas, slashes and question marks.
    if not all(map(_is_host_and_port, hosts.split(","))):
        return HIDDEN
    kind = scheme.partition("+")[2]
    return hosts + slash + (path if _PATHS.get(kind, _PATHS["single"]).fullmatch(path) else HIDDEN) + options


def _is_host_and_port(text: str) -> bool:
    found = _HOST_AND_PORT.fullmatch(text)
    return found is not None and int(found[1] or 0) < 65536


def _shown_option(option: str) -> str:
    if not option or _SHOWN_OPTION.fullmatch(option):
        return option
    name, equals, _ = option.partition("=")
    return f"{name if name.isidentifier() and equals else HIDDEN}{equals}{HIDDEN if equals else ''}"


def _plain(options: Any) -> dict[str, Any]:
    if not all(map(str.isidentifier, options)):
        raise _URLError(_ESCAPES)  # most likely a part of a password
    return {key: value for key, value in options.items() if key not in ("host", "port", "connection_class")}


def _address(address: str, kind: Kind) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    try:
        port = parts.port
    except ValueError:
        raise _URLError("the port after the host is no number from 1 to 65535") from None
    if parts.hostname is None and kind != "single":
        raise _URLError("it names no host")
    if port == 0:
        raise _URLError("port 0 is none")
    return parts.hostname or "localhost", port if port is not None else _PORTS[kind]
