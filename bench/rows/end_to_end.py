"""Events from HTTP to a meter query that counts them, with all processes on this machine."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx

from bench.events import BATCH, batch
from bench.load import Load, others, request, run_load
from bench.product import Product, product
from bench.row import Bench, Result, Row

_METER: Final = "tokens"
_WAIT_SECONDS: Final = 600
_POLL_SECONDS: Final = 0.25


def _measure(bench: Bench) -> Result:
    seconds = bench.seconds(60, 10)
    with product(bench, processes=("api", "sink", "balances")) as running, ThreadPoolExecutor(1) as pool:
        _prepare(running)
        began = time.monotonic()
        sending = pool.submit(run_load, _load(running, seconds))
        while not sending.done():
            time.sleep(_POLL_SECONDS)
        load = sending.result()
        sent = load.sent * BATCH
        at_the_end = _visible(running)
        took = _wait_for(running, sent) - began
    notes = f"{sent:,} events sent in {seconds:g} s; {sent - at_the_end:,} were not yet counted then"
    return Result(sent / took, notes=notes, misses=others(load, "204"))


def _prepare(running: Product) -> None:
    meter: dict[str, Any] = {
        "slug": _METER,
        "eventType": "llm.request",
        "aggregation": "COUNT",
        "groupBy": {"model": "$.model"},
    }
    with httpx.Client(base_url=running.api_url, timeout=30) as client:
        client.post("/api/v1/meters", json=meter).raise_for_status()


def _load(running: Product, seconds: float) -> Load:
    text = request("POST", "/api/v1/events", batch())
    return Load(port=running.api_port, requests=[text], connections=16, seconds=seconds, warm_up_seconds=0)


def _visible(running: Product) -> int:
    with httpx.Client(base_url=running.api_url, timeout=60) as client:
        answer = client.get(f"/api/v1/meters/{_METER}/query")
        answer.raise_for_status()
    return int(answer.json()["data"][0]["value"])


def _wait_for(running: Product, sent: int) -> float:
    deadline = time.monotonic() + _WAIT_SECONDS
    while _visible(running) < sent:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all events are counted after {_WAIT_SECONDS} s")
        time.sleep(_POLL_SECONDS)
    return time.monotonic()


ROW = Row(
    name="end-to-end",
    what="events from HTTP (batches of 100) to visible in a meter query, sustained for a minute",
    limit="-",
    unit="/s",
    measure=_measure,
    goal_value=50_000,
)
