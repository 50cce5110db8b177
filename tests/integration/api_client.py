"""A client of an application in this process, for tests without async: the application runs in a loop of its own."""

import asyncio
import threading
from collections.abc import Coroutine
from functools import partialmethod
from typing import Any, Self

import httpx

from api.app import WeighbridgeApp

_DEADLINE_SECONDS = 60


class ApiClient:
    """Runs the lifespan while it is open; `get`, `post`, `put` and `delete` are httpx's."""

    def __init__(self, app: WeighbridgeApp) -> None:
        self.app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://api")
        self._life = app.router.lifespan_context(app)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._life.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self.run(self._life.__aexit__(None, None, None))
        self.run(self._http.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_SECONDS)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do `work` in the application's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE_SECONDS)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self._http.request(method, path, **options))

    get = partialmethod(request, "GET")
    post = partialmethod(request, "POST")
    put = partialmethod(request, "PUT")
    delete = partialmethod(request, "DELETE")
