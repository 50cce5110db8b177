"""What is taken for an event and what isn't, against an oracle that shares no code with ingest."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.cloudevent import NotPlainError, Shape, plain_records
from ingest.limits import NAME_CHARACTERS_MAX
from ingest.scrutiny import scrutinise
from tests.unit.ingest_oracle import oracle, oracle_key
from tests.unit.ingest_post import NOW_US, PARTITIONS, Answer, post
from tests.unit.ingest_strategies import GOOD, any_events, near_events

ARGUMENTS: dict[str, Any] = {"namespace": "default", "partitions": PARTITIONS, "now": NOW_US, "events_max": 100}


def text(event: Any) -> bytes:
    return json.dumps(event).encode()


def with_(**members: Any) -> dict[str, Any]:
    return {**GOOD, **members}


def check_against_oracle(batch: list[Any], answer: Answer) -> None:
    found = [oracle(event, NOW_US) for event in batch]
    expected = [each for each in found if each is not None]
    if not batch or len(expected) < len(batch):
        assert answer.status == 400, answer.body
        assert not answer.kept.sent
        return
    assert answer.status == 204, answer.body
    got = [
        (key, (e.namespace, e.id, e.source, e.type, e.subject, e.time, json.loads(bytes(e.data))))
        for key, e in answer.kept.events
    ]
    wanted = [(oracle_key(e[1], e[0]), ("default", *e)) for e in expected]
    assert sorted(got, key=repr) == sorted(wanted, key=repr)
    for records in answer.kept.sent:
        for partition, each in records.partitions.items():
            assert all(int.from_bytes(r["key"][:8], "big") % PARTITIONS == partition for r in each)


@given(any_events)
def test_one_event_is_taken_exactly_when_the_rules_say_so(event: Any) -> None:
    body = text(event) if isinstance(event, dict) else text([event])
    check_against_oracle([event], post(body))


@given(st.lists(any_events, max_size=5))
def test_a_batch_is_taken_whole_or_not_at_all(batch: list[Any]) -> None:
    check_against_oracle(batch, post(text(batch)))


@given(st.lists(near_events, min_size=1, max_size=3))
def test_the_closer_look_finds_the_records_of_the_fast_way(batch: list[Any]) -> None:
    body = text(batch)
    slow = scrutinise(body, Shape.EITHER, **ARGUMENTS)
    try:
        fast = plain_records(body, Shape.EITHER, **ARGUMENTS)
    except NotPlainError:
        return
    assert fast == slow


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_any_bytes_get_an_answer(body: bytes) -> None:
    assert post(body).status in (204, 400)


@given(st.integers(0, 600), st.binary(min_size=1, max_size=3))
def test_a_damaged_body_gets_an_answer(at: int, damage: bytes) -> None:
    body = text([with_(data={"n": 1.5, "s": "ü"}, time="2031-02-03T04:05:06Z"), with_(id="ä", x="y")])
    at %= len(body)
    assert post(body[:at] + damage + body[at + len(damage) :]).status in (204, 400)


# --- single rules


@pytest.mark.parametrize(
    "number", ["1.0", "9007199254740993", "12345678901234567890", "0.1", "1e400", "1.2345678901234567890123456789012"]
)
def test_numbers_keep_every_digit(number: str) -> None:
    body = text(GOOD)[:-1] + b', "data": {"n": ' + number.encode() + b"}}"
    answer = post(body)
    assert answer.status == 204
    assert bytes(answer.kept.events[0][1].data) == b'{"n": ' + number.encode() + b"}"


@pytest.mark.parametrize("data", [{"n": None}, {"a": {"b": None}}, {}, None])
def test_null_members_of_data_are_taken(data: Any) -> None:
    assert post(text(with_(data=data))).status == 204


def test_an_event_without_a_time_gets_the_servers() -> None:
    assert post(text(GOOD)).kept.events[0][1].time == NOW_US


def test_finer_than_a_microsecond_is_cut_not_rounded() -> None:
    answer = post(text(with_(time="2031-01-31T23:59:59.9999999Z")))
    assert answer.kept.events[0][1].time == 1_927_670_399_999_999


@pytest.mark.parametrize(
    ("event", "pointer", "field"),
    [
        ({name: value for name, value in GOOD.items() if name != "source"}, "/source", "$.source"),
        (with_(id=""), "/id", "$.id"),
        (with_(id="a\0b"), "/id", "$.id"),
        (with_(subject="x" * (NAME_CHARACTERS_MAX + 1)), "/subject", "$.subject"),
        (with_(time="2031-02-03"), "/time", "$.time"),
        (with_(time="1970-01-01T00:00:00Z"), "/time", "$.time"),
        (with_(data=[]), "/data", "$.data"),
        (with_(data={"a": ["\0"]}), "/data", "$.data"),
        (with_(datacontenttype="text/xml"), "/datacontenttype", "$.datacontenttype"),
    ],
)
def test_a_refusal_names_the_member(event: dict[str, Any], pointer: str, field: str) -> None:
    problem = post(text(event), "application/cloudevents+json").problem
    start = f'request body has an error: doesn\'t match schema #/components/schemas/Event: Error at "{pointer}": '
    assert problem["detail"].startswith(start)
    assert problem["extensions"]["validationErrors"][0]["field"] == field
    start = "request body has an error: doesn't match schema #/components/schemas/IngestEventsBody: doesn't match any"
    assert post(text(event)).problem["detail"].startswith(f'{start} schema from "anyOf"')


def test_a_refusal_of_a_batch_names_the_event() -> None:
    problem = post(text([GOOD, with_(id=""), with_(type=1)])).problem
    assert 'Error at "/1/id"' in problem["detail"]
    assert [each["field"] for each in problem["extensions"]["validationErrors"]] == ["$[1].id", "$[2].type"]


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        (with_(specversion="2.0"), "invalid event: specversion: unknown value: 2.0\n"),
        (with_(source="not a uri %%"), "invalid event: cannot parse uri ref: not a uri %%"),
        (with_(bad_ext="x"), "invalid event: invalid extension name: bad_ext"),
        (with_(ext={}), "invalid event: invalid value of extension ext: neither text, number, boolean nor null"),
    ],
)
def test_what_is_json_but_no_cloudevent_is_refused_with_the_cause(event: dict[str, Any], detail: str) -> None:
    assert post(text(event), "application/cloudevents+json").problem["detail"] == detail
    assert post(text(event)).problem["detail"].startswith("invalid event: no events found")


def test_invalid_utf8_is_refused_wherever_it_is() -> None:
    for part in (b'"data": {"x": "\xff"}', b'"time": null, "dataschema": "\xc3"', b'"ext": "\xed\xa0\x80"'):
        answer = post(text(GOOD)[:-1] + b", " + part + b"}")
        assert answer.status == 400
        assert "invalid UTF-8" in answer.problem["detail"]


def test_deep_nesting_is_refused_or_taken_but_never_fatal() -> None:
    for depth in (10, 10_000, 200_000):
        body = text(GOOD)[:-1] + b', "data": {"x": ' + b"[" * depth + b"]" * depth + b"}}"
        assert post(body).status == (204 if depth == 10 else 400)
