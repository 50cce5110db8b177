"""The book's rules one at a time, among them the schedules that the explicit-state models printed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metering.domain.balance import Record, computed, counts, gone, joined, merged, settled, tells, value
from metering.domain.balance_book import Book, Change, Key
from metering.domain.balance_log import BalanceLog
from metering.domain.consumption import Latest, digest, minute_of, point
from metering.domain.entitlement import DimensionFilter, Entitlement, Grant
from metering.domain.errors import InvalidInput
from metering.domain.meter import Aggregation
from metering.domain.period import Interval
from metering.kafka.wire import Cell, Delta

START = datetime(2031, 2, 1, tzinfo=UTC)
NOW = START + timedelta(hours=3)
KEY = Key("n", "C", "f")
MINUTE = minute_of(START)


def an_entitlement(**changes: object) -> Entitlement:
    plain = Entitlement(
        id="E", namespace="n", customer_id="C", feature_key="f", meter_key="M.1", aggregation=Aggregation.SUM,
        dimensions=("tier",), filters=(), subjects=("s",), revision=1, measure_usage_from=START,
        interval=Interval.parse("DAY"), anchor=START, active_from=START, grants=(Grant("g", Decimal(100), START, START),),
    )  # fmt: skip
    return replace(plain, **changes)


def a_delta(
    q: int, start: int, amount: int, *, end: int | None = None, revision: int = 1, minute: int = MINUTE
) -> Delta:
    cell = Cell("n", "C", "M.1", ("a",), minute, 1, 1, Decimal(amount), None, None, None, 0, 0, ())
    return Delta(q, start, end or start + 1, 1, revision, 0, [cell] if amount else [])


def a_book() -> Book:
    """With one balance of 0, at (0, 0)."""
    book = Book(2)
    book.take_change(Change(1, KEY, an_entitlement()))
    book.reached((0, 0), [1, 1])
    (task,) = book.hold(10)
    assert book.install(task, (0, 0), {}, NOW)
    return book


def used(book: Book) -> Decimal:
    found = value(book.records[KEY], NOW)
    assert found is not None
    return found.usage


def test_a_repeated_delta_is_skipped_and_a_batch_is_one_record() -> None:
    book = a_book()
    book.unwritten(NOW)
    for delta in (a_delta(0, 0, 1), a_delta(0, 1, 2), a_delta(0, 0, 1), a_delta(1, 0, 4)):
        book.take_delta(delta)
    ((key, record),) = book.unwritten(NOW)
    assert (key, record.vector, used(book)) == (KEY, (2, 1), 7)
    assert book.unwritten(NOW) == []
    book.take_delta(a_delta(1, 1, 0))
    assert (book.unwritten(NOW), book.passed) == ([], (2, 2))


def test_model_recompute_older_than_the_record_is_refused() -> None:
    """Computed at W = (2, 1), then (1, [1, 2)) is applied; the late install would lose it."""
    book = a_book()
    for delta in (a_delta(0, 0, 1), a_delta(0, 1, 2), a_delta(1, 0, 4)):
        book.take_delta(delta)
    book.take_delta(a_delta(1, 1, 8))
    book.take_change(Change(2, KEY, an_entitlement()))
    (task,) = book.hold(10)
    assert not book.install(task, (2, 1), {MINUTE: Decimal(7)}, NOW)
    assert book.held() == [task]
    assert book.install(task, (2, 2), {MINUTE: Decimal(15)}, NOW)
    assert used(book) == 15


def test_model_deltas_during_a_recompute_wait_and_are_applied_once() -> None:
    book = a_book()
    book.take_delta(a_delta(0, 0, 1))
    book.take_change(Change(2, KEY, an_entitlement()))
    (task,) = book.hold(10)
    book.take_delta(a_delta(0, 1, 2))
    book.take_delta(a_delta(1, 0, 4))
    assert not book.is_whole  # so neither what has passed nor the input's offsets may be written
    assert book.unwritten(NOW) == []
    assert book.waiting_minutes == 2
    assert book.install(task, (2, 0), {MINUTE: Decimal(3)}, NOW)
    assert (used(book), book.is_whole, book.waiting_minutes) == (7, True, 0)
    ((_, record),) = book.unwritten(NOW)
    assert record.vector == (2, 1)


def test_model_attribution_waits_for_every_partition_to_cut_over() -> None:
    book = a_book()
    book.take_change(Change(2, KEY, an_entitlement(revision=2)))
    book.take_delta(a_delta(0, 0, 1, revision=2))
    assert (book.hold(10), book.has_work) == ([], False)
    book.take_delta(a_delta(1, 0, 0, revision=2))
    (task,) = book.hold(10)
    assert (task.sequence, task.floor) == (2, (1, 1))


@pytest.mark.parametrize(("start", "floor"), [(5, (6, 0)), (0, (3, 0))])
def test_a_gap_or_an_overlap_makes_the_record_stale(start: int, floor: tuple[int, int]) -> None:
    book = a_book()
    book.take_delta(a_delta(0, 0, 1, end=2))
    book.take_delta(a_delta(0, start, 2, end=floor[0]))
    assert not book.is_whole
    (task,) = book.hold(10)
    assert task.floor == floor
    assert book.install(task, floor, {MINUTE: Decimal(9)}, NOW)
    assert used(book) == 9


def test_a_gap_while_held_raises_what_the_recompute_must_reach() -> None:
    book = a_book()
    book.take_change(Change(2, KEY, an_entitlement()))
    (task,) = book.hold(10)
    book.take_delta(a_delta(0, 4, 1))
    assert not book.install(task, (3, 0), {}, NOW)
    assert book.install(task, (4, 0), {}, NOW)
    assert used(book) == 1


def test_an_end_while_held_wins_and_a_later_change_brings_it_back() -> None:
    book = a_book()
    book.take_change(Change(2, KEY, an_entitlement()))
    (task,) = book.hold(10)
    book.take_change(Change(3, KEY, None))
    assert book.install(task, (0, 0), {MINUTE: Decimal(9)}, NOW)
    assert book.records[KEY].entitlement is None
    book.take_change(Change(2, KEY, an_entitlement()))
    assert not book.has_work
    book.take_change(Change(4, KEY, an_entitlement()))
    (task,) = book.hold(10)
    assert book.install(task, (0, 0), {}, NOW)
    assert used(book) == 0


def test_usage_before_the_snapshot_makes_it_stale() -> None:
    book = a_book()
    for n in range(20):  # enough to be settled
        book.take_delta(a_delta(0, n, 1, minute=MINUTE + n))
    ((_, record),) = book.unwritten(START + timedelta(days=3))
    assert record.snapshot is not None
    assert record.snapshot.at == START + timedelta(days=2)
    book.take_delta(a_delta(0, 20, 1, minute=MINUTE))
    assert not book.is_whole


def test_recovered_records_take_what_is_above_the_higher_of_both_vectors() -> None:
    book = a_book()
    book.take_delta(a_delta(0, 0, 1))
    ((_, record),) = book.unwritten(NOW)
    other = Key("n", "C", "g")
    idle = computed(2, an_entitlement(feature_key="g"), {}, (0, 0))
    again = Book(2, {KEY: record, other: idle}, ())
    again.take_delta(a_delta(0, 0, 1))
    assert (used(again), value(again.records[other], NOW).usage) == (1, 1)  # type: ignore[union-attr]


def test_filters_meters_and_time_decide_what_counts() -> None:
    gold = DimensionFilter("tier", "$in", ("gold", "a"))
    assert counts(an_entitlement(filters=(gold,)), ["a"])
    assert not counts(an_entitlement(filters=(gold, DimensionFilter("tier", "$ne", ("a",)))), ["a"])
    book = a_book()
    for q, meter, minute in ((0, "M.2", MINUTE), (1, "M.1", MINUTE - 1)):
        cell = Cell("n", "C", meter, ("a",), minute, 1, 1, Decimal(5), None, None, None, 0, 0, ())
        book.take_delta(Delta(q, 0, 1, 1, 1, 0, [cell]))
    assert (used(book), book.is_whole) == (0, True)


def test_unique_values_and_latest_values_merge_in_any_order() -> None:
    one, two = frozenset({digest("a"), digest("b")}), frozenset({digest("b")})
    record = computed(1, an_entitlement(aggregation=Aggregation.UNIQUE_COUNT), {MINUTE: one}, (0,))
    after = merged(record, {MINUTE + 5: two})
    assert isinstance(after, Record)
    assert value(settled(after, NOW), NOW).usage == 2  # type: ignore[union-attr]
    old, new = Latest(5, 0, 0, 9, Decimal(30)), Latest(6, 0, 0, 2, Decimal(20))
    for first, second in ((old, new), (new, old)):
        gauge = computed(1, an_entitlement(aggregation=Aggregation.LATEST), {MINUTE: first}, (0,))
        after = merged(gauge, {MINUTE: second})
        assert isinstance(after, Record)
        assert value(after, NOW).balance == 80  # type: ignore[union-attr]


def test_merging_the_past_changes_no_later_value() -> None:
    usage = {MINUTE + n: Decimal(1) for n in range(0, 4000, 7)}
    record = computed(1, an_entitlement(preserve_overage_at_reset=True), usage, (0,))
    later = START + timedelta(minutes=3000)
    small = settled(record, later)
    assert len([minute for minute in small.usage if minute < MINUTE + 3000]) <= 2
    assert tells(small, later)
    assert not tells(small, START)
    for hours in (50, 60, 90):
        at = START + timedelta(hours=hours)
        assert value(small, at) == value(record, at)
    assert value(gone(2, (0,)), NOW) is None


def test_a_log_ignores_an_owner_that_has_lost_and_knows_what_it_displaced() -> None:
    log: BalanceLog[str, str] = BalanceLog()
    assert log.take_record(1, "a", "valid")
    assert log.admits(2)
    assert not log.take_record(1, "a", "lost")
    assert not log.take_passed(1, (9,))
    assert (log.records, log.displaced, log.passed) == ({"a": "valid"}, {"a"}, ())
    assert log.take_passed(2, (3,))
    assert log.take_record(2, "a", "again")
    assert (log.displaced, log.passed) == (set(), (3,))


def test_vectors_of_different_lengths_join() -> None:
    assert joined((1, 5), (2,)) == (2, 5)
    assert joined((), (0, 3)) == (0, 3)


def test_a_meter_without_a_sum_has_no_balance() -> None:
    book = a_book()
    book.take_change(Change(2, KEY, an_entitlement(aggregation=Aggregation.AVG)))
    assert value(book.records[KEY], NOW) is None
    with pytest.raises(InvalidInput):
        point(Aggregation.AVG, a_delta(0, 0, 1).cells[0], 0)
