"""Records to events, ticks and rejections."""

import msgspec
import pytest

from metering.domain.event import TIME_MAX_US, Event, event_key
from sink.decode import decode
from sink.plan import Batch

TIME = 1_700_000_000_000_000


def event(number: int, *, namespace: str = "default", time: int = TIME) -> Event:
    return Event(namespace, f"e{number}", "test", "flight", "s", time, msgspec.Raw(b'{"n": 0.10}'))


def batch(*records: tuple[bytes | None, bytes]) -> Batch:
    return Batch(10, [key for key, _ in records], [5] * len(records), [value for _, value in records])


def record(of: Event) -> tuple[bytes, bytes]:
    return event_key(of.namespace, of.source, of.id), msgspec.json.encode(of)


TICK = (None, b"")


def test_events_and_ticks_are_told_apart() -> None:
    decoded = decode(batch(record(event(0)), TICK, record(event(1))), {"default"}.__contains__)
    assert [e.id for e in decoded.events] == ["e0", "e1"]
    assert decoded.indexes == [0, 2]
    assert decoded.ticks == 1
    assert decoded.rejected == []
    assert bytes(decoded.events[0].data) == b'{"n": 0.10}', "the digits as they were sent"


def test_a_batch_of_ticks_has_no_events() -> None:
    decoded = decode(batch(TICK, TICK), {"default"}.__contains__)
    assert (decoded.events, decoded.ticks) == ([], 2)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ((b"k" * 16, b"{"), "undecodable"),
        ((b"k" * 16, b"\xff\xfe"), "undecodable"),
        ((b"k" * 16, b""), "undecodable"),
        ((b"k" * 16, b'["default"]'), "undecodable"),
        ((b"k" * 16, b'["a","b","c","d","e",1,null],["a","b","c","d","e",1,null]'), "undecodable"),
        ((b"short", record(event(7))[1]), "invalid_key"),
        ((None, record(event(7))[1]), "invalid_key"),
        (record(event(7, namespace="other")), "unknown_namespace"),
        (record(event(7, time=0)), "time_out_of_range"),
        (record(event(7, time=TIME_MAX_US)), "time_out_of_range"),
    ],
)
def test_a_record_that_is_no_event_is_rejected_alone(bad: tuple[bytes | None, bytes], code: str) -> None:
    decoded = decode(batch(record(event(0)), bad, TICK, record(event(1))), {"default"}.__contains__)
    assert [(rejected.index, rejected.code) for rejected in decoded.rejected] == [(1, code)]
    assert decoded.indexes == [0, 3]
    assert [e.id for e in decoded.events] == ["e0", "e1"]
    assert len(decoded.keys) == 2
    assert decoded.ticks == 1
