"""Every request has an id, in its log lines and in its problem; every request is counted and timed."""

from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, Final

import structlog
from prometheus_client import Histogram

from ingest.problems import request_id

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUESTS: Final = Histogram(
    "weighbridge_http_request_seconds",
    "Time to answer, by route, method and status; balance checks from memory and ingest have metrics of their own.",
    labelnames=("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_HEADER: Final = b"x-request-id"


class RequestContext:
    """ASGI middleware."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = request_id(dict(scope["headers"]))
        others = [pair for pair in scope["headers"] if pair[0] != _HEADER]
        scope["headers"] = [*others, (_HEADER, identity.encode())]
        status = "500"

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [*message.get("headers", ()), (_HEADER, identity.encode())]
            await send(message)

        began = perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=identity):
            try:
                await self._app(scope, receive, watched)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")
                REQUESTS.labels(scope["method"], route, status).observe(perf_counter() - began)
