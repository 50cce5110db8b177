"""Tallies, canonical bytes, the audit chain."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.audit import Entry, first_break, next_entry
from billing.domain.canonical import canonical
from billing.domain.evidence import Tally, Used
from metering.domain.meter import Aggregation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
values = st.decimals(-(10**12), 10**12, places=12, allow_nan=False).map(Decimal)


def used(n: int, value: Decimal | str) -> Used:
    return Used(n.to_bytes(16, "big"), value, (n % 7, n % 3, n % 2, n))


def tally(events: list[Used]) -> Tally:
    made = Tally()
    made.add(events)
    return made


@given(st.lists(values, max_size=30), st.randoms(use_true_random=False))
def test_a_tally_knows_no_order_and_is_exact(amounts: list[Decimal], rng: random.Random) -> None:
    events = [used(n, amount) for n, amount in enumerate(amounts)]
    shuffled = rng.sample(events, len(events))
    for aggregation in (a for a in Aggregation if a is not Aggregation.UNIQUE_COUNT):
        assert tally(events).reading(aggregation) == tally(shuffled).reading(aggregation)
    units = [int(amount.scaleb(12)) for amount in amounts]
    assert tally(events).reading(Aggregation.SUM).quantity == Decimal(sum(units)).scaleb(-12)
    assert tally(events).reading(Aggregation.COUNT).quantity == len(amounts)
    if amounts:
        last = max(range(len(events)), key=lambda n: (n % 7, n % 3, n % 2, n))
        assert tally(events).reading(Aggregation.LATEST).quantity == amounts[last]
        assert tally(events).reading(Aggregation.MAX).quantity == max(amounts)
        assert tally(events).reading(Aggregation.MIN).quantity == min(amounts)


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_unique_values_are_counted(texts: list[str]) -> None:
    events = [used(n, text) for n, text in enumerate(texts)]
    assert tally(events).reading(Aggregation.UNIQUE_COUNT).quantity == len(set(texts))


def test_the_digest_notices_an_event_that_is_there_twice_or_missing_or_changed() -> None:
    events = [used(1, Decimal(5)), used(2, Decimal(5))]
    digests = {
        tally(some).reading(Aggregation.SUM).digest
        for some in ([], events, [*events, *events], events[:1], [events[0], used(2, Decimal("5.1"))])
    }
    assert len(digests) == 5


def test_equal_numbers_have_equal_digests() -> None:
    assert tally([used(1, Decimal("5.10"))]).digest == tally([used(1, Decimal("5.1"))]).digest


def test_canonical_bytes() -> None:
    berlin = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    document = {"b": [Decimal("1.50"), True, None], "a": berlin, "é": 1}
    assert canonical(document) == '{"a":"2026-01-01T00:00:00Z","b":["1.5",true,null],"é":1}'.encode()
    with pytest.raises(TypeError, match="float"):
        canonical({"a": 0.5})


def chain(count: int) -> list[Entry]:
    entries: list[Entry] = []
    for n in range(count):
        last = entries[-1] if entries else None
        entries.append(
            next_entry(
                last, at=NOW + n * timedelta(seconds=1), actor="api", action="a", subject=f"s/{n}", details={"n": n}
            )
        )
    return entries


@given(st.integers(1, 8), st.data())
def test_a_changed_or_missing_entry_breaks_the_chain(count: int, data: st.DataObject) -> None:
    entries = chain(count)
    assert first_break(entries) is None
    n = data.draw(st.integers(0, count - 1))
    changes: list[dict[str, Any]] = [
        {"at": NOW - timedelta(days=1)},
        {"actor": "x"},
        {"action": "b"},
        {"subject": "x"},
        {"details": {"n": -1}},
        {"previous": "f" * 64},
        {"hash": "f" * 64},
    ]
    changed = replace(entries[n], **data.draw(st.sampled_from(changes)))
    assert first_break([*entries[:n], changed, *entries[n + 1 :]]) == n + 1
    if n < count - 1:
        assert first_break(entries[:n] + entries[n + 1 :]) == n + 1
