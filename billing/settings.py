"""Settings of the billing worker, and of whoever opens invoices."""

from datetime import timedelta

from pydantic import Field

from metering.settings import EngineSettings


class InvoicingSettings(EngineSettings):
    """What all who open invoices must agree on."""

    billing_grace_seconds: int = Field(
        default=300, ge=0, le=30 * 86400, description="how long after a period's end its events may still come"
    )

    @property
    def grace(self) -> timedelta:
        return timedelta(seconds=self.billing_grace_seconds)


class BillingSettings(InvoicingSettings):
    """The worker's."""

    billing_metrics_host: str = "127.0.0.1"
    billing_metrics_port: int = Field(default=8896, ge=0, le=65535)
    billing_concurrency: int = Field(default=4, ge=1, le=64, description="jobs at a time in one worker")
