"""The billing worker's jobs, run by procrastinate.

`billing.collect` runs on a schedule: it opens the invoices that are due and asks for one `billing.issue` job for each
whose cut is over. A job that is lost, doubled or killed does no harm: what is to be done stands in the tables, the next
round finds it, and issuing is idempotent. Job rows are deleted when done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import procrastinate
import structlog
from clickhouse_connect.driver.asyncclient import AsyncClient
from procrastinate.exceptions import AlreadyEnqueued
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from billing.invoicing.issue import Waiting, issue, open_due, waiting_invoices
from billing.invoicing.ports import Readings
from billing.postgres.migrate import JOBS_SCHEMA
from billing.settings import BillingSettings
from metering.clickhouse.closing import close_hours

COLLECT: Final = "* * * * * */5"  # the sixth field is the seconds
CLOSE: Final = "*/5 * * * *"
STALLED_SECONDS: Final = 60

ISSUED: Final = Counter("weighbridge_billing_invoices_issued_total", "Invoices issued by this worker.")
WAITED: Final = Counter(
    "weighbridge_billing_invoices_waiting_total", "Tries that found an invoice not ready.", ["reason"]
)
FAILED: Final = Counter("weighbridge_billing_jobs_failed_total", "Jobs that ended with an error.", ["task"])


@dataclass(frozen=True, slots=True)
class Work:
    """What the jobs work with. `clock` gives the time, in UTC."""

    settings: BillingSettings
    postgres: AsyncEngine
    clickhouse: AsyncClient
    readings: Readings
    clock: Callable[[], datetime]


def connector(settings: BillingSettings) -> procrastinate.PsycopgConnector:
    """A pool of connections that see procrastinate's tables."""
    return procrastinate.PsycopgConnector(
        conninfo=settings.postgres_url.get_secret_value(),
        kwargs={"options": f"-c search_path={JOBS_SCHEMA} -c timezone=UTC", "connect_timeout": 5},
        max_size=settings.billing_concurrency + 3,
    )


def make_app(work: Work) -> procrastinate.App:
    """The app with its tasks. Open it, then `run_worker_async`."""
    app = procrastinate.App(connector=connector(work.settings))

    @app.task(name="billing.issue")
    async def issue_invoice(invoice_id: str) -> None:
        await _issue(work, invoice_id)

    @app.periodic(cron=COLLECT)
    @app.task(name="billing.collect", queueing_lock="billing.collect", pass_context=False)
    async def collect(timestamp: int) -> None:  # noqa: ARG001 - procrastinate names the tick
        await collect_due(app, work)

    @app.periodic(cron=CLOSE)
    @app.task(name="billing.close_hours", queueing_lock="billing.close_hours")
    async def close(timestamp: int) -> None:  # noqa: ARG001
        with FAILED.labels("billing.close_hours").count_exceptions():
            await close_hours(work.clickhouse, work.postgres, work.settings, now=work.clock())

    return app


async def collect_due(app: procrastinate.App, work: Work) -> None:
    """Open what is due and ask for jobs that issue what can be issued."""
    with FAILED.labels("billing.collect").count_exceptions():
        await _forget_stalled(app)
        await open_due(work.postgres, grace=work.settings.grace, now=work.clock())
        for invoice_id in await waiting_invoices(work.postgres, now=work.clock()):
            await ask_to_issue(app, invoice_id)


async def ask_to_issue(app: procrastinate.App, invoice_id: str) -> None:
    """Ask for a job that issues an open invoice, unless one is waiting already."""
    try:
        job = app.configure_task("billing.issue", queueing_lock=f"billing.issue/{invoice_id}")
        await job.defer_async(invoice_id=invoice_id)
    except AlreadyEnqueued:
        return


async def _issue(work: Work, invoice_id: str) -> None:
    """Issue the invoice, and the subscription's next ones as far as they are ready."""
    following: list[str] = [invoice_id]
    while following:
        with FAILED.labels("billing.issue").count_exceptions():
            result = await issue(work.postgres, work.readings, following[0], now=work.clock())
        log = structlog.get_logger().bind(invoice=following[0])
        if isinstance(result, Waiting):
            WAITED.labels(result.reason).inc()
            log.debug("invoice_waits", reason=result.reason)
            return
        ISSUED.inc()
        log.info("invoice_issued", number=result.number, total=str(result.total), currency=result.currency)
        following = await waiting_invoices(
            work.postgres, now=work.clock(), subscription_id=result.subscription_id, limit=1
        )


async def _forget_stalled(app: procrastinate.App) -> None:
    """Remove the jobs of workers that died: the tables say what is still to do."""
    manager = app.job_manager
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
        await manager.finish_job(job, status=procrastinate.jobs.Status.FAILED, delete_job=True)
