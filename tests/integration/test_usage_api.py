"""The meter query, its lists and the event lists over HTTP."""

import asyncio
import json
import random
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from clickhouse_connect.driver.client import Client
from fastapi import FastAPI
from sqlalchemy import insert

from api import problems
from api.clickhouse import ClickHouse
from api.services import Services
from api.settings import ApiSettings
from api.v1 import events as events_v1
from api.v1 import meter_query
from api.v1.meter_rows import csv_number, wants_csv
from api.v2 import events as events_v2
from metering.clickhouse.client import connect
from metering.clickhouse.schema import create_all
from metering.domain.ids import new_id
from metering.domain.meter import Aggregation
from metering.postgres.engine import async_engine
from metering.postgres.meters import MeterDraft, create_meter
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.tables import backfills, customer_subjects, customers, subjects
from tests.integration.usage_feed import feed, lay_out

NOW = datetime(2031, 2, 20, 12, tzinfo=UTC)
DAY = datetime(2031, 2, 1, tzinfo=UTC)
MADE = {"created_at": NOW, "updated_at": NOW}
ACME, EMPTY, GONE = new_id(), new_id(), new_id()


@dataclass(frozen=True, slots=True)
class Api:
    http: httpx.AsyncClient

    async def rows(self, meter: str = "seconds", **params: Any) -> list[dict[str, Any]]:
        answer = await self.http.get(f"/api/v1/meters/{meter}/query", params=params)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_float=Decimal)["data"]

    async def refused(self, path: str, status: int = 400, **params: Any) -> str:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("application/problem+json")
        return answer.json()["detail"]


@pytest.fixture(scope="module")
def settings(module_clickhouse_database, module_postgres_url) -> ApiSettings:
    settings = ApiSettings(
        clickhouse_url=module_clickhouse_database.url,
        clickhouse_database=module_clickhouse_database.name,
        postgres_url=module_postgres_url,
        event_partitions=2,
    )
    create_all(settings)
    with migration_lock(settings):
        upgrade(settings)
    with connect(settings) as client:
        asyncio.run(fill(settings, client))
    return settings


@pytest_asyncio.fixture
async def api(settings) -> AsyncIterator[Api]:
    engine = async_engine(settings, application="test")
    clickhouse = ClickHouse(settings, engine)
    app = FastAPI()
    app.state.settings = settings
    app.state.services = Services(
        settings=settings,
        engine=engine,
        clickhouse=clickhouse,
        balances=SimpleNamespace(),
        values=SimpleNamespace(),
        kafka_reachable=lambda _timeout: None,
        now=lambda: NOW,
    )
    for module in (meter_query, events_v1, events_v2):
        app.include_router(module.router)
    problems.install(app)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        yield Api(http)
    await clickhouse.close()
    await engine.dispose()


async def fill(settings: ApiSettings, client: Client) -> None:
    """Two subjects, one of them acme's; an event an hour over two days; the seventh is unusable."""
    group_by = {"tier": "$.tier"}
    drafts = [
        MeterDraft("seconds", "job", Aggregation.SUM, "$.seconds", group_by=group_by),
        MeterDraft("jobs", "job", Aggregation.COUNT, group_by=group_by),
        MeterDraft("largest", "job", Aggregation.MAX, "$.seconds"),
        MeterDraft("other", "nothing", Aggregation.COUNT),
    ]
    engine = async_engine(settings, application="test")
    async with engine.begin() as connection:
        made = [await create_meter(connection, "default", draft, now=NOW) for draft in drafts]
        await connection.execute(backfills.delete())
        for customer, gone in ((ACME, None), (EMPTY, None), (GONE, NOW - timedelta(days=1))):
            row = {"id": customer, "namespace": "default", "name": "x", "deleted_at": gone, **MADE}
            await connection.execute(insert(customers).values(**row))
        owned = {"namespace": "default", "customer_id": ACME, "subject": "acme-prod", "created_at": NOW}
        await connection.execute(insert(customer_subjects).values(is_key=False, is_subject_key=True, **owned))
        named = {"id": new_id(), "namespace": "default", "key": "acme-prod", "display_name": "Acme, production"}
        await connection.execute(insert(subjects).values(**named, **MADE))
    await engine.dispose()
    rng = random.Random(1)
    events = []
    for hour in range(48):
        value: object = "many" if hour == 7 else Decimal("0.25")
        data = {"seconds": value, "tier": ("a100", "h100")[hour % 2]}
        if hour == 9:
            del data["tier"]
        time = DAY + timedelta(hours=hour, minutes=5, seconds=6, milliseconds=789)
        events.append(("job", ("acme-prod", "other")[hour % 3 == 0], time, data, time + timedelta(seconds=3)))
    laid = lay_out(rng, events)
    feed(client, rng, laid, [definition.meter() for definition in made], reached=NOW)


async def test_windows_groups_and_filters_of_the_meter_query(api):
    base = "/api/v1/meters/seconds/query"
    answer = await api.http.get(
        base, params={"from": "2031-02-01T00:00:00+00:00", "to": "2031-02-02T00:00:00Z", "windowSize": "DAY"}
    )
    assert json.loads(answer.text, parse_float=str) == {
        "from": "2031-02-01T00:00:00+00:00",
        "to": "2031-02-02T00:00:00Z",
        "windowSize": "DAY",
        "data": [
            {
                "value": "5.75",
                "windowStart": "2031-02-01T00:00:00Z",
                "windowEnd": "2031-02-02T00:00:00Z",
                "subject": None,
                "groupBy": {},
            }
        ],
    }
    assert [
        (r["windowStart"], r["value"]) for r in await api.rows(windowSize="DAY", windowTimeZone="Asia/Kolkata")
    ] == [
        ("2031-02-01T00:00:00+05:30", Decimal("4.5")),
        ("2031-02-02T00:00:00+05:30", 6),
        ("2031-02-03T00:00:00+05:30", Decimal("1.25")),
    ]
    rows = await api.rows("jobs", groupBy=["tier", "subject"], **{"filterGroupBy[tier]": "a100"})
    assert [(r["subject"], r["groupBy"], r["value"]) for r in rows] == [
        ("acme-prod", {"tier": "a100"}, 16),
        ("other", {"tier": "a100"}, 8),
    ]
    rows = await api.rows("jobs", advancedMeterGroupByFilters='{"tier":{"$like":"%100"}}', subject="other")
    assert [(r["subject"], r["value"], "customerId" in r) for r in rows] == [("other", 15, False)]
    (row,) = await api.rows("jobs", filterCustomerId=ACME.lower())
    assert (row["customerId"], row["value"], row["subject"]) == (ACME, 32, None)
    (row,) = await api.rows(**{"from": "2031-02-01T03:05:06.5+03:00"})
    assert (row["windowStart"], row["windowEnd"]) == ("2031-02-01T03:05:06.5+03:00", "2031-02-02T23:06:00Z")
    assert row["value"] == Decimal("11.75")


async def test_a_post_asks_the_same(api):
    body = {"filterGroupBy": {"tier": ["a100", "h100"]}, "subject": [], "filterCustomerId": [], "windowSize": "MONTH"}
    answer = await api.http.post("/api/v1/meters/jobs/query", json=body)
    assert [(r["subject"], r["value"]) for r in answer.json()["data"]] == [("acme-prod", 32), ("other", 15)]
    assert (await api.http.post("/api/v1/meters/jobs/query", json={})).json()["data"][0]["value"] == 48
    missing = await api.http.post("/api/v1/meters/jobs/query", headers={"content-type": "application/json"})
    assert (missing.status_code, missing.json()["detail"]) == (
        400,
        "request body has an error: value is required but missing",
    )


async def test_nothing_counted_is_one_row_of_zero_without_windows_and_groups(api):
    (row,) = await api.rows("other")
    assert (row["value"], row["windowStart"], row["windowEnd"]) == (0, "1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z")
    assert await api.rows("other", windowSize="DAY", windowTimeZone="Europe/Berlin") == []
    assert await api.rows("largest", **{"from": "2032-01-01T00:00:00Z"}) == []
    assert await api.rows("jobs", groupBy="tier", subject="nobody") == []


async def test_what_the_meter_query_refuses(api):
    path = "/api/v1/meters/seconds/query"
    at = "2031-02-01T00:00:00Z"
    cases = [
        ({"from": at, "to": at}, 400, "from and to cannot be equal"),
        ({"from": at, "to": "2031-01-01T00:00:00Z"}, 400, "from must be before to"),
        ({"groupBy": "x"}, 400, "invalid group by: x"),
        ({"groupBy": "customer_id"}, 400, "customer filter is required with customer_id group by"),
        ({"filterCustomerId": GONE}, 404, f"customer with id {GONE} not found"),
        ({"filterCustomerId": "what"}, 404, "customer with id what not found"),
        ({"filterCustomerId": EMPTY}, 400, "usage attribution must have a key or subject keys"),
        ({"filterGroupBy[x]": "a"}, 400, "invalid group by filter: x"),
        ({"filterGroupBy[tier]": ""}, 400, "filter is invalid: format mismatch"),
        ({"filterGroupBy[tier]": ["a", "b"]}, 400, "is there twice"),
        ({"advancedMeterGroupByFilters": '{"x":{"$eq":"a"}}'}, 400, "meter does not have group by: x"),
        ({"advancedMeterGroupByFilters": "{"}, 400, ""),
        (
            {"advancedMeterGroupByFilters": '{"tier":{"$eq":"a"}}', "filterGroupBy[tier]": "a"},
            400,
            "advanced meter group by filters and filter group by cannot be used together",
        ),
        ({"windowTimeZone": "+05:30"}, 400, "invalid time zone: +05:30"),
        ({"windowSize": "YEAR"}, 400, ""),
        ({"from": "2031-02-01"}, 400, ""),
        ({"clientId": "c" * 37}, 400, ""),
    ]
    for params, status, text in cases:
        assert (await api.refused(path, status, **params)).endswith(text), params
    assert (await api.refused("/api/v1/meters/nope/query", 404)).endswith("meter not found: nope")


async def test_csv_has_the_columns_asked_for_and_every_digit(api):
    answer = await api.http.get(
        "/api/v1/meters/seconds/query",
        params={"groupBy": ["tier", "subject"], "filterCustomerId": ACME, "windowSize": "MONTH"},
        headers={"accept": "text/csv;charset=utf-8"},
    )
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["content-disposition"] == "attachment; filename=seconds.csv"
    assert answer.text.splitlines() == [
        "window_start,window_end,subject,subject_display_name,tier,customer_id,value",
        f'2031-02-01T00:00:00Z,2031-03-01T00:00:00Z,acme-prod,"Acme, production",a100,{ACME},4.000000',
        f'2031-02-01T00:00:00Z,2031-03-01T00:00:00Z,acme-prod,"Acme, production",h100,{ACME},3.750000',
    ]
    empty = await api.http.get("/api/v1/meters/largest/query?subject=nobody", headers={"accept": "text/csv"})
    assert empty.text == "window_start,window_end,subject,value\n"


def test_csv_is_sent_to_who_likes_it_better_than_json():
    assert wants_csv("text/csv")
    assert wants_csv("TEXT/CSV; q=0.9")
    assert wants_csv("text/csv, application/json;q=0.5")
    assert not wants_csv("text/csv, application/json")
    assert not wants_csv("*/*")
    assert not wants_csv("")
    assert csv_number(Decimal("1.5")) == "1.500000"
    assert csv_number(Decimal("-0.123456789012")) == "-0.123456789012"
    assert csv_number(Decimal(10**20)) == f"{10**20}.000000"


async def test_subjects_and_values_that_a_meter_has_seen(api):
    base = "/api/v1/meters/jobs"
    assert (await api.http.get(f"{base}/subjects")).json() == ["acme-prod", "other"]
    early = {"from": "2031-02-01T00:05:06Z", "to": "2031-02-01T01:05:06Z"}
    assert (await api.http.get(f"{base}/subjects", params=early)).json() == ["other"]
    assert (await api.refused(f"{base}/subjects", **{**early, "to": early["from"]})).endswith("cannot be equal")
    values = f"{base}/group-by/tier/values"
    assert (await api.http.get(values, params={"from": "2031-02-01T00:00:00Z"})).json() == ["", "a100", "h100"]
    assert (await api.http.get(values, params=early)).json() == ["a100"]
    assert (await api.http.get(values)).json() == []
    assert await api.refused(values, **{"from": "2030-11-01T00:00:00Z"})
    assert await api.refused(values, **{"from": "2031-01-01T00:00:00Z"})
    refused = await api.refused(f"{base}/group-by/x/values")
    assert refused.endswith("group by key is not valid for this meter")


async def test_events_of_the_last_days_with_what_is_wrong_with_them(api):
    items = (await api.http.get("/api/v1/events")).json()
    assert [item["event"]["id"] for item in items] == [f"e{n}" for n in reversed(range(48))]
    assert items[-1] == {
        "event": {
            "specversion": "1.0",
            "id": "e0",
            "source": "src",
            "type": "job",
            "subject": "other",
            "time": "2031-02-01T00:05:06Z",
            "datacontenttype": "application/json",
            "data": {"seconds": "0.25", "tier": "a100"},
        },
        "ingestedAt": "2031-02-01T00:05:09Z",
        "storedAt": "2031-02-01T00:05:09Z",
        "validationError": "no customer found for event subject: other",
    }
    (seventh,) = (await api.http.get("/api/v1/events?id=7&limit=100&to=2031-02-01T12:00:00Z")).json()
    assert seventh["customerId"] == ACME
    finding = "invalid event: value cannot be parsed as float64: many"
    assert seventh["validationError"] == f"{finding}\n{finding}"
    assert len((await api.http.get("/api/v1/events", params={"customerId": ACME})).json()) == 32
    assert (await api.http.get("/api/v1/events", params={"customerId": EMPTY})).json() == []
    assert (await api.http.get("/api/v1/events?id=%25&subject=other")).json() == []
    some = {"ingestedAtFrom": "2031-02-01T00:05:09.9Z", "ingestedAtTo": "2031-02-01T02:05:09Z"}
    assert [i["event"]["id"] for i in (await api.http.get("/api/v1/events", params=some)).json()] == ["e1", "e0"]
    assert "from date is too old" in await api.refused("/api/v1/events", **{"from": "2031-01-19T11:59:59Z"})
    wrong = {"from": "2031-02-02T00:00:00Z", "to": "2031-02-01T00:00:00Z"}
    assert "to date is before from date" in await api.refused("/api/v1/events", **wrong)
    assert "customers not found in namespace default" in await api.refused("/api/v1/events", customerId=new_id())


async def test_events_page_by_page_and_by_filters(api):
    seen, cursor = [], None
    while True:
        page = (
            await api.http.get("/api/v2/events", params={"limit": 12, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [item["event"]["id"] for item in page["items"]]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    assert page == {"items": []}
    assert seen == [f"e{n}" for n in reversed(range(48))]

    async def ids(**members: Any) -> list[str]:
        answer = await api.http.get("/api/v2/events", params={"filter": json.dumps(members)})
        assert answer.status_code == 200, answer.text
        return [item["event"]["id"] for item in answer.json()["items"]]

    assert await ids(id={"$in": ["e3", "e5"]}, type={"$like": "j%"}) == ["e5", "e3"]
    both = [{"$gte": "2031-02-01T02:05:06.789Z"}, {"$lt": "2031-02-01T04:05:06.789Z"}]
    assert await ids(time={"$and": both}) == ["e3", "e2"]
    assert await ids(time={"$or": [{"$lt": "2031-02-01T01:00:00Z"}, {"$gt": "2031-02-02T23:00:00Z"}]}) == ["e47", "e0"]
    assert len(await ids(customerId={"$eq": ACME})) == 32
    assert await ids(subject={"$in": []}) == []
    assert len(await ids(subject={})) == 48


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"cursor": "%%"}, "decode cursor: illegal base64"),
        ({"cursor": b64encode(b"x").decode()}, "cursor is invalid: no delimiter found"),
        ({"cursor": b64encode(b"2031-02-01T00:00:00Z,1-1-1-1").decode()}, "cursor is invalid"),
        ({"filter": "[]"}, "Error unmarshaling parameter filter as JSON"),
        ({"filter": '{"subject":"x"}'}, "Error unmarshaling parameter filter as JSON"),
        ({"filter": '{"what":{}}'}, "unknown filter"),
        (
            {"filter": '{"subject":{"$eq":"a","$ne":"b"}}'},
            "validate input: subject: validation error: filter is invalid: multiple operators are set",
        ),
        ({"filter": '{"subject":{"$eq":""}}'}, "filter is invalid: format mismatch"),
        ({"filter": '{"time":{"$eq":"2031-02-01T00:00:00Z"}}'}, "unknown operator $eq"),
        ({"filter": '{"time":{"$gt":"yesterday"}}'}, "filter is invalid"),
        ({"filter": '{"id":{"$and":[{"$or":[{"$eq":"a"}]}]}}'}, "filter complexity exceeds maximum allowed depth"),
        ({"filter": '{"customerId":{"$like":"a"}}'}, "only $eq and $in"),
        ({"limit": 101}, "limit"),
    ],
)
async def test_what_the_event_list_refuses(api, params, text):
    assert text in await api.refused("/api/v2/events", **params)
