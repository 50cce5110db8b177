"""One test's part of a stack: an event type, its meters, a feature, customers with entitlements, and its load."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.chaos.load import Load
from tests.chaos.oracle import Ledger, Traffic, differences, hour
from tests.chaos.stack import wait_until

if TYPE_CHECKING:
    from tests.chaos.oracle import Bounds
    from tests.chaos.stack import Stack

ALLOWANCE = 10**11


@dataclass(frozen=True, slots=True)
class Customer:
    """`subjects` beside its own key, which is a subject too."""

    key: str
    subjects: tuple[str, ...] = ()

    @property
    def all_subjects(self) -> tuple[str, ...]:
        return (self.key, *self.subjects)


@dataclass(slots=True)
class World:
    """`name` is the event type and begins the names of all it has."""

    stack: Stack
    seed: int
    name: str = field(default_factory=lambda: f"w{secrets.token_hex(4)}")
    ledger: Ledger = field(default_factory=Ledger)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    customers: list[Customer] = field(default_factory=list)
    with_balance: list[Customer] = field(default_factory=list)
    loads: int = 0

    @property
    def since(self) -> datetime:
        """From when entitlements measure: in the midst of the events' times."""
        return (self.now - timedelta(minutes=90)).replace(second=0, microsecond=0)

    def prepare(self) -> None:
        self.stack.worlds.append(self)
        self.create_meter("events", "COUNT")
        self.create_meter("amount", "SUM", "$.amount")
        self.create_meter("who", "UNIQUE_COUNT", "$.who")
        feature = {"key": f"{self.name}_amount", "name": "Amount", "meterSlug": f"{self.name}_amount"}
        self.stack.request("POST", "/api/v1/features", feature)
        self.customers = [Customer(f"{self.name}-one", (f"{self.name}-other",)), Customer(f"{self.name}-two")]
        self.customers.append(Customer(f"{self.name}-impatient"))
        for customer in self.customers:
            self.create_customer(customer)
            self.entitle(customer)

    def create_meter(self, name: str, aggregation: str, value: str | None = None) -> str:
        """Its slug."""
        slug = f"{self.name}_{name}"
        body = {"slug": slug, "name": name, "eventType": self.name, "aggregation": aggregation}
        body |= {"groupBy": {"kind": "$.kind"}} | ({"valueProperty": value} if value else {})
        self.stack.request("POST", "/api/v1/meters", body)
        return slug

    def create_customer(self, customer: Customer) -> None:
        body: dict[str, Any] = {"key": customer.key, "name": customer.key, "currency": "USD"}
        if customer.subjects:
            body["usageAttribution"] = {"subjectKeys": list(customer.subjects)}
        self.stack.request("POST", "/api/v1/customers", body)

    def entitle(self, customer: Customer) -> None:
        stamp = self.since.isoformat().replace("+00:00", "Z")
        body = {
            "type": "metered",
            "featureKey": f"{self.name}_amount",
            "usagePeriod": {"interval": "YEAR", "anchor": stamp},
            "measureUsageFrom": stamp,
            "issueAfterReset": ALLOWANCE,
        }
        self.stack.request("POST", f"/api/v2/customers/{customer.key}/entitlements", body)
        self.with_balance.append(customer)

    def load(self, **options: Any) -> Load:
        """Events of all customers and of a subject that belongs to none."""
        self.loads += 1
        patient = [s for c in self.customers for s in c.all_subjects if not s.endswith("-impatient")]
        seed = self.seed * 1000 + self.loads
        now = self.now
        load = Load(
            self.stack.url,
            self.ledger,
            Traffic(self.name, (*patient, f"{self.name}-nobody"), seed, now, made=self.loads * 10**7),
            Traffic(self.name, (f"{self.name}-impatient",), seed, now, made=self.loads * 10**7 + 10**6),
        )
        for name, value in options.items():
            setattr(load, name, value)
        return load

    # --- what is compared -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Once all is flushed: usage is right, ranges account for every record, and balances come to the same."""
        self.stack.wait_flushed()
        wrong = [*self.wrong_usage(), *wrong_ranges(self.stack)]
        assert not wrong, "\n".join([*wrong, self.stack.tails("sink")])
        deadline = time.monotonic() + 90
        while wrong := self.wrong_balances():
            assert time.monotonic() < deadline, "\n".join([*wrong, self.stack.tails("balances", "sink")])
            time.sleep(0.1)

    def wrong_usage(self) -> list[str]:
        by_subject = self.ledger.usage("subject")
        by_kind = self.ledger.usage("subject", "kind")
        by_hour = self.ledger.usage("subject", "hour")
        return [
            *differences("events of", by_subject.counts, self.values("events", "subject")),
            *differences("amount of", by_kind.sums, self.values("amount", "subject", "kind")),
            *differences("amount of", by_hour.sums, self.values("amount", "subject", windowSize="HOUR")),
            *differences("different of", by_subject.uniques, self.values("who", "subject")),
        ]

    def values(self, meter: str, *group_by: str, **parameters: str) -> dict[tuple[str, ...], Decimal]:
        """A meter query's rows by what they are grouped by, and by the hour where windows are asked for."""
        path = f"/api/v1/meters/{self.name}_{meter}/query"
        rows = self.stack.request("GET", path, params={"groupBy": list(group_by), **parameters})["data"]
        values = {}
        for row in rows:
            group = [row["subject"] if name == "subject" else row["groupBy"][name] for name in group_by]
            if parameters:
                group.append(hour(datetime.fromisoformat(row["windowStart"])))
            assert tuple(group) not in values, f"{group} is there twice: {rows}"
            values[tuple(group)] = Decimal(row["value"])
        return values

    def wrong_balances(self) -> list[str]:
        """Against the count of the input, and against the meter, which must say the same."""
        sums = self.ledger.usage("subject", since=self.since).sums
        metered = self.values_since(self.since)
        lines: list[str] = []
        wanted: dict[tuple[str, ...], Bounds] = {}
        seen: dict[tuple[str, ...], Decimal] = {}
        for customer in self.with_balance:
            subjects = [(subject,) for subject in customer.all_subjects]
            wanted[(customer.key,)] = sum(sums[each][0] for each in subjects), sum(sums[each][1] for each in subjects)
            value = self.balance(customer)
            seen[(customer.key,)] = used = Decimal(value["usage"])
            if Decimal(value["balance"]) != ALLOWANCE - used:
                lines.append(f"balance of {customer.key}: {value}")
            total = sum(metered.get(each, Decimal(0)) for each in subjects)
            if total != used:
                lines.append(f"usage of {customer.key}: {used} in the balance, {total} in the meter")
        return [*lines, *differences("balance's usage of", wanted, seen)]

    def total(self, meter: str) -> Decimal:
        """A meter's value over all."""
        rows = self.stack.request("GET", f"/api/v1/meters/{self.name}_{meter}/query")["data"]
        return sum((Decimal(row["value"]) for row in rows), Decimal(0))

    def values_since(self, since: datetime) -> dict[tuple[str, ...], Decimal]:
        path = f"/api/v1/meters/{self.name}_amount/query"
        parameters = {"groupBy": ["subject"], "from": since.isoformat()}
        rows = self.stack.request("GET", path, params=parameters)["data"]
        return {(row["subject"],): Decimal(row["value"]) for row in rows}

    def balance(self, customer: Customer) -> dict[str, Any]:
        value: dict[str, Any] = self.stack.request(
            "GET", f"/api/v1/customers/{customer.key}/entitlements/{self.name}_amount/value"
        )
        return value

    def wait_balance_known(self) -> None:
        """Until every balance can be asked for."""
        wait_until(lambda: all("usage" in self.balance(c) for c in self.with_balance), "balances")


def wrong_ranges(stack: Stack) -> list[str]:
    """Ranges of a partition touch, what is in them adds up to their offsets, and together to what was sent."""
    least = stack.counted_before + sum(world.ledger.counts[0] for world in stack.worlds)
    repeats = sum(world.ledger.repeats_acknowledged for world in stack.worlds)
    ranges = stack.flushes()
    greatest = stack.counted_before + sum(world.ledger.counts[1] for world in stack.worlds)
    lines, ends = [], dict[int, int]()
    for each in ranges:
        if each.a != ends.get(each.partition, 0):
            lines.append(f"{each} begins where none ended: {ends.get(each.partition, 0)}")
        if each.counted + each.duplicate + each.rejected + each.ticks != each.end - each.a:
            lines.append(f"{each} does not add up")
        ends[each.partition] = each.end
    if not least <= sum(each.counted for each in ranges) <= greatest:
        lines.append(f"{sum(each.counted for each in ranges)} counted, but {least} to {greatest} were sent")
    if sum(each.duplicate for each in ranges) < repeats:
        lines.append(f"{sum(each.duplicate for each in ranges)} duplicates, but {repeats} repeats were acknowledged")
    if any(each.rejected for each in ranges):
        lines.append(f"{sum(each.rejected for each in ranges)} rejected, but all could be counted")
    return lines
