"""Balances on the real engines: deltas by hand, through kills, repetitions, gaps and late events."""

import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from metering.balances.view import BalanceView
from metering.domain.consumption import minute_of
from metering.domain.entitlement import Entitlement, Grant
from metering.domain.meter import Aggregation
from metering.domain.period import Interval
from metering.settings import EngineSettings
from tests.conftest import ClickHouseDatabase, EngineUrls
from tests.integration.balances_rig import DEADLINE_SECONDS, Rig, Use, wait_for

NOW = datetime.now(UTC).replace(second=0, microsecond=0)
MINUTE = minute_of(NOW)
FULL = Decimal(1_000_000)


@pytest.fixture
def rig(
    engines: EngineUrls, postgres_url: str, clickhouse_database: ClickHouseDatabase, topic_prefix: str, tmp_path: Path
) -> Iterator[Rig]:
    settings = EngineSettings(
        kafka_bootstrap=engines.kafka_bootstrap, topic_prefix=topic_prefix, event_partitions=2, balance_partitions=2,
        postgres_url=postgres_url, clickhouse_url=clickhouse_database.url, clickhouse_database=clickhouse_database.name, home=tmp_path,
    )  # fmt: skip
    rig = Rig(settings, tmp_path)
    yield rig
    rig.close()


def an_entitlement(customer: str, **changes: object) -> Entitlement:
    start = NOW - timedelta(days=3)
    plain = Entitlement(
        id=f"E-{customer}", namespace="default", customer_id=customer, feature_key="gpu", meter_key="M.1",
        aggregation=Aggregation.SUM, dimensions=(), filters=(), subjects=(f"s-{customer}",), revision=1, measure_usage_from=start,
        interval=Interval.parse("MONTH"), anchor=start, active_from=start, grants=(Grant("G", FULL, start, start),),
    )  # fmt: skip
    return replace(plain, **changes)


def use(customer: str, amount: int, minute: int = MINUTE) -> Use:
    return Use(customer, minute, amount, subject=f"s-{customer}")


def used(view: BalanceView, customer: str) -> Decimal | None:
    balance = view.value("default", customer, "gpu", NOW + timedelta(minutes=5))
    return None if balance is None else balance.usage


def test_usage_before_and_after_the_entitlement_counts_once(rig: Rig) -> None:
    first = rig.flush(0, [use("C", 1), use("D", 100)])
    rig.flush(1, [use("C", 2)])
    rig.change("C", "gpu", an_entitlement("C"))
    rig.start()
    with rig.view() as view:
        wait_for("the computed balance", lambda: used(view, "C") == 3)
        rig.send(first)
        rig.flush(0, [use("C", 4)])
        rig.flush(1, [])
        wait_for("the next delta", lambda: used(view, "C") == 7)
        wait_for("all partitions to pass", lambda: view.vector("default", "C") == (3, 2))
        record = view.get("default", "C", "gpu")
        assert record is not None
        assert record.vector == (3, 2)
        assert used(view, "D") is None
        rig.change("C", "gpu", None)
        wait_for("the end of the entitlement", lambda: used(view, "C") is None)


def test_a_killed_process_comes_back_in_seconds_with_every_sum_right(rig: Rig, seeds: int) -> None:
    rng = random.Random(seeds)
    customers = [f"C{n}" for n in range(20)]
    expected = dict.fromkeys(customers, 0)
    rig.flush(0, [])
    rig.flush(1, [])
    for customer in customers:
        rig.change(customer, "gpu", an_entitlement(customer))
    process = rig.start()
    with rig.view() as view:
        wait_for("the first balances", lambda: all(used(view, c) == 0 for c in customers))
        for round_ in range(3 * seeds):
            sent = []
            for _ in range(30):
                uses = [use(rng.choice(customers), rng.randint(1, 9)) for _ in range(rng.randint(0, 20))]
                for u in uses:
                    expected[u.customer] += u.amount
                sent.append(rig.flush(rng.randint(0, 1), uses))
                if rng.random() < 0.3:
                    rig.send(rng.choice(sent))
            rig.kill(process)
            process = rig.start()
            wait_for(f"all sums after kill {round_}", lambda: all(used(view, c) == n for c, n in expected.items()))
    with rig.view() as fresh:
        assert {c: used(fresh, c) for c in customers} == expected


def test_a_lost_delta_is_made_up_from_the_source(rig: Rig) -> None:
    rig.flush(0, [])
    rig.flush(1, [])
    rig.change("C", "gpu", an_entitlement("C"))
    rig.start()
    with rig.view() as view:
        wait_for("the balance", lambda: used(view, "C") == 0)
        rig.flush(0, [use("C", 5)], send=False)
        rig.flush(0, [use("C", 6)])
        wait_for("both", lambda: used(view, "C") == 11)


def test_a_late_event_from_before_the_snapshot_counts(rig: Rig) -> None:
    start = NOW - timedelta(days=3)
    rig.flush(0, [])
    rig.flush(1, [])
    daily = an_entitlement(
        "C", interval=Interval.parse("DAY"), preserve_overage_at_reset=True, grants=(), measure_usage_from=start
    )
    rig.change("C", "gpu", daily)
    rig.start()
    with rig.view() as view:
        wait_for("the balance", lambda: used(view, "C") == 0)
        record = view.get("default", "C", "gpu")
        assert record is not None
        assert record.snapshot is not None
        assert record.snapshot.at > start
        rig.flush(1, [use("C", 5, minute_of(start))])
        wait_for("the overage that is carried to today", lambda: view.value("default", "C", "gpu", NOW).overage == 5)  # type: ignore[union-attr]


def test_attribution_waits_until_every_partition_has_cut_over(rig: Rig) -> None:
    rig.flush(0, [use("C", 1), Use("C", MINUTE, 10, subject="shared")])
    rig.flush(1, [])
    rig.change("C", "gpu", an_entitlement("C", subjects=("s-C", "shared")))
    rig.change("D", "gpu", an_entitlement("D"))
    rig.start()
    with rig.view() as view:
        wait_for("the balances", lambda: (used(view, "C"), used(view, "D")) == (11, 0))
        rig.change("C", "gpu", an_entitlement("C", revision=2))
        rig.change("D", "gpu", an_entitlement("D", revision=2, subjects=("s-D", "shared")))
        rig.flush(0, [Use("D", MINUTE, 20, subject="shared")], revision=2)
        rig.flush(1, [Use("C", MINUTE, 40, subject="shared")], revision=1)  # not cut over yet
        rig.flush(1, [], revision=2)
        wait_for("the moved subject", lambda: (used(view, "C"), used(view, "D")) == (1, 70))


def test_lost_balances_are_computed_anew(rig: Rig, topic_prefix: str) -> None:
    """The deltas are read and forgotten, the balances topic is empty: all comes from the source."""
    rig.flush(0, [use("C", 3)], send=False)
    rig.flush(1, [use("C", 4)], send=False)
    rig.change("C", "gpu", an_entitlement("C"))
    rig.start()
    with rig.view() as view:
        wait_for("the balance", lambda: used(view, "C") == 7)
        rig.flush(0, [use("C", 8)])
        wait_for("the next delta", lambda: used(view, "C") == 15)


def test_a_second_process_takes_over_half_and_all(rig: Rig) -> None:
    customers = [f"C{n}" for n in range(12)]
    rig.flush(0, [])
    rig.flush(1, [])
    for customer in customers:
        rig.change(customer, "gpu", an_entitlement(customer))
    one = rig.start("one")
    with rig.view() as view:
        wait_for("the balances", lambda: all(used(view, c) == 0 for c in customers))
        rig.start("two")
        rig.flush(0, [use(c, 1) for c in customers])
        wait_for("sums during the rebalance", lambda: all(used(view, c) == 1 for c in customers))
        rig.kill(one)
        rig.flush(1, [use(c, 2) for c in customers])
        wait_for("sums after the loss of one", lambda: all(used(view, c) == 3 for c in customers))


def test_a_process_stopped_past_its_session_and_continued_harms_nothing(rig: Rig) -> None:
    customers = [f"C{n}" for n in range(12)]
    rig.flush(0, [])
    rig.flush(1, [])
    for customer in customers:
        rig.change(customer, "gpu", an_entitlement(customer))
    one = rig.start("one")
    with rig.view() as view:
        wait_for("the balances", lambda: all(used(view, c) == 0 for c in customers))
        one.send_signal(signal.SIGSTOP)
        rig.flush(0, [use(c, 1) for c in customers])  # it will find these when it wakes
        rig.start("two")
        wait_for("sums of the second process", lambda: all(used(view, c) == 1 for c in customers))
        rig.flush(1, [use(c, 2) for c in customers])
        one.send_signal(signal.SIGCONT)
        rig.flush(0, [use(c, 4) for c in customers])
        wait_for("sums after the first is back", lambda: all(used(view, c) == 7 for c in customers))
    with rig.view() as fresh:
        assert {used(fresh, c) for c in customers} == {7}


def test_it_ends_when_asked_and_goes_on_where_it_was(rig: Rig) -> None:
    rig.flush(0, [])
    rig.flush(1, [])
    rig.change("C", "gpu", an_entitlement("C"))
    process = rig.start()
    with rig.view() as view:
        wait_for("the balance", lambda: used(view, "C") == 0)
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
        rig.flush(0, [use("C", 1)])
        rig.start()
        wait_for("what came meanwhile", lambda: used(view, "C") == 1)
