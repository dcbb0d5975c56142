"""The ASGI application of ``kvpoll serve``."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from redis_kvpoll.serve import layout
from redis_kvpoll.serve.api_routes import ApiRoutes
from redis_kvpoll.serve.guard import Guard
from redis_kvpoll.serve.page_routes import PageRoutes
from redis_kvpoll.serve.service import Service


def make_app(service: Service) -> Guard:
    """Return the application over a service, which runs while the application does."""

    def lifespan(app: Starlette) -> AbstractAsyncContextManager[None]:
        return service.running()

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        root = service.config.root
        page = layout.message(service.config, f"Error {error.status_code}", error.detail, f"{root}/")
        return HTMLResponse(page, error.status_code, error.headers)

    routes = [*PageRoutes(service).routes(), *ApiRoutes(service).routes()]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refuse})
    guard = Guard(app, service.config, service.credentials)
    app.state.guard = guard
    return guard
