"""Settings of the API process."""

from typing import Literal

from pydantic import Field

from billing.settings import InvoicingSettings


class ApiSettings(InvoicingSettings):
    """What one API process needs beyond where the engines are."""

    api_host: str = Field(default="127.0.0.1")
    api_port: int = Field(default=8888, ge=0, le=65535)
    api_postgres_pool: int = Field(default=10, ge=1, le=200, description="connections a process")
    api_body_bytes_max: int = Field(default=1024 * 1024, ge=1024, description="of a request other than ingest")
    answer_from: Literal["usage", "events"] = Field(
        default="usage", description="events: answer usage from raw events, slowly, to compare the two"
    )
    api_backlog: int = Field(default=2048, ge=1, description="connections that may wait to be accepted")
    api_shutdown_seconds: int = Field(default=10, ge=1, description="how long requests may take to end at a stop")
    reserved_event_types: tuple[str, ...] = Field(
        default=(), description="shell-like patterns of event types that no meter may have, as a JSON list"
    )
