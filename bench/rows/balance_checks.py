"""Balance checks, answered from memory."""

import time
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from bench.load import Load, others, request, run_load
from bench.product import Product, product
from bench.row import Bench, Result, Row

_CUSTOMERS: Final = 100
_FEATURE: Final = "tokens"
_READY_SECONDS: Final = 60
_P99_MS_MAX: Final = 5.0


def _measure(bench: Bench) -> Result:
    with product(bench, processes=("api", "sink", "balances")) as running:
        paths = _customers(running)
        _wait_for_memory(running, paths)
        limit = run_load(_load(bench, running, ["/constant-balance"]))
        result = run_load(_load(bench, running, paths))
    slow = () if result.p99_ms < _P99_MS_MAX else (f"p99 is not under {_P99_MS_MAX:g} ms",)
    notes = f"{_CUSTOMERS} customers, p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms"
    return Result(result.per_second, limit.per_second, notes, others(result, "200") + slow)


def _load(bench: Bench, running: Product, paths: list[str]) -> Load:
    requests = [request("GET", path) for path in paths]
    return Load(port=running.api_port, requests=requests, connections=32, seconds=bench.seconds(10, 3))


def _customers(running: Product) -> list[str]:
    """Make customers with an entitlement each; the paths of their checks."""
    start = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    meter = {"slug": _FEATURE, "eventType": "llm.request", "aggregation": "SUM", "valueProperty": "$.tokens"}
    entitlement: dict[str, Any] = {
        "type": "metered",
        "featureKey": _FEATURE,
        "issueAfterReset": 1_000_000,
        "usagePeriod": {"interval": "MONTH", "anchor": start},
    }
    with httpx.Client(base_url=running.api_url, timeout=30) as client:
        client.post("/api/v1/meters", json=meter).raise_for_status()
        feature = {"key": _FEATURE, "name": _FEATURE, "meterSlug": _FEATURE}
        client.post("/api/v1/features", json=feature).raise_for_status()
        for number in range(_CUSTOMERS):
            customer = {"key": f"customer-{number}", "name": f"Customer {number}"}
            client.post("/api/v1/customers", json=customer).raise_for_status()
            path = f"/api/v2/customers/customer-{number}/entitlements"
            client.post(path, json=entitlement).raise_for_status()
    return [f"/api/v1/customers/customer-{n}/entitlements/{_FEATURE}/value" for n in range(_CUSTOMERS)]


def _wait_for_memory(running: Product, paths: list[str]) -> None:
    """Until every check is answered without the database."""
    deadline = time.monotonic() + _READY_SECONDS
    with httpx.Client(base_url=running.api_url, timeout=30) as client:
        while True:
            before = _from_memory(client)
            for path in paths:
                client.get(path).raise_for_status()
            if _from_memory(client) - before >= len(paths):
                return
            if time.monotonic() > deadline:
                raise RuntimeError("the balances don't get into the memory of the API")
            time.sleep(0.2)


def _from_memory(client: httpx.Client) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith('weighbridge_balance_checks_total{source="memory"}'):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


ROW = Row(
    name="balance-checks",
    what="balance checks, 32 connections",
    limit="the same server answering a constant",
    unit="/s",
    measure=_measure,
    goal=0.6,
)
