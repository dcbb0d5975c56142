"""The pages as addresses: each page, its events, the search, the log-in, and the forms that act."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from redis_kvpoll import validation
from redis_kvpoll.serve import layout
from redis_kvpoll.serve.actions import ACTIONS
from redis_kvpoll.serve.credentials import SESSION_SECONDS
from redis_kvpoll.serve.guard import cookie_name
from redis_kvpoll.serve.hub import HubFullError
from redis_kvpoll.serve.screens import SCREENS, TABS
from redis_kvpoll.serve.screens.base import Page, Screen
from redis_kvpoll.serve.service import Service, read_form
from redis_kvpoll.serve.watch import USE_COMMAND

STATIC_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
A_YEAR = 365 * 24 * 3600
REFUSALS = {
    401: "This name and password do not match.",
    429: "Too many wrong passwords came from your address: wait ten seconds. This one was not looked at.",
}


class PageRoutes:
    """The functions behind the addresses of pages."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config

    def routes(self) -> Iterable[Route]:
        """Return all addresses."""
        room = SCREENS[-1]
        for tab in TABS:
            yield Route(tab.path, self._page(tab))
        yield Route(f"{room.path}/{{room}}", self._page(room))
        for action in ACTIONS:
            yield Route(f"{room.path}/{{room}}/{action}", self._act(action), methods=["POST"])
        yield Route("/events", self.events)
        yield Route("/find", self.find)
        yield Route("/login", self.login, methods=["GET", "POST"])
        yield Route("/logout", self.logout, methods=["POST"])
        yield Route("/static/{build}/{name}", self.static)

    def _page(self, screen: Screen) -> Any:
        async def respond(request: Request) -> Response:
            return await self._show(screen, self._service.page(request), request.state.user)

        return respond

    async def _show(self, screen: Screen, page: Page, user: str, said: str = "", status: int = 200) -> Response:
        return HTMLResponse(layout.page_of(page, screen, await screen.view(page), user, said), status)

    async def events(self, request: Request) -> Response:
        """The Views of a page, as server-sent events."""
        try:
            address = urlsplit(request.query_params.get("page", "/"))
        except ValueError:
            return PlainTextResponse("no such page\n", 404)
        screen, room = _screen_at(address.path)
        if screen is None:
            return PlainTextResponse("no such page\n", 404)
        query = dict(parse_qsl(address.query)) | {"n": request.query_params.get("n", "")}
        page = self._service.page_of(query, room)
        key = f"{page.watch.name} {layout.address(page, screen)}"

        async def render() -> bytes:
            return (await screen.view(page)).encoded(layout.build())

        if request.method == "HEAD":  # else it would be a stream that nobody reads
            return Response(media_type="text/event-stream")
        try:
            self._service.hub.check_room(key)
        except HubFullError:
            return PlainTextResponse("too many viewers\n", 503, {"retry-after": "10"})
        headers = {"x-accel-buffering": "no"}  # else nginx would wait for more
        stream = self._service.hub.stream(key, render, request.state.until)
        return StreamingResponse(stream, 200, headers, "text/event-stream")

    async def find(self, request: Request) -> Response:
        """Leads to the room that has a number or a request."""
        page = self._service.page(request)
        wanted = page.query.get("q", "").strip()
        number = validation.room_in_text(wanted)
        if number is not None:
            return RedirectResponse(page.room_link(number), 303)
        if not wanted:
            return RedirectResponse(page.link("/"), 303)
        found = await page.watch.find(wanted)
        if len(found.entries) == 1:
            return RedirectResponse(page.room_link(found.entries[0].room), 303)
        is_known = found.unread in ("", USE_COMMAND)
        return HTMLResponse(layout.found(page, wanted, found), 200 if found.entries else 404 if is_known else 503)

    def _act(self, action: str) -> Any:
        async def respond(request: Request) -> Response:
            actions = self._service.actions
            if actions is None:
                return PlainTextResponse("this page only looks: kvpoll serve runs without --allow-actions\n", 403)
            page = self._service.page(request)
            who = request.state.user or f"someone at {request.client.host if request.client else 'this machine'}"
            answer = await actions.act(action, page.watch.name, page.room or 0, who, await read_form(request))
            return await self._show(SCREENS[-1], page, request.state.user, answer.text, answer.status)

        return respond

    async def login(self, request: Request) -> Response:
        """Asks for a name and a secret, and begins a session."""
        credentials, root = self._service.credentials, self._config.root
        if not credentials:
            return RedirectResponse(f"{root}/", 303)
        if request.method != "POST":
            return HTMLResponse(layout.login(self._config, _own_path(request.query_params.get("next", "/"))))
        form = await read_form(request)
        goal = _own_path(form.get("next", "/"))
        check = partial(credentials.check, form.get("secret", ""), form.get("name", "").strip())
        user = await request.app.state.guard.user_or_refusal(request.scope, "the page", check)
        if isinstance(user, Response):
            return HTMLResponse(layout.login(self._config, goal, REFUSALS[user.status_code]), user.status_code)
        response = RedirectResponse(root + goal, 303)
        response.set_cookie(
            cookie_name(self._config, request.headers),
            credentials.start_session(user, time.time()),
            max_age=SESSION_SECONDS,
            path=root or "/",
            secure=self._config.is_https,
            httponly=True,
            samesite="strict",
        )
        return response

    async def logout(self, request: Request) -> Response:
        response = RedirectResponse(f"{self._config.root}/login", 303)
        response.delete_cookie(cookie_name(self._config, request.headers), path=self._config.root or "/")
        return response

    async def static(self, request: Request) -> Response:
        """A script or style; its address changes with its content, so that it may be kept for ever."""
        name = request.path_params["name"]
        content = layout.static_files().get(name)
        if content is None:
            return PlainTextResponse("no such file\n", 404)
        is_current = request.path_params["build"] == layout.build()
        keep = f"public, max-age={A_YEAR}, immutable" if is_current else "no-store"
        return Response(content, 200, {"cache-control": keep}, STATIC_TYPES[name.rpartition(".")[2]])


def _screen_at(path: str) -> tuple[Screen | None, str | None]:
    """Return the page at a path, and the part that names a room."""
    for screen in TABS:
        if screen.path == path:
            return screen, None
    start, _, room = path.rpartition("/")
    return (SCREENS[-1], room) if start == SCREENS[-1].path else (None, None)


def _own_path(path: str) -> str:
    """Return a path of this site, whatever the address says."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"
