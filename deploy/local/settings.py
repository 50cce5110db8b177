"""Settings of the local stack, from the environment (prefix `WEIGHBRIDGE_`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.engines.ports import HOST, Ports
from deploy.local.errors import SettingsInvalid


class StackSettings(BaseSettings):
    """Where one stack lives and listens. Two stacks need different homes and ports."""

    model_config = SettingsConfigDict(env_prefix="WEIGHBRIDGE_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".weighbridge"), description="state of the stack: data, pids, logs")
    api_host: str = HOST
    api_port: int = Field(default=8888, ge=1, le=65535)
    postgres_port: int = Field(default=8890, ge=1, le=65535)
    clickhouse_port: int = Field(default=8891, ge=1, le=65535)
    kafka_port: int = Field(default=8892, ge=1, le=65535)
    kafka_controller_port: int | None = Field(default=None, ge=1, le=65535, description="the one after Kafka's")
    sink_metrics_port: int = Field(default=8894, ge=1, le=65535)
    balances_metrics_port: int = Field(default=8895, ge=1, le=65535)
    billing_metrics_port: int = Field(default=8896, ge=1, le=65535)
    start_timeout_seconds: float = Field(default=120, gt=0, description="of processes; engines have 180 s")

    @property
    def engine_ports(self) -> Ports:
        return Ports(
            postgres=self.postgres_port,
            clickhouse=self.clickhouse_port,
            kafka=self.kafka_port,
            kafka_controller=self.kafka_controller_port or self.kafka_port + 1,
        )

    @property
    def api_url(self) -> str:
        return f"http://{self.api_host}:{self.api_port}"


def load_settings() -> StackSettings:
    """From the environment; raises `SettingsInvalid` with the first setting that can't be read."""
    try:
        return StackSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(["WEIGHBRIDGE", *map(str, first["loc"])]).upper()
        raise SettingsInvalid(f"{name}: {first['msg']} (it is {first['input']!r})") from error
