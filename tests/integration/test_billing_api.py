"""Plans, subscriptions and invoices over HTTP."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from api.app import create_app
from api.clickhouse import ClickHouse
from api.services import Services
from api.settings import ApiSettings
from tests.integration.billing_world import END, GRACE, START, World, make_world, march

PLAN: dict[str, Any] = {
    "key": "air",
    "name": "Air",
    "currency": "USD",
    "billingCadence": "P1M",
    "phases": [
        {
            "key": "main",
            "name": "Main",
            "duration": None,
            "rateCards": [
                {
                    "type": "flat_fee",
                    "key": "fee",
                    "name": "Fee",
                    "billingCadence": "P1M",
                    "price": {"type": "flat", "amount": "10.50", "paymentTerm": "in_arrears"},
                },
                {
                    "type": "usage_based",
                    "key": "miles",
                    "name": "Miles",
                    "featureKey": "miles",
                    "billingCadence": "P1M",
                    "price": {
                        "type": "tiered",
                        "mode": "volume",
                        "tiers": [
                            {"upToAmount": "100", "unitPrice": {"type": "unit", "amount": "0.2"}, "flatPrice": None},
                            {
                                "unitPrice": {"type": "unit", "amount": "0.10"},
                                "flatPrice": {"type": "flat", "amount": "1"},
                            },
                        ],
                    },
                },
            ],
        }
    ],
}


@dataclass
class Client:
    http: httpx.AsyncClient
    world: World
    now: datetime = START

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = await self.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


@pytest_asyncio.fixture
async def client(clickhouse_database, postgres_url) -> AsyncIterator[Client]:
    async with make_world(clickhouse_database, postgres_url) as world:
        settings = ApiSettings(**world.settings.model_dump(), billing_grace_seconds=int(GRACE.total_seconds()))
        app = create_app(settings)
        transport = httpx.ASGITransport(app=app)
        clickhouse = ClickHouse(settings, world.engine)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            made = Client(http, world)
            app.state.services = Services(
                settings=settings,
                engine=world.engine,
                clickhouse=clickhouse,
                balances=cast("Any", None),
                values=cast("Any", None),
                kafka_reachable=cast("Any", None),
                now=lambda: made.now,
            )
            yield made
        await clickhouse.close()


async def subscribed(client: Client) -> dict[str, Any]:
    plan = await client.call("POST", "/api/v1/plans", PLAN, status=201)
    await client.call("POST", f"/api/v1/plans/{plan['id']}/publish")
    order = {"customerKey": "heron", "plan": {"key": "air"}, "timing": START.isoformat()}
    return cast("dict[str, Any]", await client.call("POST", "/api/v1/subscriptions", order, status=201))


async def test_a_plan_is_a_draft_then_active_and_then_never_changes(client: Client) -> None:
    plan = await client.call("POST", "/api/v1/plans", PLAN, status=201)
    assert (plan["status"], plan["version"], plan["validationErrors"]) == ("draft", 1, None)
    assert plan["phases"][0]["rateCards"][0]["price"]["amount"] == "10.5"
    tiers = plan["phases"][0]["rateCards"][1]["price"]["tiers"]
    assert tiers[0] == {"upToAmount": "100", "flatPrice": None, "unitPrice": {"type": "unit", "amount": "0.2"}}
    await client.call("POST", "/api/v1/plans", PLAN, status=400)  # one draft at a time
    await client.call("GET", "/api/v1/plans/air", status=404)
    published = await client.call("POST", f"/api/v1/plans/{plan['id']}/publish")
    assert published["status"] == "active"
    await client.call("POST", f"/api/v1/plans/{plan['id']}/publish", status=400)
    client.now += timedelta(days=1)
    second = await client.call("POST", "/api/v1/plans", PLAN, status=201)
    await client.call("POST", f"/api/v1/plans/{second['id']}/publish")
    assert (await client.call("GET", "/api/v1/plans/air"))["version"] == 2
    assert (await client.call("GET", f"/api/v1/plans/{plan['id']}"))["status"] == "archived"
    listed = await client.call("GET", "/api/v1/plans?key=air&status=active")
    assert (listed["totalCount"], listed["items"][0]["id"]) == (1, second["id"])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"featureKey": "nothing", "key": "nothing"}, 400),
        ({"price": {"type": "unit", "amount": "-1"}}, 400),
        ({"price": {"type": "unit", "amount": "1", "minimumAmount": "5"}}, 400),
        ({"price": {"type": "package", "amount": "1", "quantityPerPackage": "5"}}, 400),
        ({"price": {"type": "unit", "amount": 1}}, 400),
        ({"discounts": {"percentage": {"percentage": 10}}}, 400),
    ],
)
async def test_what_cannot_be_billed_is_refused(client: Client, change: dict[str, Any], status: int) -> None:
    phase = PLAN["phases"][0]
    cards = [phase["rateCards"][0], phase["rateCards"][1] | change]
    await client.call("POST", "/api/v1/plans", PLAN | {"phases": [phase | {"rateCards": cards}]}, status=status)


async def test_a_customer_has_one_subscription_at_a_time(client: Client) -> None:
    made = await subscribed(client)
    assert (made["status"], made["plan"]["key"], made["activeFrom"]) == ("active", "air", "2026-03-01T00:00:00Z")
    again = {"customerKey": "heron", "plan": {"key": "air"}}
    await client.call("POST", "/api/v1/subscriptions", again, status=409)
    client.now = march(10, 5, second=30)
    ended = await client.call("POST", f"/api/v1/subscriptions/{made['id']}/cancel", {"timing": "immediate"})
    assert (ended["status"], ended["activeTo"]) == ("inactive", "2026-03-10T05:00:30Z")
    await client.call("POST", f"/api/v1/subscriptions/{made['id']}/cancel", status=403)
    await client.call("POST", "/api/v1/subscriptions", again, status=201)
    assert (await client.call("GET", "/api/v1/subscriptions"))["totalCount"] == 2
    shown = await client.call("GET", f"/api/v1/subscriptions/{made['id']}")
    assert shown["phases"][0]["activeTo"] == "2026-03-10T05:00:00Z"
    for wrong in ({"customerKey": "nobody"}, {"plan": {"key": "none"}}):
        await client.call("POST", "/api/v1/subscriptions", again | wrong, status=404)


async def test_an_invoice_is_asked_for_issued_shown_and_verified(client: Client) -> None:
    made = await subscribed(client)
    client.world.flight(250, march(2))
    ask = {"customerId": made["customerId"]}
    await client.call("POST", "/api/v1/billing/invoices/invoice", ask, status=400)  # nothing is due
    client.now = END
    (draft,) = await client.call("POST", "/api/v1/billing/invoices/invoice", ask, status=201)
    assert (draft["status"], draft["collectionAt"]) == ("draft", "2026-04-01T00:05:00Z")
    path = f"/api/v1/billing/invoices/{draft['id']}"
    await client.call("GET", f"{path}/verification", status=412)
    client.world.reach(END + GRACE)
    await client.world.issue(draft["id"], END + GRACE)
    shown = await client.call("GET", path)
    assert (shown["status"], shown["number"]) == ("issued", "INV-BLHE-1")
    assert shown["totals"]["total"] == "36.5"
    fee, miles = shown["lines"]
    assert "quantity" not in fee
    assert (miles["quantity"], miles["totals"]["total"]) == ("250", "26")
    assert [(d["name"], d["quantity"], d["perUnitAmount"]) for d in miles["children"]] == [
        ("Miles: flat price for tier 2", "1", "1"),
        ("Miles: unit price for tier 2", "250", "0.1"),
    ]
    assert shown["evidence"]["cut"] == "2026-04-01T00:05:00Z"
    assert shown == await client.call("GET", path)  # the ids of lines too
    listed = await client.call("GET", f"/api/v1/billing/invoices?customers={made['customerId']}&statuses=issued")
    assert (listed["totalCount"], listed["items"][0]["id"]) == (1, draft["id"])
    assert "lines" not in listed["items"][0]
    verification = await client.call("GET", f"{path}/verification")
    assert (verification["isEqual"], verification["differences"]) == (True, [])
    await client.call("GET", "/api/v1/billing/invoices/nothing", status=404)
