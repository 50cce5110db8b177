"""Settings of the processes, read from the environment (prefix `WEIGHBRIDGE_`) once, in `cmd/`, and passed down."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineSettings(BaseSettings):
    """Where the engines are and what their objects are called. Every process needs these."""

    model_config = SettingsConfigDict(env_prefix="WEIGHBRIDGE_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".weighbridge"), description="state of this machine: dedupe stores, logs, pids")
    kafka_bootstrap: str = Field(default="127.0.0.1:8892", description="host:port, comma separated")
    topic_prefix: str = Field(default="weighbridge.", pattern=r"^[a-zA-Z0-9._-]*$")
    event_partitions: int = Field(default=4, ge=1, le=1000, description="fixed for a generation of the events topic")
    balance_partitions: int = Field(default=4, ge=1, le=1000)
    topic_replication: int = Field(default=1, ge=1, le=9)
    postgres_url: SecretStr = Field(default=SecretStr("postgresql://weighbridge@127.0.0.1:8890/weighbridge"))
    clickhouse_url: SecretStr = Field(default=SecretStr("http://127.0.0.1:8891"))
    clickhouse_database: str = Field(default="weighbridge", pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")
    default_namespace: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-_]*$")
    meters_file: Path | None = Field(default=None, description="YAML list of meters to create when they are missing")
    log_level: str = Field(default="info", pattern=r"^(debug|info|warning|error)$")

    @property
    def events_topic(self) -> str:
        return f"{self.topic_prefix}events"

    @property
    def deltas_topic(self) -> str:
        return f"{self.topic_prefix}usage-deltas"

    @property
    def entitlements_topic(self) -> str:
        return f"{self.topic_prefix}entitlements"

    @property
    def balances_topic(self) -> str:
        return f"{self.topic_prefix}balances"

    @property
    def sqlalchemy_url(self) -> str:
        """The Postgres URL with the psycopg 3 driver named, for SQLAlchemy's sync and async engines."""
        return self.postgres_url.get_secret_value().replace("postgresql://", "postgresql+psycopg://", 1)
