"""Serve one data folder: `python -m deploy.local.clickhouse --data .weighbridge/clickhouse --port 8891`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

import uvicorn

from deploy.local.clickhouse.app import ClickHouseApp, CutOff
from deploy.local.clickhouse.connections import Connections

_GRACE_SECONDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="run_clickhouse", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8891)
    parser.add_argument("--check-config", action="store_true", help="validate the arguments and end")
    arguments = parser.parse_args()
    if arguments.check_config:
        return 0
    # The engine cuts days and months by the process's time zone; a server of ours runs in UTC.
    os.environ["TZ"] = "UTC"
    arguments.data.mkdir(parents=True, exist_ok=True)
    try:
        connections = Connections(str(arguments.data.absolute()))
    except RuntimeError as error:
        first_line = str(error).splitlines()[0]
        print(f"weighbridge: ClickHouse can't open {arguments.data}: {first_line}", file=sys.stderr)  # noqa: T201
        return 3
    app = ClickHouseApp(connections)
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    # uvicorn ends on the signal and then raises it again, for the handlers before its own; the engine must still end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    uvicorn.Server(config).run()
    app.close()
    return 0


def _is_news(record: logging.LogRecord) -> bool:
    """Not the way in which an answer is cut off: the client was told why."""
    return not (record.exc_info and isinstance(record.exc_info[1], CutOff))


if __name__ == "__main__":
    sys.exit(main())
