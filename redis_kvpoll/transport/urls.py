"""A store's URL, parsed. Nothing is opened here.

Invariant: no message shows a password. To add a scheme: give it a Kind, its form in SCHEMES, and a branch in
``transport_from_url`` of sync and aio.
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
                raise ValueError(f"nothing may follow {scheme}://")
            return Target(scheme, shown=shown)  # type: ignore[arg-type]
        base, _, kind = scheme.replace("valkey", "redis", 1).partition("+")
        if not separator or base not in ("redis", "rediss", "unix") or (base == "unix" and kind):
            raise ValueError(f"it must start with one of {SCHEMES}")
        if kind not in ("", "sentinel", "cluster"):
            raise ValueError(f"it must start with one of {SCHEMES}")
        return _servers(base, kind or "single", rest, shown)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidInputError(f"URL {shown}: {error}") from None


def _servers(base: str, kind: Kind, rest: str, shown: str) -> Target:
    if base == "unix":
        options = parse_url(f"unix://{rest}")
        if not options.get("path") or urlsplit(f"//{rest}").hostname:
            raise ValueError("it names no absolute path to a socket: unix:///path/to/redis.sock")
        return Target(kind, options=_plain(options), shown=shown)
    # Where an unencoded password ends is a guess; a wrong one would show half of it as a host or a database.
    if re.search(r"[/?#\s]", rest.rpartition("@")[0]) or "#" in rest or re.search(r"\s", rest):
        raise ValueError("write / ? # @ and blanks inside it as %2F %3F %23 %40 %20")
    where, _, query = rest.partition("?")
    authority, _, path = where.partition("/")
    user, at, addresses = authority.rpartition("@")
    hosts = tuple(_address(address, kind) for address in addresses.split(","))
    if len(hosts) > 1 and kind == "single":
        raise ValueError("more than one host takes redis+sentinel:// or redis+cluster://")
    service, path = _path(kind, path)
    # redis-py's parser reads the user and the options. It takes one host, so it gets a placeholder.
    options = _plain(parse_url(f"{base}://{user}{at}host/{path}?{query}"))
    if "path" in options:
        raise ValueError("it has an option 'path', which is for unix:// alone")
    if kind == "cluster" and options.pop("db", 0):
        raise ValueError("a cluster has only database 0")
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
            raise ValueError("it names no service: redis+sentinel://host:port/service/db")
    if path and not path.isdecimal():
        raise ValueError(f"the database is a number, not {path!r}")
    return service, path


def _for_sentinels(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the Sentinels' options and return them; TLS is for them and for the servers."""
    names = [name for name in options if name.startswith("sentinel_")]
    taken = {name.removeprefix("sentinel_"): options.pop(name) for name in names}
    return taken | ({"ssl": True} if "ssl" in options else {})


def _without_secrets(url: str) -> str:
    """Return the URL without user and password, wherever they are."""
    hidden = re.sub(r"(://(?!/)|^(?!.*://)).*@", r"\1***@", url, flags=re.DOTALL)
    # A word in the place of a port may be a password whose @host was forgotten.
    hidden = re.sub(r"(://[^/?#@,]*[^/?#@,:\[\]]?:)(?!\d*(?:[/?#,]|$))(?![^/?#]*\])[^/?#,]*", r"\1***", hidden)
    return printable(re.sub(r"((?:^|[?&])[^=&]*(?:password|username)[^=&]*=)[^&]*", r"\1***", hidden))


def _plain(options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in ("host", "port", "connection_class")}


def _address(address: str, kind: Kind) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    try:
        port = parts.port
    except ValueError:
        # Not quoted: without an @ it may be a password.
        host = address.rpartition(":")[0]
        raise ValueError(f"the port after {host!r} is no number from 1 to 65535") from None
    if parts.hostname is None and kind != "single":
        raise ValueError("it names no host")
    if port == 0:
        raise ValueError("port 0 is none")
    return parts.hostname or "localhost", port if port is not None else _PORTS[kind]
