"""The demo's view of the HTTP API: a thin client that says which call failed, and why."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from metering.domain.errors import Conflict, InvalidInput, NotFound, Unavailable

_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_RETRY_SECONDS = 60


class Api:
    """The API at `url`. Calls that a busy or restarting server refuses are made again, for a minute at most."""

    def __init__(self, url: str, *, connections: int = 8) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(base_url=url, timeout=30, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **parameters: Any) -> Any:
        """The decoded answer of a GET; numbers with a point are Decimals."""
        return await self._call("GET", path, params=parameters)

    async def post(self, path: str, body: Mapping[str, Any] | Sequence[Any]) -> Any:
        """The decoded answer of a POST of JSON."""
        return await self._call("POST", path, content=msgspec.json.encode(body))

    async def create(self, path: str, body: Mapping[str, Any], *, existing: str) -> Any:
        """POST, or where such an object is there already (409), GET `existing`."""
        try:
            return await self.post(path, body)
        except Conflict:
            return await self.get(existing)

    async def send(self, events: bytes) -> None:
        """Post a batch of CloudEvents; it comes back when all of it is acknowledged."""
        headers = {"Content-Type": "application/cloudevents-batch+json"}
        await self._call("POST", "/api/v1/events", content=events, headers=headers)

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        if "content" in request:
            request.setdefault("headers", {"Content-Type": "application/json"})
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((Unavailable, httpx.TransportError)),
            stop=stop_after_delay(_RETRY_SECONDS),
            wait=wait_exponential_jitter(0.1, 2),
            reraise=True,
        ):
            with attempt:
                answer = await self._http.request(method, path, **request)
                if answer.is_success:
                    return _DECODER.decode(answer.content) if answer.content else None
                raise _error(method, path, answer)
        raise AssertionError


def _error(method: str, path: str, answer: httpx.Response) -> Exception:
    text = f"{method} {path}: {answer.status_code} {answer.text[:500]}"
    match answer.status_code:
        case 404:
            return NotFound(text)
        case 409:
            return Conflict(text)
        case 503:
            return Unavailable(text)
        case _:
            return InvalidInput(text)
