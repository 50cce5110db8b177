"""The billing worker: issues invoices when they are due, and closes ingest hours. Ends on SIGTERM or SIGINT.

Exit code 0: asked to end; 1: an engine is away or its objects are missing; 2: the settings are not valid.
"""

import argparse
import logging
import sys
from datetime import UTC, datetime

import structlog
import uvloop
from pydantic import ValidationError

from billing.invoicing.clickhouse import ClickHouseReadings
from billing.jobs import Work, make_app
from billing.settings import BillingSettings
from metering.clickhouse.client import connect_async
from metering.clickhouse.usage import UsageStore
from metering.observability import configure_logging, serve_metrics
from metering.postgres.engine import async_engine

SHUTDOWN_SECONDS = 10


async def run(settings: BillingSettings) -> None:
    """Until a signal comes. A job that doesn't end in time is given up; it is found and done again."""
    is_ready = False
    metrics = serve_metrics(settings.billing_metrics_port, lambda: is_ready, settings.billing_metrics_host)
    postgres = async_engine(settings, application="billing")
    try:
        clickhouse = await connect_async(settings)
        readings = ClickHouseReadings(clickhouse, UsageStore(clickhouse, postgres, settings), settings)
        app = make_app(Work(settings, postgres, clickhouse, readings, lambda: datetime.now(UTC)))
        try:
            async with app.open_async():
                is_ready = await app.check_connection_async()
                await app.run_worker_async(
                    concurrency=settings.billing_concurrency,
                    delete_jobs="always",
                    install_signal_handlers=True,
                    shutdown_graceful_timeout=SHUTDOWN_SECONDS,
                )
        finally:
            is_ready = False
            await clickhouse.close()
    finally:
        await postgres.dispose()
        metrics.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="run_billing", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="validate the settings and exit")
    arguments = parser.parse_args()
    try:
        settings = BillingSettings()
    except ValidationError as error:
        print(f"billing: settings: {error}", file=sys.stderr)
        return 2
    if arguments.check_config:
        return 0
    configure_logging("billing", settings.log_level)
    logging.getLogger("procrastinate").setLevel(logging.WARNING)  # it tells of every job, every few seconds
    log = structlog.get_logger()
    try:
        uvloop.run(run(settings))
    except Exception as error:
        log.exception("the billing worker stops", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
