"""The bounds of a request to the ingest endpoint."""

from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from metering.kafka.producer import ProducerLimits

NAME_CHARACTERS_MAX: Final = 1024  # id, source, type and subject, each
EVENT_BYTES_MAX: Final = 900_000  # of a record; below what brokers take without being configured
FINDINGS_MAX: Final = 100  # in one answer


class IngestSettings(BaseSettings):
    """Settings of the ingest endpoint, read from the environment."""

    model_config = SettingsConfigDict(env_prefix="WEIGHBRIDGE_INGEST_", frozen=True, extra="ignore")

    body_bytes_max: int = Field(default=10 * 1024 * 1024, ge=1024, description="of a body, as sent and decompressed")
    batch_events_max: int = Field(default=10_000, ge=1)
    in_flight_events_max: int = Field(default=200_000, ge=1, description="accepted and not yet acknowledged by Kafka")
    in_flight_bytes_max: int = Field(default=128 * 1024 * 1024, ge=1024)
    ack_timeout_seconds: float = Field(default=8.0, gt=0, description="after this the answer is 503")
    delivery_timeout_seconds: float = Field(default=10.0, gt=0, description="after this the producer gives up")
    linger_milliseconds: float = Field(default=1.0, ge=0, description="how long a record may wait for company")
    compression: str = Field(default="lz4", pattern=r"^(none|lz4|zstd|gzip|snappy)$")

    @property
    def producer_limits(self) -> ProducerLimits:
        return ProducerLimits(
            in_flight_records_max=self.in_flight_events_max,
            in_flight_bytes_max=self.in_flight_bytes_max,
            ack_timeout_seconds=self.ack_timeout_seconds,
            delivery_timeout_seconds=self.delivery_timeout_seconds,
            linger_milliseconds=self.linger_milliseconds,
            compression=self.compression,
        )
