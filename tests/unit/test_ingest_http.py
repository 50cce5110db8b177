"""The ingest endpoint as HTTP: content types, bounds, encodings, and what is answered when Kafka is away."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
from prometheus_client import REGISTRY

from ingest.http import IngestEndpoint
from ingest.limits import EVENT_BYTES_MAX, IngestSettings
from ingest.openapi import OPENAPI
from metering.domain.errors import Unavailable
from tests.unit.ingest_post import Kept, post
from tests.unit.ingest_strategies import GOOD

ONE = json.dumps(GOOD).encode()
MANY = json.dumps([GOOD, {**GOOD, "id": "2"}]).encode()
CE, CE_BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (ONE, "application/json", 204),
        (MANY, "application/json", 204),
        (ONE, CE, 204),
        (MANY, CE_BATCH, 204),
        (ONE, "application/json; charset=utf-8", 204),
        (ONE, "Application/JSON", 204),
        (ONE, "application/cloudevents+json;charset=UTF-8", 204),
        (MANY, CE, 400),
        (ONE, CE_BATCH, 400),
        (ONE, "text/plain", 400),
        (ONE, None, 400),
        (b"[]", "application/json", 400),
        (b"[]", CE_BATCH, 204),
        (b" [ ] ", CE_BATCH, 204),
        (b"", "application/json", 400),
        (b"  ", CE_BATCH, 400),
        (b"null", "application/json", 400),
        (b'"x"', CE, 400),
    ],
)
def test_content_types_and_shapes(body: bytes, content_type: str | None, status: int) -> None:
    assert post(body, content_type).status == status


@pytest.mark.parametrize(
    ("body", "content_type", "detail"),
    [
        (ONE, "text/plain", 'request body has an error: header Content-Type has unexpected value "text/plain"'),
        (ONE, None, 'request body has an error: header Content-Type has unexpected value ""'),
        (b"", "application/json", "request body has an error: value is required but missing"),
        (b'{"id"', "application/json", "request body has an error: failed to decode request body: unexpected EOF"),
        (b"[]", "application/json", "invalid event: no events found"),
    ],
)
def test_details_that_clients_know(body: bytes, content_type: str | None, detail: str) -> None:
    problem = post(body, content_type).problem
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Bad Request", 400)
    assert problem["detail"] == detail
    assert problem["instance"].startswith("urn:request:")


def test_a_problem_is_json_with_a_newline_and_without_markup() -> None:
    answer = post(json.dumps({**GOOD, "specversion": "<&>"}).encode(), CE)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.body.endswith(b"}\n")
    assert b"\\u003c\\u0026\\u003e" in answer.body
    assert answer.problem["detail"] == "invalid event: specversion: unknown value: <&>\n"


def test_the_clients_request_id_is_named() -> None:
    assert post(b"", headers={"x-request-id": "abc-1"}).problem["instance"] == "urn:request:abc-1"
    assert post(b"", headers={"x-request-id": 'a"b'}).problem["instance"] != 'urn:request:a"b'


def test_a_body_in_pieces_is_put_together() -> None:
    assert post([ONE[:10], ONE[10:20], b"", ONE[20:]]).status == 204


def test_a_client_that_goes_away_within_its_body_gets_no_answer_and_sends_nothing() -> None:
    messages = [
        {"type": "http.request", "body": MANY[:-10], "more_body": True},
        {"type": "http.disconnect"},
    ]
    kept = Kept()
    endpoint = IngestEndpoint(kept, topic="events", partitions=4, namespace="default", settings=IngestSettings())

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(_: Any) -> None:
        pytest.fail("nobody is there to be answered")

    asyncio.run(endpoint({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive, send))
    assert not kept.sent


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_refused_while_it_is_read(declared: bool) -> None:
    settings = IngestSettings(body_bytes_max=2000)
    headers = {"content-length": "2001"} if declared else {}
    answer = post([b"x" * 1000] * 3, headers=headers, settings=settings)
    assert answer.status == 413
    assert answer.problem["detail"] == "the body is larger than 2000 bytes"


def test_a_batch_beyond_the_limit_is_refused() -> None:
    settings = IngestSettings(batch_events_max=2)
    assert post(MANY, settings=settings).status == 204
    answer = post(json.dumps([GOOD] * 3).encode(), settings=settings)
    assert answer.status == 413
    assert answer.problem["detail"] == "3 events in a batch, at most 2 are taken"


def test_an_event_beyond_what_a_record_holds_is_refused() -> None:
    for size, status in ((EVENT_BYTES_MAX - 1000, 204), (EVENT_BYTES_MAX, 400), (2 * EVENT_BYTES_MAX, 400)):
        assert post(json.dumps({**GOOD, "data": {"x": "a" * size}}).encode()).status == status


def test_gzip_is_unpacked() -> None:
    answer = post(gzip.compress(MANY), headers={"content-encoding": "gzip"})
    assert answer.status == 204
    assert {event.id for _, event in answer.kept.events} == {"req-7731", "2"}


def test_a_gzip_bomb_is_refused_without_being_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert post(bomb, headers={"content-encoding": "gzip"}).status == 413


@pytest.mark.parametrize(
    "body",
    [b"", b"no gzip", gzip.compress(ONE)[:-9], gzip.compress(ONE) + b"x", zlib.compress(ONE)],
    ids=["empty", "no gzip", "cut short", "more behind it", "zlib"],  # a gzip header has the time in it
)
def test_what_is_no_gzip_is_refused(body: bytes) -> None:
    assert post(body, headers={"content-encoding": "gzip"}).status == 400


def test_other_encodings_are_refused() -> None:
    assert post(ONE, headers={"content-encoding": "br"}).status == 415
    assert post(ONE, headers={"content-encoding": "identity"}).status == 204


def test_binary_mode() -> None:
    attributes = {"specversion": "1.0", "id": "7", "source": "a%20b", "type": "t", "subject": "s"}
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    answer = post(b'{"n": 1.00}', headers=headers)
    assert answer.status == 204
    ((_, event),) = answer.kept.events
    assert (event.id, event.source, bytes(event.data)) == ("7", "a b", b'{"n": 1.00}')
    assert post(b"", None, headers=headers).status == 204
    assert post(b"<x/>", "application/xml", headers=headers).status == 400
    assert post(b"1", headers=headers).status == 400
    assert post(b"{}", "text/xml", headers=headers).status == 400
    assert post(b"{}", headers={**headers, "ce-time": "2031-02-03"}).status == 400


def test_when_kafka_is_away_the_client_is_told_to_repeat() -> None:
    answer = post(ONE, sender=Kept(fail=Unavailable("Kafka did not acknowledge the events", 3)))
    assert answer.status == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.problem["title"] == "Service Unavailable"


def test_what_happens_is_counted() -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    accepted = value("weighbridge_ingest_events_accepted_total")
    refused = value("weighbridge_ingest_requests_refused_total", reason="missing")
    post(MANY)
    post(b"{}")
    assert value("weighbridge_ingest_events_accepted_total") == accepted + 2
    assert value("weighbridge_ingest_requests_refused_total", reason="missing") == refused + 1


def test_the_document_describes_the_endpoint() -> None:
    operation = OPENAPI["paths"]["/api/v1/events"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", CE, CE_BATCH}
    assert {"204", "400", "413", "415", "503"} == set(operation["responses"])
    references = json.dumps(OPENAPI).split('"$ref": "#/components/schemas/')[1:]
    assert {each.split('"')[0] for each in references} <= set(OPENAPI["components"]["schemas"])
