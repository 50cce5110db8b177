"""What an invoice's usage is made of, such that it can be proven from raw events years later.

A tally is a fold over events that gives the same result in any order: exact aggregates, how many events were used, and
a digest of which ones with which values. The digest is a sum of hashes modulo 2^128. With an xor, an event counted
twice would vanish from it; a sum notices.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Final

from billing.domain.money import EXACT
from billing.domain.proration import Period
from metering.domain.filters import StringFilter
from metering.domain.measure import number_text
from metering.domain.meter import Aggregation, Meter
from metering.domain.usage import PartialState, UsageQuery

_MODULUS: Final = 1 << 128

Value = Decimal | str


@dataclass(frozen=True, slots=True)
class Scope:
    """Which usage is meant: a meter's, of these subjects, where all filters hold, in [start, end), as of a cut.

    Everything is on a minute. Usage as of a cut is made of events with an ingest time below it.
    """

    meter: Meter
    filters: tuple[tuple[str, StringFilter], ...]
    subjects: tuple[str, ...]
    period: Period
    cut: datetime

    @property
    def query(self) -> UsageQuery:
        """The same as a question about usage."""
        return UsageQuery(
            self.meter,
            start=self.period[0],
            end=self.period[1],
            subjects=frozenset(self.subjects),
            filters=dict(self.filters),
            as_of=self.cut,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """A quantity with its proof. `events` are those whose value was used; `digest` is 32 hex digits."""

    quantity: Decimal
    events: int
    digest: str


@dataclass(frozen=True, slots=True)
class Used:
    """One event that a meter could use. `order` is what LATEST goes by: time, ingest minute, partition, offset."""

    key: bytes
    value: Value
    order: tuple[int, int, int, int]


@dataclass(slots=True)
class Tally:
    """The fold. Add each event once."""

    count: int = 0
    total: Decimal = Decimal(0)
    least: Decimal | None = None
    most: Decimal | None = None
    latest: tuple[tuple[int, int, int, int], Decimal] | None = None
    uniques: set[str] = field(default_factory=set)
    digest: int = 0

    def add(self, used: Iterable[Used]) -> None:
        for event in used:
            self.count += 1
            text = event.value if isinstance(event.value, str) else number_text(event.value)
            self.digest = (self.digest + leaf(event.key, text)) % _MODULUS
            if isinstance(event.value, str):
                self.uniques.add(event.value)
                continue
            self.total = EXACT.add(self.total, event.value)
            self.least = event.value if self.least is None else min(self.least, event.value)
            self.most = event.value if self.most is None else max(self.most, event.value)
            if self.latest is None or event.order > self.latest[0]:
                self.latest = (event.order, event.value)

    def reading(self, aggregation: Aggregation) -> Reading:
        """What it comes to. Nothing used is a quantity of 0."""
        state = PartialState(
            events=self.count,
            count=self.count,
            sum=self.total,
            min=self.least,
            max=self.most,
            latest=None if self.latest is None else self.latest[1],
            uniques=frozenset(self.uniques),
        )
        return Reading(quantity(state, aggregation), self.count, f"{self.digest:032x}")


def quantity(state: PartialState, aggregation: Aggregation) -> Decimal:
    """What is billed of usage: the meter's value, 0 where it has none."""
    return state.value(aggregation) or Decimal(0)


def leaf(key: bytes, value: str) -> int:
    """The hash of one event: `key` are the 16 bytes that stand for (namespace, source, id)."""
    return int.from_bytes(blake2b(key + value.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")
