"""Settings of the balances process, on top of those that every process needs."""

from pydantic import Field

from metering.settings import EngineSettings


class BalancesSettings(EngineSettings):
    """Membership of the Faust app. Prefix WEIGHBRIDGE_BALANCES_."""

    model_config = EngineSettings.model_config

    balances_instance: str = Field(
        default="balances-0",
        pattern=r"^[a-zA-Z0-9._-]+$",
        description="names this member of the group for good: another process of the same name takes its place at once",
    )
    balances_session_seconds: float = Field(default=6, ge=1, le=60, description="without a heartbeat it is out")
    balances_commit_seconds: float = Field(default=0.5, gt=0, description="between commits of input offsets")
    balances_metrics_port: int = Field(default=8895, ge=0, le=65535, description="0: a free one")
