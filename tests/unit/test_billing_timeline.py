"""When subscriptions are billed and for what, against naive enumerations."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.price import FlatPrice, PaymentTerm, UnitPrice
from billing.domain.rate_card import Phase, PlanBody, RateCard, plan_findings
from billing.domain.timeline import MINUTE, Charge, Timeline, ceil_minute, floor_minute

START = datetime(2026, 1, 1, tzinfo=UTC)
USAGE = RateCard("usage_based", "api", "API", "P1M", UnitPrice(Decimal(1)), feature_key="api")


def fee(term: PaymentTerm, cadence: str | None = "P1M", key: str = "fee") -> RateCard:
    return RateCard("flat_fee", key, "Fee", cadence, FlatPrice(Decimal(30), term))


def at(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def timeline(
    *phases: Phase,
    start: datetime = START,
    end: datetime | None = None,
    anchor: datetime | None = None,
    cadence: str = "P1M",
) -> Timeline:
    plan = PlanBody("USD", cadence, phases)
    return Timeline.of(plan, active_from=start, active_to=end, anchor=anchor or start)


def boundaries(line: Timeline, count: int) -> list[datetime]:
    found: list[datetime] = [line.start]
    while len(found) < count and (following := line.boundary_after(found[-1])) is not None:
        found.append(following)
    return found


def invoices(line: Timeline, count: int) -> list[tuple[Charge, ...]]:
    """The charges of the first invoices, that of the start first."""
    found = boundaries(line, count)
    return [line.charges(None, found[0]), *(line.charges(since, at) for since, at in pairwise(found))]


def shape(charges: tuple[Charge, ...]) -> list[tuple[str, datetime, datetime]]:
    return [(charge.card.key, *charge.served) for charge in charges]


def test_advance_comes_at_the_start_of_a_period_and_usage_after_its_end() -> None:
    line = timeline(Phase("main", "Main", (fee("in_advance"), USAGE, fee("in_arrears", "P3M", "support"))))
    first, second, third, fourth = invoices(line, 4)
    assert shape(first) == [("fee", START, at(2, 1))]
    assert shape(second) == [("fee", at(2, 1), at(3, 1)), ("api", START, at(2, 1))]
    assert shape(third) == [("fee", at(3, 1), at(4, 1)), ("api", at(2, 1), at(3, 1))]
    assert shape(fourth)[1:] == [("api", at(3, 1), at(4, 1)), ("support", START, at(4, 1))]


def test_an_anchor_before_the_start_makes_the_first_period_short() -> None:
    line = timeline(Phase("main", "Main", (fee("in_advance"), USAGE)), start=at(3, 15), anchor=START)
    first, second = invoices(line, 2)
    assert shape(first) == [("fee", at(3, 15), at(4, 1))]
    assert first[0].full == (at(3, 1), at(4, 1))
    assert shape(second)[1] == ("api", at(3, 15), at(4, 1))


def test_a_subscription_that_ends_is_billed_at_its_end_for_the_last_time() -> None:
    line = timeline(Phase("main", "Main", (fee("in_advance"), USAGE)), end=at(2, 10))
    assert boundaries(line, 9) == [START, at(2, 1), at(2, 10)]
    assert shape(invoices(line, 9)[1]) == [("fee", at(2, 1), at(2, 10)), ("api", START, at(2, 1))]
    assert shape(invoices(line, 9)[2]) == [("api", at(2, 1), at(2, 10))]


def test_phases_follow_each_other_and_cut_billing_periods() -> None:
    trial = Phase("trial", "Trial", (USAGE,), duration="P14D")
    line = timeline(trial, Phase("main", "Main", (fee("in_advance"), USAGE)))
    assert boundaries(line, 4) == [START, at(1, 15), at(2, 1), at(3, 1)]
    start, end_of_trial, first = invoices(line, 3)
    assert shape(start) == []
    assert shape(end_of_trial) == [("api", START, at(1, 15)), ("fee", at(1, 15), at(2, 1))]
    assert [charge.phase for charge in end_of_trial] == ["trial", "main"]
    assert shape(first) == [("fee", at(2, 1), at(3, 1)), ("api", at(1, 15), at(2, 1))]


def test_what_is_paid_once_is_paid_once() -> None:
    line = timeline(
        Phase("main", "Main", (fee("in_advance", None, "setup"), fee("in_arrears", None, "farewell"))), end=at(3, 1)
    )
    assert [shape(charges) for charges in invoices(line, 9)] == [
        [("setup", START, at(3, 1))],
        [],
        [("farewell", START, at(3, 1))],
    ]


def test_instants_are_cut_to_the_minute() -> None:
    line = timeline(Phase("main", "Main", (USAGE,)), start=START + timedelta(seconds=59, microseconds=1))
    assert line.start == START
    assert (floor_minute(START), ceil_minute(START)) == (START, START)
    assert ceil_minute(START + timedelta(microseconds=1)) == START + MINUTE


instants = st.integers(0, 400 * 24 * 60).map(lambda minutes: START + minutes * MINUTE)
cadences = st.sampled_from(["P1W", "P2W", "P1M", "P3M", "P1Y"])


@given(
    start=instants,
    anchor=instants,
    days=st.integers(1, 500),
    cadence=cadences,
    card_cadence=cadences,
    trial_days=st.integers(1, 60),
)
def test_every_minute_is_billed_once_by_each_card(
    *, start: datetime, anchor: datetime, days: int, cadence: str, card_cadence: str, trial_days: int
) -> None:
    end = start + timedelta(days=days)
    usage = RateCard("usage_based", "api", "API", card_cadence, UnitPrice(Decimal(1)), feature_key="api")
    cards = (usage, fee("in_advance", card_cadence, "early"), fee("in_arrears", card_cadence, "late"))
    trial = Phase("trial", "Trial", cards, duration=f"P{trial_days}D")
    line = timeline(trial, Phase("main", "Main", cards), start=start, end=end, anchor=anchor, cadence=cadence)
    all_boundaries = boundaries(line, 10_000)
    assert all_boundaries[-1] == end
    billed: dict[str, list[tuple[datetime, datetime]]] = {"api": [], "early": [], "late": []}
    for charges in invoices(line, 10_000):
        for charge in charges:
            billed[charge.card.key].append(charge.served)
            assert charge.full[0] <= charge.served[0] < charge.served[1] <= charge.full[1]
    for served in billed.values():
        served.sort()
        assert (served[0][0], served[-1][1]) == (start, end)
        assert all(before[1] == after[0] for before, after in pairwise(served))


@given(st.integers(0, 200 * 24 * 60))
def test_earlier_usage_is_found_again_from_the_period_that_a_late_event_is_in(minutes: int) -> None:
    line = timeline(Phase("main", "Main", (USAGE,)))
    found = boundaries(line, 9)
    late = START + minutes * MINUTE
    again = line.metered_before(found[-1], touching=late)
    expected = [(a, b) for a, b in pairwise(found) if b > late]
    assert [charge.served for charge in again] == expected


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (PlanBody("USD", "P1D", (Phase("a", "A", (USAGE,)),)), "plan_billing_cadence_invalid"),
        (PlanBody("USD", "P1M", ()), "plan_with_no_phases"),
        (PlanBody("USD", "P1M", (Phase("a", "A"),)), "plan_phase_has_no_rate_cards"),
        (PlanBody("USD", "P1M", (Phase("a", "A", (USAGE, USAGE)),)), "rate_card_duplicated_key"),
        (
            PlanBody("USD", "P1M", (Phase("a", "A", (USAGE,)), Phase("b", "B", (USAGE,)))),
            "plan_has_non_last_phase_with_no_duration",
        ),
        (PlanBody("USD", "P1M", (Phase("a", "A", (USAGE,), "P1M"),)), "plan_has_last_phase_with_duration"),
        (
            PlanBody("USD", "P1M", (Phase("a", "A", (RateCard("usage_based", "x", "X", "P1M", USAGE.price),)),)),
            "usage_based_price_with_no_feature",
        ),
        (
            PlanBody("USD", "P1M", (Phase("a", "A", (RateCard("flat_fee", "x", "X", "PT5M"),)),)),
            "billing_cadence_invalid_value",
        ),
    ],
)
def test_bad_plans_are_found(body: PlanBody, code: str) -> None:
    assert code in [finding.code for finding in plan_findings(body)]
