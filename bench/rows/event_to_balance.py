"""How soon a balance check shows an event, while others come in at a steady rate."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import httpx

from bench.events import event
from bench.load import Load, LoadResult, others, request, run_load
from bench.product import Product, product
from bench.row import Bench, Result, Row

_RATE: Final = 5_000
_BATCH: Final = 10
_CUSTOMERS: Final = 50  # those of bench.events
_FEATURE: Final = "requests"
_PROBE: Final = "probe"
_WAIT_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.002


def _measure(bench: Bench) -> Result:
    seconds = bench.seconds(60, 12)
    with product(bench, processes=("api", "sink", "balances")) as running, ThreadPoolExecutor(1) as pool:
        with httpx.Client(base_url=running.api_url, timeout=30) as client:
            _prepare(client)
            sending = pool.submit(run_load, _load(running, seconds))
            delays = sorted(_probe(client, sending))
        load = sending.result()
    notes = f"{_CUSTOMERS + 1} entitled customers, {len(delays)} events watched, p50 {_at(delays, 0.5):.0f} ms"
    slow = (
        () if load.per_second * _BATCH > 0.95 * _RATE else (f"only {load.per_second * _BATCH:,.0f} events/s came in",)
    )
    return Result(_at(delays, 0.99), notes=notes, misses=others(load, "204") + slow)


def _at(ordered: list[float], share: float) -> float:
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _prepare(client: httpx.Client) -> None:
    meter = {"slug": _FEATURE, "eventType": "llm.request", "aggregation": "COUNT"}
    client.post("/api/v1/meters", json=meter).raise_for_status()
    feature = {"key": _FEATURE, "name": _FEATURE, "meterSlug": _FEATURE}
    client.post("/api/v1/features", json=feature).raise_for_status()
    entitlement: dict[str, Any] = {
        "type": "metered",
        "featureKey": _FEATURE,
        "issueAfterReset": 1_000_000,
        "usagePeriod": {"interval": "MONTH"},
    }
    for key in (_PROBE, *(f"customer-{number}" for number in range(_CUSTOMERS))):
        client.post("/api/v1/customers", json={"key": key, "name": key}).raise_for_status()
        client.post(f"/api/v2/customers/{key}/entitlements", json=entitlement).raise_for_status()


def _load(running: Product, seconds: float) -> Load:
    body = b"[" + b",".join(event(index) for index in range(_BATCH)) + b"]"
    text = request("POST", "/api/v1/events", body)
    return Load(
        port=running.api_port, requests=[text], connections=8, seconds=seconds, warm_up_seconds=0, rate=_RATE / _BATCH
    )


def _probe(client: httpx.Client, sending: "Future[LoadResult]") -> list[float]:
    """Send single events, one after the other, and watch the check until it shows each."""
    path, delays, usage = f"/api/v1/customers/{_PROBE}/entitlements/{_FEATURE}/value", [], 0
    while not sending.done():
        event_id = f"probe-{usage}"
        start = time.perf_counter()
        cloud_event = {"specversion": "1.0", "id": event_id, "source": _PROBE, "type": "llm.request", "subject": _PROBE}
        client.post("/api/v1/events", json=cloud_event).raise_for_status()
        usage += 1
        while int(client.get(path).json().get("usage", 0)) < usage:
            if time.perf_counter() - start > _WAIT_SECONDS:
                raise RuntimeError(f"the balance did not show an event within {_WAIT_SECONDS} s")
            time.sleep(_POLL_SECONDS)
        delays.append(time.perf_counter() - start)
    return delays


ROW = Row(
    name="event-to-balance",
    what="event to balance at 5,000 events/s, p99",
    limit="-",
    unit=" ms",
    measure=_measure,
    goal_value=1_000,
    lower_is_better=True,
)
