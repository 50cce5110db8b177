"""Meters, subjects, customers and features over HTTP, on the real Postgres."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.api_client import ApiClient


def key(prefix: str = "k") -> str:
    return f"{prefix}_{secrets.token_hex(5)}"


def meter(api: ApiClient, **members: Any) -> dict[str, Any]:
    body = {"slug": key("m"), "eventType": "job", "aggregation": "SUM", "valueProperty": "$.n", **members}
    answer = api.post("/api/v1/meters", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def customer(api: ApiClient, **members: Any) -> dict[str, Any]:
    answer = api.post("/api/v1/customers", json={"name": "Acme", "key": key("c"), **members})
    assert answer.status_code == 201, answer.text
    return answer.json()


def refused(answer: Any, status: int, detail: str = "") -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["instance"].startswith("urn:request:")
    assert detail in body.get("detail", "")
    return body


def test_meter_prints_null_metadata_and_leaves_out_what_is_absent(api: ApiClient) -> None:
    made = meter(api, groupBy={"tier": "$.tier"})
    assert made["metadata"] is None
    assert made["annotations"] is None
    assert made["name"] == made["slug"]
    assert made["groupBy"] == {"tier": "$.tier"}
    assert not {"description", "eventFrom", "deletedAt"} & made.keys()
    assert api.get(f"/api/v1/meters/{made['slug']}").json() == made
    assert api.get(f"/api/v1/meters/{made['id'].lower()}").json() == made
    assert made in api.get("/api/v1/meters").json()


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"valueProperty": None}, "meter value property is required when the aggregation is not count"),
        ({"aggregation": "COUNT"}, "meter value property is not allowed when the aggregation is count"),
        ({"valueProperty": "n"}, "invalid JSONPath"),
        ({"groupBy": {"a": "$.n"}}, "meter group by value a cannot be the same as value property"),
        ({"groupBy": {"a-b": "$.x"}}, "meter group by key a-b is invalid"),
        ({"groupBy": {"subject": "$.x"}}, "built-in"),
        ({"description": ""}, "description must not be empty string"),
        ({"eventType": "system.tick"}, "matched reserved pattern 'system.*'"),
        ({"slug": "No"}, 'Error at "/slug"'),
        ({"aggregation": "MEDIAN"}, 'Error at "/aggregation"'),
        ({"eventFrom": "2031-01-01T00:00:00"}, 'Error at "/eventFrom"'),
    ],
)
def test_meter_that_breaks_a_rule_is_refused(api: ApiClient, members: dict[str, Any], detail: str) -> None:
    body = {"slug": key("m"), "eventType": "job", "aggregation": "SUM", "valueProperty": "$.n", **members}
    refused(api.post("/api/v1/meters", json=body), 400, detail)


def test_slug_is_free_again_after_delete_and_the_id_still_shows_the_old_meter(api: ApiClient) -> None:
    old = meter(api)
    refused(api.post("/api/v1/meters", json={**old, "valueProperty": "$.n"}), 409, "same slug already exists")
    assert api.delete(f"/api/v1/meters/{old['slug']}").status_code == 204
    assert api.delete(f"/api/v1/meters/{old['id']}").status_code == 204
    refused(api.delete(f"/api/v1/meters/{old['slug']}"), 404, f"not found error: meter not found: {old['slug']}")
    assert "deletedAt" in api.get(f"/api/v1/meters/{old['id']}").json()
    new = meter(api, slug=old["slug"])
    assert new["id"] != old["id"]


def test_meter_update_replaces_with_gaps(api: ApiClient) -> None:
    made = meter(api, name="A", description="B", groupBy={"a": "$.a"}, metadata={"x": "y"})
    changed = api.put(f"/api/v1/meters/{made['slug']}", json={"groupBy": {"b": "$.b"}, "aggregation": "COUNT"}).json()
    assert changed["name"] == made["slug"]
    assert changed["description"] == "B"
    assert changed["groupBy"] == {"b": "$.b"}
    assert changed["metadata"] is None
    assert changed["aggregation"] == "SUM"


def test_used_dimension_and_used_meter_stay(api: ApiClient) -> None:
    made = meter(api, groupBy={"tier": "$.tier"})
    body = {"key": key("f"), "name": "F", "meterSlug": made["slug"], "meterGroupByFilters": {"tier": "a"}}
    feature = api.post("/api/v1/features", json=body).json()
    assert feature["advancedMeterGroupByFilters"] == {"tier": {"$eq": "a"}}
    assert feature["meterGroupByFilters"] == {"tier": "a"}
    detail = f"tier cannot be dropped because it is used by feature: {feature['key']}"
    refused(api.put(f"/api/v1/meters/{made['slug']}", json={}), 409, detail)
    refused(api.delete(f"/api/v1/meters/{made['slug']}"), 409, "meter has active features")
    assert api.delete(f"/api/v1/features/{feature['key']}").status_code == 204
    assert api.delete(f"/api/v1/meters/{made['slug']}").status_code == 204


def test_subject_upsert_changes_only_what_is_sent(api: ApiClient) -> None:
    name = key("s")
    (made,) = api.post("/api/v1/subjects", json=[{"key": name, "displayName": "One", "metadata": {"a": 1}}]).json()
    assert made["metadata"] == {"a": 1}
    (changed,) = api.post("/api/v1/subjects", json=[{"key": name, "stripeCustomerId": "cus_1"}]).json()
    assert (changed["id"], changed["displayName"], changed["metadata"]) == (made["id"], "One", {"a": 1})
    (cleared,) = api.post("/api/v1/subjects", json=[{"key": name, "displayName": None}]).json()
    assert "displayName" not in cleared
    refused(api.post("/api/v1/subjects", json=[{"key": key()}, {"key": name, "stripeCustomerId": "no"}]), 400)
    assert api.delete(f"/api/v1/subjects/{name}").status_code == 204
    refused(api.get(f"/api/v1/subjects/{name}"), 404, f"subject not found [namespace=default subject.idOrKey={name}]")
    assert "deletedAt" in api.get(f"/api/v1/subjects/{made['id']}").json()


def test_customer_owns_its_subjects_alone(api: ApiClient) -> None:
    one, two = key("s"), key("s")
    first = customer(api, usageAttribution={"subjectKeys": [two, one]})
    assert first["usageAttribution"] == {"subjectKeys": sorted([one, two])}
    assert api.get(f"/api/v1/subjects/{one}").json()["metadata"]["customerId"] == first["id"]
    body = {"name": "B", "key": key("c"), "usageAttribution": {"subjectKeys": [one]}}
    refused(api.post("/api/v1/customers", json=body), 409, f"subject keys of [{one}] are already associated")
    refused(
        api.post("/api/v1/customers", json={"name": "B", "key": first["key"]}), 409, "is already used by an another"
    )
    refused(api.post("/api/v1/customers", json={"name": "B", "key": one}), 409)
    refused(api.post("/api/v1/customers", json={"name": "B", "key": first["id"]}), 409, "overlaps with id")
    taken = {"name": "B", "key": key("c"), "usageAttribution": {"subjectKeys": [first["key"]]}}
    refused(api.post("/api/v1/customers", json=taken), 409)
    refused(api.post("/api/v1/customers", json={"name": "B"}), 400, "must be provided")


def test_customer_update_frees_subjects_and_keeps_email(api: ApiClient) -> None:
    one = key("s")
    address = {"country": "US", "city": "Reno"}
    made = customer(
        api, usageAttribution={"subjectKeys": [one]}, primaryEmail="a@b.c", currency="USD", billingAddress=address
    )
    body = {"name": "New", "key": made["key"], "billingAddress": {"city": "Bern"}}
    changed = api.put(f"/api/v1/customers/{made['id']}", json=body).json()
    assert "usageAttribution" not in changed
    assert changed["primaryEmail"] == "a@b.c"
    assert changed["billingAddress"] == {"country": "US", "city": "Bern"}
    other = customer(api, usageAttribution={"subjectKeys": [one]})
    assert other["usageAttribution"] == {"subjectKeys": [one]}


def test_deleted_customer_is_shown_by_id_and_refuses_writes(api: ApiClient) -> None:
    made = customer(api, usageAttribution={"subjectKeys": [key("s")]})
    assert api.delete(f"/api/v1/customers/{made['key']}").status_code == 204
    refused(api.get(f"/api/v1/customers/{made['key']}"), 404, f"customer with id or key {made['key']} not found")
    shown = api.get(f"/api/v1/customers/{made['id']}").json()
    assert shown["usageAttribution"] == made["usageAttribution"]
    assert "deletedAt" in shown
    refused(api.delete(f"/api/v1/customers/{made['id']}"), 412, "customer is deleted")
    refused(api.get(f"/api/v1/customers/{made['id']}/access"), 412)
    again = customer(api, key=made["key"], usageAttribution=made["usageAttribution"])
    assert again["id"] != made["id"]


def test_customers_are_paged_and_filtered(api: ApiClient) -> None:
    mark = key("mark")
    made = [customer(api, name=f"{mark} {n}") for n in range(5)]
    page = api.get("/api/v1/customers", params={"name": mark.upper(), "page": 2, "pageSize": 2}).json()
    assert (page["page"], page["pageSize"], page["totalCount"]) == (2, 2, 5)
    assert [each["id"] for each in page["items"]] == [made[2]["id"], made[3]["id"]]
    after = api.get("/api/v1/customers", params={"name": mark, "page": 9}).json()
    assert (after["items"], after["totalCount"]) == ([], 5)
    assert api.get("/api/v1/customers", params={"name": "%"}).json()["totalCount"] == 0
    refused(api.get("/api/v1/customers", params={"pageSize": 1001}), 400, 'parameter "pageSize" in query has an error')
    refused(api.get("/api/v1/customers", params={"orderBy": "key"}), 400, 'parameter "orderBy" in query')


def test_subscribed_customer_stays_with_its_subjects(api: ApiClient) -> None:
    subject = key("s")
    owner = customer(api, usageAttribution={"subjectKeys": [subject]})
    price = {"type": "flat", "amount": "10", "paymentTerm": "in_advance"}
    card = {"type": "flat_fee", "key": "fee", "name": "Fee", "billingCadence": "P1M", "price": price}
    phase = {"key": "main", "name": "Main", "duration": None, "rateCards": [card]}
    body = {"name": "P", "key": key("p"), "currency": "USD", "billingCadence": "P1M", "phases": [phase]}
    plan = api.post("/api/v1/plans", json=body)
    assert plan.status_code == 201, plan.text
    assert api.post(f"/api/v1/plans/{plan.json()['id']}/publish").status_code == 200
    order = {"customerId": owner["id"], "plan": {"key": body["key"]}, "timing": "immediate"}
    made = api.post("/api/v1/subscriptions", json=order)
    assert made.status_code == 201, made.text
    path = f"/api/v1/customers/{owner['id']}"
    shown = api.get(path, params={"expand": "subscriptions"}).json()
    assert shown["currentSubscriptionId"] == made.json()["id"]
    assert "currentSubscriptionId" not in api.get(path).json()
    (listed,) = api.get("/api/v1/customers", params={"key": owner["key"]}).json()["items"]
    assert listed["currentSubscriptionId"] == made.json()["id"]
    refused(api.put(path, json={"name": "A", "key": owner["key"]}), 400, "cannot change subject keys for customer")
    same = {"name": "B", "key": owner["key"], "usageAttribution": {"subjectKeys": [subject]}}
    assert api.put(path, json=same).json()["name"] == "B"
    refused(api.delete(path), 400, "still have active subscriptions")


@pytest.mark.parametrize(
    ("members", "status", "detail"),
    [
        ({"meterSlug": "missing"}, 404, "meter not found: missing"),
        ({"meterGroupByFilters": {"a": "b"}}, 400, "available columns: []"),
        ({"key": "01arz3ndektsv4rrffq69g5fav"}, 400, "Feature key cannot be a valid ULID"),
        ({"unitCost": {"type": "manual", "amount": "-1"}}, 400, "manual unit cost amount must be non-negative"),
        ({"unitCost": {"type": "manual", "amount": "x"}}, 400, "request body has an error"),
        ({"unitCost": {"type": "llm"}}, 400, "llm unit cost requires a meter"),
    ],
)
def test_feature_that_breaks_a_rule_is_refused(
    api: ApiClient, members: dict[str, Any], status: int, detail: str
) -> None:
    refused(api.post("/api/v1/features", json={"key": key("f"), "name": "F", **members}), status, detail)


def test_feature_needs_a_countable_meter_and_its_columns(api: ApiClient) -> None:
    average = meter(api, aggregation="AVG")
    body = {"key": key("f"), "name": "F", "meterSlug": average["slug"]}
    refused(api.post("/api/v1/features", json=body), 400, f"meter {average['slug']}'s aggregation is AVG")
    counted = meter(api, groupBy={"t": "$.t"})
    body = {**body, "meterSlug": counted["slug"], "advancedMeterGroupByFilters": {"u": {"$eq": "x"}}}
    refused(api.post("/api/v1/features", json=body), 400, "available columns: [t]")


def test_feature_is_archived_and_made_anew(api: ApiClient) -> None:
    body = {"key": key("f"), "name": "F", "unitCost": {"type": "manual", "amount": "0.2500"}}
    made = api.post("/api/v1/features", json=body).json()
    assert made["unitCost"] == {"type": "manual", "amount": "0.25"}
    refused(api.post("/api/v1/features", json=body), 409, f"feature {made['id']} with key")
    assert api.delete(f"/api/v1/features/{made['id']}").status_code == 204
    refused(api.get(f"/api/v1/features/{made['id']}"), 404, f"feature not found: {made['id']}")
    again = api.post("/api/v1/features", json=body).json()
    assert again["id"] != made["id"]
    plain = api.get("/api/v1/features", params={"includeArchived": True, "limit": 1000}).json()
    assert {made["id"], again["id"]} <= {each["id"] for each in plain}
    paged = api.get("/api/v1/features", params={"page": 1}).json()
    assert made["id"] not in {each["id"] for each in paged["items"]}


def test_unknown_path_and_method_are_problems(api: ApiClient) -> None:
    assert "detail" not in refused(api.get("/api/v1/nothing"), 404)
    assert "detail" not in refused(api.put("/api/v1/meters"), 405)
    refused(api.get("/api/v1/meters/"), 404)


def test_bodies_that_are_no_json_are_refused_in_the_words_of_the_document(api: ApiClient) -> None:
    path = "/api/v1/customers"
    json_type = {"content-type": "application/json"}
    refused(api.post(path, content=b"{", headers=json_type), 400, "failed to decode request body")
    refused(api.post(path, content=b"", headers=json_type), 400, "request body has an error: value is required but")
    refused(api.post(path, content=b"{}", headers={"content-type": "text/plain"}), 400, 'unexpected value "text/plain"')
    refused(api.post(path, json={"key": "x"}), 400, 'Error at "/name": property "name" is missing')
    refused(api.post(path, content=b'{"name": "' + b"x" * 2_000_000 + b'"}', headers=json_type), 413)


def test_characters_that_no_field_takes_are_refused(api: ApiClient) -> None:
    refused(api.post("/api/v1/customers", json={"name": "a\x00b", "key": key()}), 400, "can't be stored")
    refused(api.get("/api/v1/customers/%00"), 400)
    surrogate = b'{"name": "\\ud800", "key": "x"}'
    refused(api.post("/api/v1/customers", content=surrogate, headers={"content-type": "application/json"}), 400)


def test_request_id_of_the_client_comes_back(api: ApiClient) -> None:
    answer = api.get("/api/v1/meters/none", headers={"x-request-id": "abc-1"})
    assert refused(answer, 404)["instance"] == "urn:request:abc-1"
    assert answer.headers["x-request-id"] == "abc-1"


def test_characters_that_html_reads_are_escaped(api: ApiClient) -> None:
    answer = api.post("/api/v1/customers", json={"name": "<&>\u2028", "key": key()})
    assert b'"name":"\\u003c\\u0026\\u003e\\u2028"' in answer.content
    assert answer.content.endswith(b"}\n")
    assert answer.json()["name"] == "<&>\u2028"


def test_document_lists_every_route_with_its_answers(api: ApiClient) -> None:
    document = api.get("/api/swagger.json").json()
    assert "post" in document["paths"]["/api/v1/events"]
    assert "get" in document["paths"]["/api/v1/customers/{customerIdOrKey}/entitlements/{featureKey}/value"]
    names = {schema["$ref"].rpartition("/")[2] for schema in _references(document)}
    assert names <= document["components"]["schemas"].keys()


def _references(node: Any) -> list[dict[str, str]]:
    if isinstance(node, dict):
        own = [node] if isinstance(node.get("$ref"), str) else []
        return own + [found for each in node.values() for found in _references(each)]
    if isinstance(node, list):
        return [found for each in node for found in _references(each)]
    return []


def test_process_tells_how_it_is(api: ApiClient) -> None:
    assert api.get("/healthz").status_code == 200
    assert api.get("/metrics").status_code == 200
    assert api.get("/readyz").json().keys() == {"postgres", "kafka", "balances"}
    lines = api.get("/api/v1/debug/metrics").text.splitlines()
    assert lines[:3] == [
        "# HELP openmeter_events Number of ingested events",
        "# TYPE openmeter_events counter",
        "# UNIT openmeter_events events",
    ]
