"""What the sink counts about itself, for Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RECORDS: Final = Counter(
    "weighbridge_sink_records_total", "Records of flushed ranges, by what became of them", ["outcome"]
)
DEAD_LETTERS: Final = Counter("weighbridge_sink_dead_letters_total", "Dead letters written", ["code"])
RANGES: Final = Counter("weighbridge_sink_ranges_total", "Ranges flushed", ["partition"])
STEP_SECONDS: Final = Histogram(
    "weighbridge_sink_step_seconds",
    "Time of each step of the protocol",
    ["step"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
STEP_CPU_SECONDS: Final = Counter(
    "weighbridge_sink_step_cpu_seconds_total", "Processor time of each step in its partition's thread", ["step"]
)
UNCLEAR: Final = Counter(
    "weighbridge_sink_unclear_total", "Steps whose answer was unclear and that were repeated", ["step"]
)
POSITION: Final = Gauge("weighbridge_sink_position_offset", "Up to which offset a partition is flushed", ["partition"])
INGEST_TIME: Final = Gauge(
    "weighbridge_sink_ingest_time_seconds", "Ingest time that a partition's flushes have reached", ["partition"]
)
REVISION: Final = Gauge("weighbridge_sink_registry_revision", "Newest registry revision known to this sink")
OWNED: Final = Gauge("weighbridge_sink_partitions_owned", "Partitions that this sink works on")
