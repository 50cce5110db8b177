"""The API process with two paths more, which are the limits of its fast paths: the same server, doing nothing.

`/constant` answers 204 at once to any request, `/constant-balance` a balance that never changes.
"""

import uvicorn
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.settings import ApiSettings
from metering.observability import configure_logging

_BALANCE = b'{"hasAccess":true,"balance":999999.5,"usage":0.5,"overage":0}'
_NO_CONTENT = {"type": "http.response.start", "status": 204, "headers": []}
_OK = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BALANCE))],
}


def main() -> None:
    settings = ApiSettings()
    configure_logging("api", settings.log_level)
    product = create_app(settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if path == "/constant":
            await receive()
            await send(_NO_CONTENT)
            await send({"type": "http.response.body", "body": b""})
        elif path == "/constant-balance":
            await send(_OK)
            await send({"type": "http.response.body", "body": _BALANCE})
        else:
            await product(scope, receive, send)

    # As cmd/run_api.py does.
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=settings.api_backlog,
    )


if __name__ == "__main__":
    main()
