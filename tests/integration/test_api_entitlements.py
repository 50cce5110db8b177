"""Entitlements, grants, resets and values over HTTP, on the real engines; no sink runs, so usage is put in by hand."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from metering.kafka.wire import CHANGE_DECODER
from tests.integration.balances_rig import wait_for
from tests.integration.test_api_resources import customer, key, meter, refused

if TYPE_CHECKING:
    from metering.kafka.wire import EntitlementChange
    from tests.integration.api_client import ApiClient

MONTHLY = {"usagePeriod": {"interval": "MONTH"}}


def feature(api: ApiClient, **members: Any) -> dict[str, Any]:
    body = {"key": key("f"), "name": "F", "meterSlug": meter(api)["slug"], **members}
    answer = api.post("/api/v1/features", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def entitle(api: ApiClient, customer_key: str, feature_key: str, **members: Any) -> dict[str, Any]:
    body = {"type": "metered", "featureKey": feature_key, **MONTHLY, **members}
    answer = api.post(f"/api/v2/customers/{customer_key}/entitlements", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def world(api: ApiClient, **members: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A customer, a feature, and the customer's entitlement to it."""
    owner = customer(api, usageAttribution={"subjectKeys": [key("s")]})
    what = feature(api)
    return owner, what, entitle(api, owner["key"], what["key"], **members)


def changes(api: ApiClient, customer_id: str) -> list[EntitlementChange]:
    """What the outbox has for the customer, in order."""

    async def read() -> list[bytes]:
        from sqlalchemy import select

        from metering.postgres.tables import outbox

        async with api.app.state.services.engine.connect() as connection:
            query = select(outbox.c.payload).order_by(outbox.c.sequence)
            return [row.payload for row in await connection.execute(query)]

    found = [CHANGE_DECODER.decode(payload) for payload in api.run(read())]
    return [each for each in found if each.customer == customer_id]


def minutes_ago(minutes: int) -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes)


def zulu(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_both_faces_show_the_same_entitlement(api: ApiClient) -> None:
    owner, what, made = world(api, issueAfterReset=500.50, issueAfterResetPriority=3)
    assert made["issueAfterReset"] == 500.5
    assert made["issue"] == {"amount": 500.5, "priority": 3}
    assert made["customerKey"] == owner["key"]
    assert made["usagePeriod"]["interval"] == "MONTH"
    assert made["usagePeriod"]["intervalISO"] == "P1M"
    assert made["currentUsagePeriod"]["from"] == made["measureUsageFrom"] == made["lastReset"]
    subject = owner["usageAttribution"]["subjectKeys"][0]
    old = api.get(f"/api/v1/subjects/{subject}/entitlements/{made['id']}").json()
    assert old["subjectKey"] == subject
    assert old["isUnlimited"] is False
    shared = made.keys() & old.keys()
    assert {name: made[name] for name in shared} == {name: old[name] for name in shared}
    assert api.get(f"/api/v1/entitlements/{made['id']}").json() == old
    assert api.get(f"/api/v2/entitlements/{made['id']}").json() == made
    assert api.get(f"/api/v2/customers/{owner['id']}/entitlements/{what['key']}").json() == made
    assert api.get(f"/api/v1/subjects/{subject}/entitlements").json() == [old]


def test_second_entitlement_names_the_first(api: ApiClient) -> None:
    owner, what, made = world(api)
    body = {"type": "boolean", "featureKey": what["key"]}
    answer = api.post(f"/api/v2/customers/{owner['key']}/entitlements", json=body)
    problem = refused(answer, 409, f"entitlement with id {made['id']} already exists")
    assert problem["extensions"] == {"conflictingEntityId": made["id"]}


@pytest.mark.parametrize(
    ("members", "status", "detail"),
    [
        ({"featureKey": None}, 400, "feature id or key must be set"),
        ({"featureKey": "missing"}, 404, "feature not found: missing"),
        ({"usagePeriod": None}, 400, "usage period is required"),
        ({"usagePeriod": {"interval": "PT30M"}}, 400, "UsagePeriod must be at least 1 hour"),
        ({"usagePeriod": {"interval": "OFTEN"}}, 400, "invalid ISO 8601 duration"),
        ({"type": "other"}, 400, 'Error at "/type"'),
        ({"type": "static"}, 400, "config is required"),
        ({"type": "static", "config": "{"}, 400, "invalid JSON config"),
        ({"issueAfterReset": -1}, 400, 'Error at "/issueAfterReset"'),
        ({"issueAfterReset": 1, "grants": [{"amount": 1, "effectiveAt": "2031-01-01T00:00:00Z"}]}, 400, "together"),
    ],
)
def test_entitlement_that_breaks_a_rule_is_refused(
    api: ApiClient, members: dict[str, Any], status: int, detail: str
) -> None:
    owner, what = customer(api), feature(api)
    body = {"type": "metered", "featureKey": what["key"], **MONTHLY, **members}
    refused(api.post(f"/api/v2/customers/{owner['key']}/entitlements", json=body), status, detail)


def test_metered_entitlement_needs_a_meter(api: ApiClient) -> None:
    owner, what = customer(api), feature(api, meterSlug=None)
    body = {"type": "metered", "featureKey": what["key"], **MONTHLY}
    answer = api.post(f"/api/v2/customers/{owner['key']}/entitlements", json=body)
    refused(answer, 400, f"invalid feature {what['key']}: Feature has no meter")


def test_static_and_boolean_give_what_they_say(api: ApiClient) -> None:
    owner = customer(api)
    static, boolean = feature(api), feature(api)
    config = '{"seats": 5}'
    entitle(api, owner["key"], static["key"], type="static", config=config, usagePeriod=None)
    entitle(api, owner["key"], boolean["key"], type="boolean", usagePeriod=None)
    access = api.get(f"/api/v1/customers/{owner['key']}/access").json()["entitlements"]
    assert access == {static["key"]: {"hasAccess": True, "config": config}, boolean["key"]: {"hasAccess": True}}
    path = f"/api/v1/customers/{owner['key']}/entitlements"
    assert api.get(f"{path}/{static['key']}/value").json() == {"hasAccess": True, "config": config}
    assert api.get(f"{path}/nothing/value").json() == {"hasAccess": False}
    grant = {"amount": 1, "effectiveAt": zulu(minutes_ago(0))}
    path = f"/api/v2/customers/{owner['key']}/entitlements/{static['key']}/grants"
    refused(api.post(path, json=grant), 400, "expected entitlement type metered but got static")


def test_v1_paths_need_a_subject_with_a_customer(api: ApiClient) -> None:
    lonely = key("s")
    refused(api.get(f"/api/v1/subjects/{lonely}/entitlements"), 404, "subject not found")
    (subject,) = api.post("/api/v1/subjects", json=[{"key": lonely}]).json()
    refused(api.get(f"/api/v1/subjects/{lonely}/entitlements"), 404, "customer not found")
    api.delete(f"/api/v1/subjects/{lonely}")
    refused(api.get(f"/api/v1/subjects/{subject['id']}/entitlements"), 412, "subject is deleted")


def test_entitlement_of_another_owner_is_not_found(api: ApiClient) -> None:
    _, _, made = world(api)
    stranger = customer(api)
    refused(api.get(f"/api/v2/customers/{stranger['key']}/entitlements/{made['id']}"), 404, "entitlement not found")


def test_customer_with_an_entitlement_stays_until_it_is_deleted(api: ApiClient) -> None:
    owner, what, made = world(api)
    refused(api.delete(f"/api/v1/customers/{owner['key']}"), 409, "still has active entitlements")
    path = f"/api/v2/customers/{owner['key']}/entitlements/{what['key']}"
    assert api.delete(path).status_code == 204
    refused(api.delete(path), 404)
    refused(api.get(f"/api/v1/entitlements/{made['id']}"), 404, f"entitlement not found {made['id']}")
    again = entitle(api, owner["key"], what["key"])
    assert again["id"] != made["id"]
    assert api.delete(path).status_code == 204
    assert api.delete(f"/api/v1/customers/{owner['key']}").status_code == 204
    assert [each.entitlement is None for each in changes(api, owner["id"])] == [False, True, False, True]


def test_override_ends_the_old_and_makes_a_new_one(api: ApiClient) -> None:
    owner, what, old = world(api, issueAfterReset=10)
    path = f"/api/v2/customers/{owner['key']}/entitlements/{what['key']}"
    body = {"type": "metered", "featureKey": what["key"], **MONTHLY, "issueAfterReset": 20}
    answer = api.put(f"{path}/override", json=body)
    assert answer.status_code == 201
    new = answer.json()
    assert new["id"] != old["id"]
    assert "activeTo" in api.get(f"/api/v2/entitlements/{old['id']}").json()
    assert api.get(f"{path}/value").json()["balance"] == 20
    other = feature(api)
    answer = api.put(f"{path}/override", json={**body, "featureKey": other["key"]})
    refused(answer, 400, "old and new entitlements belong to different features")


def test_grants_are_cut_to_the_minute_listed_and_voided(api: ApiClient) -> None:
    owner, what, _ = world(api)
    path = f"/api/v2/customers/{owner['key']}/entitlements/{what['key']}"
    at = minutes_ago(0) + timedelta(seconds=31)
    body = {
        "amount": 100.5,
        "effectiveAt": zulu(at),
        "priority": 5,
        "expiration": {"duration": "MONTH", "count": 3},
        "recurrence": {"interval": "DAY"},
        "metadata": {"a": "b"},
    }
    answer = api.post(f"{path}/grants", json=body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["effectiveAt"] == zulu(minutes_ago(0)) or made["effectiveAt"] == zulu(at.replace(second=0))
    assert made["maxRolloverAmount"] == made["amount"] == 100.5
    assert made["recurrence"]["anchor"] == made["effectiveAt"]
    assert made["metadata"] == {"a": "b"}
    assert api.get(f"{path}/value").json()["grantBalances"] == {made["id"]: 100.5}
    subject = owner["usageAttribution"]["subjectKeys"][0]
    (old,) = api.get(f"/api/v1/subjects/{subject}/entitlements/{what['key']}/grants").json()
    assert old["id"] == made["id"]
    assert api.delete(f"/api/v1/grants/{made['id']}").status_code == 204
    refused(api.delete(f"/api/v1/grants/{made['id']}"), 400, "grant already voided")
    refused(api.delete("/api/v1/grants/01K0ABCDEF0123456789ABCDEF"), 404, "grant not found: 01K0")
    listed = api.get(f"{path}/grants", params={"page": 1}).json()
    assert [("voidedAt" in each) for each in listed["items"]] == [True]
    assert api.get("/api/v2/grants", params={"customer": owner["key"]}).json()["totalCount"] == 1
    assert [each["id"] for each in api.get("/api/v1/grants", params={"feature": what["key"]}).json()] == [made["id"]]
    value = api.get(f"{path}/value").json()
    assert (value["balance"], value["hasAccess"]) == (0, False)


def test_v1_grant_must_expire_and_an_endless_one_is_shown_to(api: ApiClient) -> None:
    owner, what, _ = world(api, issueAfterReset=1)
    subject = owner["usageAttribution"]["subjectKeys"][0]
    path = f"/api/v1/subjects/{subject}/entitlements/{what['key']}/grants"
    (built_in,) = api.get(path).json()
    assert built_in["expiration"] == {"duration": "YEAR", "count": 100}
    assert built_in["annotations"] == {"issueAfterReset": True}
    body = {"amount": 1, "effectiveAt": zulu(minutes_ago(0))}
    refused(api.post(path, json=body), 400, 'property "expiration" is missing')
    made = api.post(path, json={**body, "expiration": {"duration": "DAY", "count": 1}}).json()
    assert made["maxRolloverAmount"] == 0


def test_grant_that_breaks_a_rule_is_refused(api: ApiClient) -> None:
    owner, what, _ = world(api)
    path = f"/api/v2/customers/{owner['key']}/entitlements/{what['key']}/grants"
    now = zulu(minutes_ago(0))
    problem = refused(api.post(path, json={"amount": 0, "effectiveAt": now}), 400)
    assert "detail" not in problem
    (finding,) = problem["extensions"]["validationErrors"]
    assert (finding["field"], finding["code"]) == ("$.amount", "grant_amount_must_be_positive")
    refused(api.post(path, json={"amount": -1, "effectiveAt": now}), 400, 'Error at "/amount"')
    early = zulu(minutes_ago(10))
    refused(api.post(path, json={"amount": 1, "effectiveAt": early}), 400, "is before the current usage period")
    refused(api.post(path, json={"amount": 1, "effectiveAt": now, "priority": 256}), 400, 'Error at "/priority"')


def test_reset_starts_anew_and_not_twice_in_a_minute(api: ApiClient) -> None:
    owner, what, made = world(api, measureUsageFrom=zulu(minutes_ago(60)), issueAfterReset=5)
    path = f"/api/v2/customers/{owner['key']}/entitlements/{what['key']}"
    assert made["measureUsageFrom"] == zulu(minutes_ago(60)) or made["measureUsageFrom"] == zulu(minutes_ago(61))
    refused(api.post(f"{path}/reset", content=b""), 400)
    future = {"effectiveAt": zulu(minutes_ago(-5))}
    refused(api.post(f"{path}/reset", json=future), 400, "in the future")
    early = {"effectiveAt": zulu(minutes_ago(5))}
    refused(api.post(f"{path}/reset", json=early), 400, "is before the current usage period")
    assert api.post(f"{path}/reset", json={}).status_code == 204
    refused(api.post(f"{path}/reset", json={"effectiveAt": zulu(minutes_ago(1))}), 400, "must be after last reset")
    shown = api.get(path).json()
    assert shown["lastReset"] == shown["currentUsagePeriod"]["from"]
    assert changes(api, owner["id"])[-1].entitlement is not None


def test_grants_made_at_once_are_all_in_the_last_change(api: ApiClient) -> None:
    owner, what, _ = world(api)
    path = f"/api/v2/customers/{owner['key']}/entitlements/{what['key']}/grants"
    body = {"amount": 1, "effectiveAt": zulu(minutes_ago(0))}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: api.post(path, json=body), range(16)))
    assert [each.status_code for each in made] == [201] * 16
    told = [each.entitlement for each in changes(api, owner["id"])]
    assert [len(each.grants) for each in told if each is not None] == list(range(17))


def test_one_of_many_entitlements_made_at_once_wins(api: ApiClient) -> None:
    owner, what = customer(api), feature(api)
    body = {"type": "metered", "featureKey": what["key"], **MONTHLY}
    with ThreadPoolExecutor(8) as pool:
        post = partial(api.post, f"/api/v2/customers/{owner['key']}/entitlements", json=body)
        made = list(pool.map(lambda _: post(), range(8)))
    assert sorted(each.status_code for each in made) == [201] + [409] * 7
    assert len(changes(api, owner["id"])) == 1


def test_change_of_attribution_tells_the_balances(api: ApiClient) -> None:
    owner, _, _ = world(api)
    subject = key("s")
    body = {"name": "New", "key": owner["key"], "usageAttribution": {"subjectKeys": [subject]}}
    assert api.put(f"/api/v1/customers/{owner['id']}", json=body).status_code == 200
    first, second = changes(api, owner["id"])
    assert first.entitlement is not None
    assert second.entitlement is not None
    assert set(second.entitlement.subjects) == {owner["key"], subject}
    assert second.entitlement.revision > first.entitlement.revision
    assert second.sequence > first.sequence


def test_new_version_of_a_meter_tells_the_balances(api: ApiClient) -> None:
    owner, what, _ = world(api)
    assert api.put(f"/api/v1/meters/{what['meterSlug']}", json={"groupBy": {"t": "$.t"}}).status_code == 200
    first, second = [each.entitlement for each in changes(api, owner["id"])]
    assert first is not None
    assert second is not None
    assert first.meter_key.endswith(".1")
    assert second.meter_key.endswith(".2")
    assert second.dimensions == ("t",)


def test_lists_filter_by_owner_feature_and_type(api: ApiClient) -> None:
    owner, what, made = world(api)
    by_owner = api.get("/api/v2/entitlements", params={"customerKeys": owner["key"]}).json()
    assert [each["id"] for each in by_owner["items"]] == [made["id"]]
    by_id = api.get("/api/v2/entitlements", params={"customerIds": owner["id"], "entitlementType": "static"}).json()
    assert by_id["items"] == []
    subject = owner["usageAttribution"]["subjectKeys"][0]
    bare = api.get("/api/v1/entitlements", params={"subject": subject, "feature": what["id"]}).json()
    assert [each["id"] for each in bare] == [made["id"]]
    assert api.get("/api/v1/entitlements", params={"subject": owner["key"]}).json() == []
    refused(api.get("/api/v1/entitlements", params={"entitlementType": "x"}), 400)


def test_value_at_a_time_before_it_was_active_is_no_access(api: ApiClient) -> None:
    owner, what, made = world(api, issueAfterReset=7)
    early = {"time": zulu(minutes_ago(90))}
    subject = owner["usageAttribution"]["subjectKeys"][0]
    path = f"/api/v1/customers/{owner['key']}/entitlements/{what['key']}/value"
    assert api.get(path, params=early).json() == {"hasAccess": False}
    of_subject = f"/api/v1/subjects/{subject}/entitlements"
    assert api.get(f"{of_subject}/{made['id']}/value", params=early).json() == {"hasAccess": False}
    refused(api.get(f"{of_subject}/{what['key']}/value", params=early), 404, f"entitlement not found {what['key']}")
    refused(api.get(path, params={"time": "2031-01-01"}), 400, 'parameter "time" in query has an error')
    later = api.get(path, params={"time": zulu(datetime.now(UTC) + timedelta(days=400))}).json()
    assert later["balance"] == 7


def test_value_counts_stored_usage(api: ApiClient) -> None:
    owner, what, made = world(api, issueAfterReset=100, measureUsageFrom=zulu(minutes_ago(60)))
    entitlement = changes(api, owner["id"])[-1].entitlement
    assert entitlement is not None
    store_usage(api, entitlement.meter_key, owner["key"], minutes_ago(0), Decimal("0.3"))
    store_usage(api, entitlement.meter_key, "stranger", minutes_ago(0), Decimal(50))
    value = api.get(f"/api/v2/customers/{owner['key']}/entitlements/{made['id']}/value").json()
    assert (value["usage"], value["balance"], value["totalAvailableGrantAmount"]) == (0.3, 99.7, 100)
    assert api.get(f"/api/v1/customers/{owner['key']}/access").json()["entitlements"][what["key"]] == value


def store_usage(api: ApiClient, meter_key: str, subject: str, minute: datetime, amount: Decimal) -> None:
    """As the sink would, once the meter's backfill is done."""

    async def store() -> None:
        from sqlalchemy import text

        services = api.app.state.services
        async with services.engine.begin() as connection:
            await connection.execute(
                text("UPDATE backfills SET done_at = now() WHERE meter_key = :key"), {"key": meter_key}
            )
        client = await services.clickhouse.client()
        columns = "namespace, meter, subject, dims, minute, ingest_minute, partition, a, events, count, sum"
        await client.command(
            f"INSERT INTO usage ({columns}) VALUES ('default', {{meter:String}}, {{subject:String}}, [],"
            " {minute:DateTime}, {minute:DateTime}, 0, {a:UInt64}, 1, 1, {amount:String})",
            {
                "meter": meter_key,
                "subject": subject,
                "minute": minute,
                "a": secrets.randbelow(10**9),
                "amount": str(amount),
            },
        )

    api.run(store())


def test_balances_on_a_meter_are_computed_anew_when_its_backfill_is_done(api: ApiClient) -> None:
    owner, what, _ = world(api)
    before = changes(api, owner["id"])
    meter_id = api.get(f"/api/v1/meters/{what['meterSlug']}").json()["id"]

    async def finish() -> None:
        from sqlalchemy import func, update

        from metering.postgres.tables import backfills

        done = update(backfills).where(backfills.c.meter_key.startswith(meter_id)).values(done_at=func.now())
        async with api.app.state.services.engine.begin() as connection:
            await connection.execute(done)

    api.run(finish())
    wait_for("the change that has it computed anew", lambda: len(changes(api, owner["id"])) > len(before))
    after = changes(api, owner["id"])[len(before) :]
    assert [each.entitlement for each in after] == [before[-1].entitlement]
    assert after[0].sequence > before[-1].sequence
