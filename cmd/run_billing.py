"""The billing worker: issues invoices when they are due, and closes ingest hours. Runs until SIGTERM or SIGINT."""

import sys
from datetime import UTC, datetime

import uvloop

from billing.invoicing.clickhouse import ClickHouseReadings
from billing.jobs import Work, make_app
from billing.settings import BillingSettings
from metering.clickhouse.client import connect_async
from metering.clickhouse.usage import UsageStore
from metering.observability import configure_logging, serve_metrics
from metering.postgres.engine import async_engine


async def run(settings: BillingSettings) -> None:
    postgres = async_engine(settings, application="billing")
    clickhouse = await connect_async(settings)
    readings = ClickHouseReadings(clickhouse, UsageStore(clickhouse, postgres, settings), settings)
    app = make_app(Work(settings, postgres, clickhouse, readings, lambda: datetime.now(UTC)))
    is_ready = False
    metrics = serve_metrics(settings.billing_metrics_port, lambda: is_ready, settings.billing_metrics_host)
    try:
        async with app.open_async():
            is_ready = await app.check_connection_async()
            await app.run_worker_async(
                concurrency=settings.billing_concurrency,
                delete_jobs="always",
                install_signal_handlers=True,
                shutdown_graceful_timeout=10,
            )
    finally:
        is_ready = False
        metrics.close()
        await clickhouse.close()
        await postgres.dispose()


def main() -> None:
    settings = BillingSettings()
    if "--check-config" in sys.argv[1:]:
        print("ok")
        return
    configure_logging("billing", settings.log_level)
    uvloop.run(run(settings))


if __name__ == "__main__":
    main()
