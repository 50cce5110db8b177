"""Sends a scenario's events through the HTTP API, some twice, and measures how soon a balance shows an event."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec

from cli.demo.client import Api
from cli.demo.scenario import Expected, Measured
from metering.domain.errors import Unavailable
from metering.domain.ids import new_id

BATCH: Final = 100
SENDERS: Final = 4
TWICE: Final = 0.02
PROBE: Final = "probe"


@dataclass(slots=True)
class Loaded:
    """What was sent: events in all, and how many of them a second time."""

    sent: int = 0
    twice: int = 0
    expected: Expected = field(default_factory=Expected)


def batches(events: Iterable[Measured], loaded: Loaded, *, seed: int) -> Iterator[list[Any]]:
    """The events in batches, in their order, each batch with some events of earlier ones again."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    source = iter(events)
    again: list[Any] = []
    while batch := list(islice(source, BATCH)):
        for measured in batch:
            loaded.expected.add(measured)
        sendings = [measured.event for measured in batch] + again
        loaded.twice += len(again)
        again = [measured.event for measured in batch if chance.random() < TWICE]
        yield sendings
    if again:
        loaded.twice += len(again)
        yield again


async def load(api: Api, events: Iterable[Measured], *, seed: int, progress: Callable[[int], None]) -> Loaded:
    """Send all of it, a few batches at a time; `progress` is told how many events each answer acknowledged."""
    loaded = Loaded()
    source = batches(events, loaded, seed=seed)

    async def sender() -> None:
        for batch in source:
            await api.send(msgspec.json.encode(batch))
            loaded.sent += len(batch)
            progress(len(batch))

    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    return loaded


async def prepare_probe(api: Api) -> str:
    """A meter, feature, customer and entitlement of the probe's own. Gives the path of its balance."""
    await api.create(
        "/api/v1/meters",
        {"slug": PROBE, "name": "Delay probe", "eventType": PROBE, "aggregation": "COUNT"},
        existing=f"/api/v1/meters/{PROBE}",
    )
    await api.create(
        "/api/v1/features",
        {"key": PROBE, "name": "Delay probe", "meterSlug": PROBE},
        existing=f"/api/v1/features/{PROBE}",
    )
    await api.create(
        "/api/v1/customers",
        {"key": PROBE, "name": "Delay probe", "usageAttribution": {"subjectKeys": [f"{PROBE}-subject"]}},
        existing=f"/api/v1/customers/{PROBE}",
    )
    entitlements = f"/api/v2/customers/{PROBE}/entitlements"
    await api.create(
        entitlements,
        {
            "type": "metered",
            "featureKey": PROBE,
            "usagePeriod": {"interval": "YEAR"},
            "measureUsageFrom": "CURRENT_PERIOD_START",
            "issueAfterReset": 1_000_000,
        },
        existing=f"{entitlements}/{PROBE}",
    )
    return f"/api/v1/customers/{PROBE}/entitlements/{PROBE}/value"


async def usage_of(api: Api, path: str) -> int:
    """The usage that a balance check answers; 0 while there is no balance yet."""
    return int((await api.get(path)).get("usage", 0))


async def probe_delays(
    api: Api, path: str, *, count: int, progress: Callable[[], None], deadline_seconds: int = 30
) -> list[float]:
    """Send single events and watch the balance: seconds from the sending of each to a check that shows it."""
    delays = []
    usage = await usage_of(api, path)
    for _ in range(count):
        event = {
            "specversion": "1.0",
            "id": new_id(),
            "source": "weighbridge-demo",
            "type": PROBE,
            "subject": f"{PROBE}-subject",
            "time": datetime.now(UTC).isoformat(),
        }
        start = time.perf_counter()
        await api.send(msgspec.json.encode([event]))
        usage += 1
        while await usage_of(api, path) < usage:
            if time.perf_counter() - start > deadline_seconds:
                raise Unavailable(
                    f"the balance did not show an event within {deadline_seconds} s; see `weighbridge status`"
                )
            await asyncio.sleep(0.005)
        delays.append(time.perf_counter() - start)
        progress()
    return delays
