"""Metrics of the ingest endpoint. Kafka's part is in `metering.kafka.producer`."""

from typing import Final

from prometheus_client import Counter

ACCEPTED: Final = Counter("weighbridge_ingest_events_accepted_total", "Events answered with 204.")
REFUSED: Final = Counter(
    "weighbridge_ingest_requests_refused_total", "Requests answered with anything else, by reason.", ("reason",)
)
