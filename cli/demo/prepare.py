"""Creates what a scenario needs through the API: meters, features, customers, entitlements, plan, subscriptions.

Whatever is there already stays as it is, so that a second run finds its data.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from cli.demo.client import Api
from cli.demo.scenario import Scenario


def stamp(at: datetime) -> str:
    """RFC 3339, UTC."""
    return at.isoformat().replace("+00:00", "Z")


async def _all(calls: Iterable[Any]) -> list[Any]:
    return list(await asyncio.gather(*calls))


async def prepare(api: Api, scenario: Scenario, *, start: datetime, step: Callable[[str], None]) -> dict[str, str]:
    """Everything but the subscriptions; gives customer key -> id. Usage is measured from `start` on."""
    step("meters and features")
    await _all(
        api.create("/api/v1/meters", meter, existing=f"/api/v1/meters/{meter['slug']}") for meter in scenario.meters
    )
    await _all(
        api.create("/api/v1/features", feature, existing=f"/api/v1/features/{feature['key']}")
        for feature in scenario.features
    )
    step("customers")
    customers = await _all(
        api.create(
            "/api/v1/customers",
            {"key": key, "name": name, "currency": "USD"},
            existing=f"/api/v1/customers/{key}",
        )
        for key, name in scenario.customers.items()
    )
    step("entitlements")
    entitlement = {
        **scenario.entitlement,
        "featureKey": scenario.limited_feature,
        "measureUsageFrom": stamp(start),
        "usagePeriod": {"interval": "YEAR", "anchor": stamp(start)},
    }
    await _all(
        api.create(
            f"/api/v2/customers/{key}/entitlements",
            entitlement,
            existing=f"/api/v2/customers/{key}/entitlements/{scenario.limited_feature}",
        )
        for key in scenario.customers
    )
    return {customer["key"]: customer["id"] for customer in customers}


async def subscribe(api: Api, scenario: Scenario, *, start: datetime, step: Callable[[str], None]) -> None:
    """The plan, published, and a subscription of each customer from `start` on."""
    step("plan")
    key = scenario.plan["key"]
    plans = await api.get("/api/v1/plans", key=key)
    if not plans["items"]:
        plan = await api.post("/api/v1/plans", scenario.plan)
        await api.post(f"/api/v1/plans/{plan['id']}/publish", {})
    step("subscriptions")
    await _all(
        api.post(
            "/api/v1/subscriptions",
            {"customerKey": customer, "plan": {"key": key}, "timing": stamp(start), "billingAnchor": stamp(start)},
        )
        for customer in scenario.customers
    )
