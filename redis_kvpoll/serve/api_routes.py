"""The addresses for machines: ``/metrics``, the probes, and ``/api/...``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from redis_kvpoll.errors import CorruptEntryError, KVPollError
from redis_kvpoll.serve import json_api, layout
from redis_kvpoll.serve.actions import ACTIONS
from redis_kvpoll.serve.service import Service, read_body

DEFAULT_LIMIT = 100


class ApiRoutes:
    """The functions behind the addresses for machines."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterable[Route]:
        """Return all addresses."""
        yield Route("/metrics", self.metrics)
        yield Route("/healthz", self.healthz)
        yield Route("/readyz", self.readyz)
        for name in ("session", "namespaces", "stats", "seconds", "rooms", "owners", "doctor"):
            yield Route(f"/api/{name}", getattr(self, name))
        yield Route("/api/rooms/{room}", self.room)
        for action in ACTIONS:
            yield Route(f"/api/rooms/{{room}}/{action}", self._act(action), methods=["POST"])

    async def metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._service.registry), 200, {"content-type": content_type})

    async def healthz(self, request: Request) -> Response:
        """Whether this process runs; Redis does not matter, since a restart would not help."""
        if self._service.is_hung():
            return PlainTextResponse("hung\n", 503)
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Whether the numbers are current."""
        reasons = self._service.unready()
        if reasons:
            return PlainTextResponse(f"not ready: {'; '.join(reasons)}\n", 503)
        return PlainTextResponse("ready\n")

    async def session(self, request: Request) -> Response:
        can_act = self._service.actions is not None
        return JSONResponse({"user": request.state.user, "build": layout.build(), "actions": can_act})

    async def namespaces(self, request: Request) -> Response:
        return JSONResponse(json_api.namespaces(self._service.watches))

    async def stats(self, request: Request) -> Response:
        return JSONResponse(json_api.stats(self._service.page(request).watch))

    async def seconds(self, request: Request) -> Response:
        """What happened in each of the last seconds."""
        statistics = self._service.page(request).watch.statistics
        found = statistics.seconds(_number(request, "count", 60)) if statistics else []
        return JSONResponse([json_api.plain(second) for second in found])

    async def rooms(self, request: Request) -> Response:
        limit = _number(request, "limit", DEFAULT_LIMIT)
        return JSONResponse(await json_api.rooms(self._service.page(request), limit))

    async def owners(self, request: Request) -> Response:
        return JSONResponse(json_api.owners(self._service.page(request).watch))

    async def doctor(self, request: Request) -> Response:
        return JSONResponse(json_api.doctor(self._service.page(request).watch, self._service.server))

    async def room(self, request: Request) -> Response:
        page = self._service.page(request)
        room = page.room or 0
        try:
            entry = await page.watch.store.entry(room)
            changes = await page.watch.changes.read(entry) if entry else []
        except CorruptEntryError as error:
            return JSONResponse({"error": str(error)}, 422)
        except KVPollError as error:
            return JSONResponse({"error": str(error)}, 503)
        if entry is None:
            return JSONResponse({"error": f"room {room} is not in the table"}, 404)
        return JSONResponse(json_api.room(entry, changes, page.watch.now()))

    def _act(self, action: str) -> Any:
        async def respond(request: Request) -> Response:
            actions = self._service.actions
            if actions is None:
                return JSONResponse({"error": "kvpoll serve runs without --allow-actions"}, 403)
            page = self._service.page(request)
            form = _form(await read_body(request))
            if form is None:
                return JSONResponse({"error": 'the body is JSON: {"confirm": ROOM, "reason": TEXT}'}, 400)
            who = request.state.user or f"someone at {request.client.host if request.client else 'this machine'}"
            answer = await actions.act(action, page.watch.name, page.room or 0, who, form)
            return JSONResponse({"result" if answer.status == 200 else "error": answer.text}, answer.status)

        return respond


def _form(body: bytes) -> dict[str, str] | None:
    """Return the fields of a JSON object, as text; None if the body is none."""
    try:
        content = json.loads(body)
        return {name: str(value) for name, value in content.items()} if isinstance(content, dict) else None
    except (ValueError, RecursionError):  # the latter for a thousand brackets
        return None


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise HTTPException(400, f"{name}: {text[:80]!r} is not a whole number")
    return int(text[:9])  # more than there can be
