"""What a process tells about itself: JSON lines on stderr, and `/metrics`, `/healthz`, `/readyz` over HTTP.

The API serves those paths itself; the other processes call `serve_metrics`.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TextIO, cast

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

_SHARED: Final[list[Any]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _dumps(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


class _Lossy:
    """A stream that drops what can't be written: on a full disk a line may be lost, but not the work it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure_logging(process: str, level: str = "info") -> None:
    """Log JSON lines to stderr from here on, structlog's and the standard library's alike.

    Each line has `process`, `level`, `timestamp` (UTC) and `event`. `level` is debug, info, warning or error.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    stderr = cast("TextIO", _Lossy(sys.stderr))

    def name_process(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    structlog.configure(
        processors=[
            *_SHARED,
            name_process,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name, name_process],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_dumps),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


class MetricsServer:
    """A running metrics server; `close` ends it. `port` is the one it listens on."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(port: int, ready: Callable[[], bool], host: str = "127.0.0.1") -> MetricsServer:
    """Serve `/metrics`, `/healthz` (200 while the process lives) and `/readyz` (200 or 503, as `ready()` says).

    Runs in a thread of its own. Port 0 takes a free one. Raises OSError if the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds a client may be silent

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
                case "/healthz":
                    self._answer(200, b"ok\n")
                case "/readyz":
                    is_ready = ready()
                    self._answer(200 if is_ready else 503, b"ready\n" if is_ready else b"not ready\n")
                case _:
                    self._answer(404, b"not found\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: scrapes are not news."""

    server = ThreadingHTTPServer((host, port), Handler, bind_and_activate=False)
    server.daemon_threads = True
    server.allow_reuse_address = True
    try:
        server.server_bind()
        server.server_activate()
    except OSError:
        server.server_close()
        raise
    return MetricsServer(server)
