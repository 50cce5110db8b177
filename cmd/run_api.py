"""Run one API process: ingest, balance checks, REST, and the relay of the outbox."""

import argparse
import sys

import structlog
import uvicorn
from pydantic import ValidationError

from api.app import create_app
from api.settings import ApiSettings
from ingest.limits import IngestSettings
from metering.domain.errors import InvalidInput
from metering.observability import configure_logging
from metering.postgres.predefined import read_meters_file


def main() -> int:
    parser = argparse.ArgumentParser(prog="run_api", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="validate the settings and exit")
    arguments = parser.parse_args()
    try:
        settings, ingest = ApiSettings(), IngestSettings()
        if settings.meters_file is not None:
            read_meters_file(settings.meters_file)
    except (ValidationError, InvalidInput) as error:
        print(f"api: settings: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if arguments.check_config:
        return 0
    configure_logging("api", settings.log_level)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, ingest),
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
            timeout_graceful_shutdown=settings.api_shutdown_seconds,
        )
    )
    try:
        server.run()
    except OSError as error:
        structlog.get_logger().error("api_stopped", detail=str(error))
        return 1
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
