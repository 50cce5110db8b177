"""One sink process over a topic that is full already, beside a process that only consumes, decodes and inserts."""

import time
from typing import Final

import httpx

from bench.events import BATCH, batch
from bench.load import Load, others, request, run_load
from bench.processes import run_python
from bench.product import Product, product
from bench.row import Bench, Result, Row
from metering.clickhouse.client import connect
from metering.settings import EngineSettings

_TIMEOUT_SECONDS: Final = 600
_METERS: Final[tuple[dict[str, object], ...]] = (
    {"slug": "requests", "aggregation": "COUNT"},
    {"slug": "tokens", "aggregation": "SUM", "valueProperty": "$.tokens", "groupBy": {"model": "$.model"}},
    {"slug": "prompt_max", "aggregation": "MAX", "valueProperty": "$.prompt_tokens"},
    {"slug": "models", "aggregation": "UNIQUE_COUNT", "valueProperty": "$.model"},
)


def _measure(bench: Bench) -> Result:
    count = 500_000 if bench.quick else 3_000_000
    with product(bench) as running:
        with running.process("api"):
            misses = _prepare(running, count)
        settings = _settings(running)
        bench.say(f"{count:,} events on the topic; the limit first")
        done = run_python(
            ["-m", "bench.raw_sink", str(count)], environment=running.environment, timeout=_TIMEOUT_SECONDS
        )
        limit = float(done)
        client = connect(settings)
        try:
            client.command("TRUNCATE TABLE events")
            with running.process("sink"):
                rate, seconds = _watch(client, count)
        finally:
            client.close()
    return Result(rate, limit, f"{len(_METERS)} meters, {count:,} events in {seconds:.0f} s", misses)


def _settings(running: Product) -> EngineSettings:
    values = {name.removeprefix("WEIGHBRIDGE_").lower(): value for name, value in running.environment.items()}
    return EngineSettings.model_validate(values)


def _prepare(running: Product, count: int) -> tuple[str, ...]:
    with httpx.Client(base_url=running.api_url, timeout=30) as client:
        for meter in _METERS:
            client.post("/api/v1/meters", json={"eventType": "llm.request", **meter}).raise_for_status()
    load = Load(
        port=running.api_port,
        requests=[request("POST", "/api/v1/events", batch())],
        connections=16,
        seconds=_TIMEOUT_SECONDS,
        warm_up_seconds=0,
        requests_max=count // BATCH,
    )
    return others(run_load(load), "204")


def _watch(client: object, count: int) -> tuple[float, float]:
    """Events/s from the first flush that is seen to the last, and how long that took."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    began, first = 0.0, 0
    while time.monotonic() < deadline:
        query = "SELECT sum(counted) FROM flushes FINAL"
        done = int(client.query(query).result_rows[0][0] or 0)  # type: ignore[attr-defined]
        now = time.monotonic()
        if done and not began:
            began, first = now, done
        if done >= count:
            if now == began:
                raise RuntimeError("too few events to measure with")
            return (done - first) / (now - began), now - began
        time.sleep(0.1)
    raise RuntimeError(f"the sink is not done after {_TIMEOUT_SECONDS} s")


ROW = Row(
    name="sink",
    what="events through one sink process, 4 meters, dedupe on",
    limit="consume, decode and insert raw rows, nothing else",
    unit="/s",
    measure=_measure,
    goal=0.4,
    goal_value=100_000,
)
