"""Who may call what: the outermost layer of the application.

Three realms. The probes are open, since a kubelet sends no credentials, and say nothing about the data. ``/metrics``
has a token of its own, or none. All else needs a user, if there are any; without users, only this machine reaches the
process (or it was told ``--no-auth``).

Invariants:

- A request that may change something comes from this origin, or from no browser.
- Without users, a name other than this machine's own is refused, so that no page of another site can read the tables
  through a name that it points at loopback.
- No secret is compared before ``Guesses`` allows it for the client's address.
- Every answer has the headers of HEADERS: scripts and styles come from here alone, and text cannot become markup.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_kvpoll.serve.config import ServeConfig, is_loopback
from redis_kvpoll.serve.credentials import Credentials
from redis_kvpoll.serve.guesses import Guesses

PROBES = ("/healthz", "/readyz")
OPEN = ("/login", *PROBES)
STATIC = "/static/"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer a browser sends a form with "Origin: null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
# A cookie with SameSite=Strict is not sent when a link of another site leads here. This page is this site: the
# browser sends it with the next request.
_AGAIN = '<!doctype html><html lang="en"><title>kvpoll</title><meta http-equiv="refresh" content="0"><p>Loading …</p>'

log = logging.getLogger(__name__)


class Guard:
    """An ASGI application around another.

    It puts the user's name into ``scope["state"]["user"]``, and when the session ends, or None, into ``["until"]``.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, credentials: Credentials) -> None:
        self._app = app
        self._config = config
        self._credentials = credentials
        self._metrics = Credentials(config.metrics_tokens)
        self._guesses, self._metrics_guesses = Guesses(), Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = await self._check(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _check(self, scope: Scope) -> Response | None:
        """Return the answer that refuses a request, or None."""
        path, headers = scope["path"], Headers(scope=scope)
        if path in PROBES:
            return None
        if not self._is_own_name(headers.get("host", "")):
            return PlainTextResponse("unknown Host header; see --public-url\n", 421)
        if scope["method"] not in ("GET", "HEAD") and not self._is_same_origin(headers):
            return PlainTextResponse("a request from another site\n", 403)
        if path == "/metrics":
            return await self._check_metrics(scope, headers)
        if path in OPEN or path.startswith(STATIC):
            return None
        return await self._check_user(scope, headers)

    async def _check_metrics(self, scope: Scope, headers: Headers) -> Response | None:
        if not self._metrics:
            return None
        check = partial(self._metrics.check_header, headers.get("authorization", ""))
        found = await _user_or_refusal(self._metrics_guesses, scope, "metrics", check)
        return found if isinstance(found, Response) else None

    async def _check_user(self, scope: Scope, headers: Headers) -> Response | None:
        state = scope.setdefault("state", {})
        state["user"], state["until"] = "", None
        if not self._credentials:
            return None
        if authorization := headers.get("authorization"):
            found = await self.user_or_refusal(scope, "kvpoll", partial(self._credentials.check_header, authorization))
            if isinstance(found, Response):
                return found
            state["user"] = found
            return None
        cookie = self._session(headers)
        state["user"] = self._credentials.check_session(cookie, time.time()) or ""
        if state["user"]:
            state["until"] = self._credentials.session_ends_at(cookie)
            # A browser says where a change comes from. One that does not is too old to keep cookies to this site.
            if scope["method"] in ("GET", "HEAD") or "origin" in headers:
                return None
            return PlainTextResponse("a change needs an Origin header\n", 403)
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            if not cookie and headers.get("sec-fetch-site") == "cross-site":
                return Response(_AGAIN, media_type="text/html")
            query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            return RedirectResponse(f"{self._config.root}/login?next={quote(scope['path'] + query)}", 303)
        return _unauthorized("kvpoll")

    async def user_or_refusal(self, scope: Scope, realm: str, check: Callable[[], str | None]) -> str | Response:
        """Return the user that ``check`` finds by a secret, or the answer to a wrong one, after a pause.

        All secrets of users are compared here. A session's cookie is none: it cannot be guessed.
        """
        return await _user_or_refusal(self._guesses, scope, realm, check)

    def _session(self, headers: Headers) -> str:
        # SimpleCookie finds nothing beside a cookie that another program of this host has set in its own way.
        return cookie_parser(headers.get("cookie", "")).get(cookie_name(self._config, headers), "")

    def _is_own_name(self, host: str) -> bool:
        if self._credentials or not is_loopback(self._config.host):
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # no name at all
            return False
        # Without the port, which a proxy may leave out: another site can have its name point here, but not have ours.
        return is_loopback(name) or name in {self._config.public_name} - {""}

    def _is_same_origin(self, headers: Headers) -> bool:
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        try:
            return urlsplit(origin).netloc.lower() in {headers.get("host", "").lower(), self._config.public_host} - {""}
        except ValueError:
            return False


def cookie_name(config: ServeConfig, headers: Headers) -> str:
    """Return the name of a session's cookie: it has the port, since browsers keep cookies by host alone.

    Else two ``kvpoll serve`` of one host, or two port-forwards, would end each other's sessions.
    """
    port = (config.public_host or headers.get("host", "")).rpartition(":")[2]
    return f"kvpoll_session_{port}" if port.isascii() and port.isdecimal() else "kvpoll_session"


async def _user_or_refusal(
    guesses: Guesses, scope: Scope, realm: str, check: Callable[[], str | None]
) -> str | Response:
    address = scope["client"][0] if scope.get("client") else ""
    if not guesses.may_try(address):
        text = "too many wrong credentials from this address; wait"
        return JSONResponse({"error": text}, 429, {"retry-after": "10"})
    if user := check():
        return user
    await guesses.failed(address)
    log.warning("a request with wrong credentials for %s", realm)
    return _unauthorized(realm)


def _unauthorized(realm: str) -> Response:
    return JSONResponse(
        {"error": "credentials needed: Authorization: Bearer TOKEN"},
        401,
        {"www-authenticate": f'Bearer realm="{realm}"'},
    )
