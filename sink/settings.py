"""Settings of the sink process, on top of those that every process needs."""

from pathlib import Path

from pydantic import Field

from metering.settings import EngineSettings


class SinkSettings(EngineSettings):
    """How the sink batches, waits and keeps its dedupe store. Prefix WEIGHBRIDGE_SINK_."""

    model_config = EngineSettings.model_config

    sink_name: str = Field(
        default="sink",
        pattern=r"^[a-zA-Z0-9_-]+$",
        description="tells sinks apart that share a home; names the folder of their dedupe stores",
    )
    sink_group: str = Field(default="sink", description="consumer group, after the topic prefix; it only hints")
    sink_metrics_port: int = Field(default=8894, ge=0, le=65535, description="0: a free one")
    sink_flush_events: int = Field(default=25_000, ge=1, le=1_000_000)
    sink_flush_ms: int = Field(default=200, ge=1, le=60_000, description="how old a record may get before its flush")
    sink_prefetch_kilobytes: int = Field(default=16_384, ge=1024, description="bound of a partition's fetched records")
    sink_tick_seconds: float = Field(default=3, gt=0, description="a partition quiet for so long gets a tick record")
    sink_session_seconds: float = Field(default=10, ge=0.1, description="of the consumer group's membership")
    sink_retake_seconds: float = Field(
        default=10, ge=0.1, description="after which a fenced partition that is still assigned is taken again"
    )
    sink_registry_seconds: float = Field(default=0.2, gt=0)
    sink_backoff_seconds_max: float = Field(default=2, gt=0, description="between tries of a step that failed")
    dedupe_window_days: float = Field(default=32, gt=0)

    @property
    def dedupe_window_ms(self) -> int:
        return int(self.dedupe_window_days * 86_400_000)

    @property
    def dedupe_folder(self) -> Path:
        """One folder per topic and sink, with one store for each partition."""
        return self.home / "dedupe" / self.events_topic / self.sink_name
