"""Usage of one customer by day over a month, plain and grouped by a dimension."""

from bench.row import Bench, Result, Row
from bench.usage_query import measure
from metering.settings import EngineSettings

_EVENTS, _QUICK_EVENTS = 100_000_000, 10_000_000


def _measure(bench: Bench) -> Result:
    engines = bench.engines()
    settings = EngineSettings(
        clickhouse_url=engines.clickhouse_url,
        clickhouse_database="bench_usage_query",
        postgres_url=engines.postgres_url,
    )
    events = _QUICK_EVENTS if bench.quick else _EVENTS
    figures = measure(settings, events, rounds=100 if bench.quick else 400, say=bench.say)
    worst = max(figures.p99, key=lambda name: figures.p99[name])
    notes = [f"{figures.events:,} events in {figures.rows:,} rows"]
    notes += [f"{name}: {delay:.0f} ms" for name, delay in figures.p99.items()]
    notes += [f"{name}, a customer that can be asked both ways: {figures.same[name]:.0f} ms" for name in figures.same]
    return Result(figures.p99[worst], figures.raw[worst], "; ".join(notes))


ROW = Row(
    name="usage-query",
    what="usage query, a customer's month by day, also grouped: p99",
    limit="the same from raw events",
    unit="ms",
    measure=_measure,
    goal_value=100.0,
    lower_is_better=True,
)
