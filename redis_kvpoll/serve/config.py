"""What ``kvpoll serve`` was told to do, checked before anything listens."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.serve.credentials import User

DEFAULT_PORT = 9464
TEMPLATE_FIELDS = ("namespace", "room", "room_hex", "request")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """The options of one process. ``checked`` refuses those that would let strangers in."""

    url: str
    namespaces: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    users: tuple[User, ...] = ()
    metrics_tokens: tuple[User, ...] = ()
    no_auth: bool = False
    allow_actions: bool = False
    actions_url: str | None = None
    """The URL of a Redis user who may write; used by actions alone."""
    public_url: str = ""
    """Where a reverse proxy offers the page, with the path of its root."""
    stuck_after: float = 60.0
    max_owners: int = 200
    log_url: str = ""
    trace_url: str = ""

    @property
    def root(self) -> str:
        """The path that all links begin with: "" or "/kvpoll"."""
        return urlsplit(self.public_url).path.rstrip("/")

    @property
    def is_https(self) -> bool:
        return urlsplit(self.public_url).scheme == "https"

    @property
    def public_host(self) -> str:
        """The host and port of the public URL; "" without one."""
        return urlsplit(self.public_url).netloc.lower()

    @property
    def public_name(self) -> str:
        """The host of the public URL; "" without one."""
        return urlsplit(self.public_url).hostname or ""

    @property
    def way_in(self) -> str:
        """The option by which other machines reach the page; "" if only this one does."""
        if not is_loopback(self.host):
            return f"--host {self.host}"
        return f"--public-url {self.public_url}" if self.public_url else ""

    def checked(self) -> ServeConfig:
        """Return these options, or raise InvalidInputError."""
        if not self.namespaces:
            raise InvalidInputError("serve: name a namespace")
        for name in self.namespaces:
            validation.namespace(name)
        if self.public_url and not (_is_web(self.public_url) and self.public_name):
            raise InvalidInputError(f"--public-url {self.public_url!r} is not an http:// or https:// URL")
        _check_host(self.host)
        self._check_access()
        for option, template in (("--log-url", self.log_url), ("--trace-url", self.trace_url)):
            _check_template(option, template)
        return self

    def _check_access(self) -> None:
        is_open = not self.users
        if self.no_auth and not is_open:
            raise InvalidInputError("--no-auth contradicts --password-file and --token-file")
        if is_open and not self.no_auth and self.way_in:
            raise InvalidInputError(
                f"with {self.way_in} other machines reach the page: pass --password-file or --token-file, "
                "or --no-auth to show the tables to everyone who can connect"
            )
        if self.allow_actions and not self.actions_url:
            raise InvalidInputError(
                "--allow-actions needs --actions-redis, the URL of a Redis user who may write; "
                "the page itself reads with --redis, whose user needs no such rights"
            )
        if self.allow_actions and is_open and self.way_in:
            raise InvalidInputError(
                f"--allow-actions with --no-auth and {self.way_in} would let everyone who can connect fail rooms: "
                "pass --password-file or --token-file"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address. A name other than localhost may be any address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_host(host: str) -> None:
    """Refuse what no resolver takes: uvicorn ends with a traceback at it."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise InvalidInputError(f"--host {host!r} is not an address or a host name") from None


def _check_template(option: str, template: str) -> None:
    if not template:
        return
    if not _is_web(template):
        raise InvalidInputError(f"{option} {template!r} is not an http:// or https:// URL")
    unknown = [name for name in re.findall(r"{([^}]*)}", template) if name not in TEMPLATE_FIELDS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in TEMPLATE_FIELDS)
        raise InvalidInputError(f"{option}: {{{unknown[0]}}} is not known; there are {known}")
    try:  # as a room's page does
        template.format(**dict.fromkeys(TEMPLATE_FIELDS, ""))
    except (ValueError, LookupError) as error:
        raise InvalidInputError(f"{option} {template!r} is not a template: {error}") from None


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:  # a bracket that is open
        return False
