"""Events one by one over HTTP, each answered when Kafka has acknowledged it."""

from bench.events import event
from bench.load import Load, others, request, run_load
from bench.product import product
from bench.row import Bench, Result, Row


def _measure(bench: Bench) -> Result:
    seconds = bench.seconds(10, 3)
    body = event()
    with product(bench, processes=("api",)) as running:
        run_load(Load(port=running.api_port, requests=[request("POST", "/api/v1/events", body)], seconds=seconds))
        limit = run_load(Load(port=running.api_port, requests=[request("POST", "/constant", body)], seconds=seconds))
        result = run_load(
            Load(port=running.api_port, requests=[request("POST", "/api/v1/events", body)], seconds=seconds)
        )
    notes = f"p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms"
    return Result(result.per_second, limit.per_second, notes, others(result, "204"))


ROW = Row(
    name="single-events",
    what="single events over HTTP, acknowledged by Kafka, 64 connections",
    limit="the same server answering 204 at once",
    unit="/s",
    measure=_measure,
    goal=0.5,
)
