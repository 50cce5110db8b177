"""Requests whose JSON keeps every digit: numbers with a fraction or an exponent become Decimals."""

import json
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any, Final

import msgspec
from fastapi import Request, Response
from fastapi.routing import APIRoute

from metering.domain.errors import TooLarge

_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)


class ExactRequest(Request):
    """Reads its body at most once and up to a limit."""

    async def body(self) -> bytes:
        """The whole body; raises TooLarge."""
        if not hasattr(self, "_body"):
            limit = self.app.state.settings.api_body_bytes_max
            parts, size = [], 0
            async for part in self.stream():
                size += len(part)
                if size > limit:
                    raise TooLarge(f"the request body is larger than {limit} bytes")
                parts.append(part)
            self._body = b"".join(parts)
        return self._body

    async def json(self) -> Any:
        """The body decoded, without floats; raises json.JSONDecodeError."""
        body = await self.body()
        try:
            return _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class ExactRoute(APIRoute):
    """A route whose requests are ExactRequests. Give it to every router: `APIRouter(route_class=ExactRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def exact(request: Request) -> Response:
            return await handle(ExactRequest(request.scope, request.receive))

        return exact
