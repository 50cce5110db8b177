"""What usage and balances must be, counted in plain Python from the events that a test made. Knows nothing of the code.

An event that was answered by 2xx counts exactly once, one that never was may count once or not at all. Hence every
number has a least and a greatest value, and both are equal where all was acknowledged.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)
KINDS = ("red", "green", "blue")
Bounds = tuple[Decimal, Decimal]


@dataclass(frozen=True, slots=True)
class Made:
    """One event. `amount` None: the meter of amounts can't use it."""

    id: str
    type: str
    subject: str
    at: datetime
    amount: Decimal | None
    kind: str
    who: str

    def cloud_event(self) -> dict[str, Any]:
        amount = {} if self.amount is None else {"amount": float(self.amount)}  # its text has as many digits
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": "chaos",
            "type": self.type,
            "subject": self.subject,
            "time": self.at.isoformat().replace("+00:00", "Z"),
            "data": {"kind": self.kind, "who": self.who, **amount},
        }


@dataclass(slots=True)
class Traffic:
    """Makes events of one type, the same for the same seed. Times lie in the two hours before `now`."""

    type: str
    subjects: tuple[str, ...]
    seed: int
    now: datetime
    made: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.type} {self.seed}")

    def make(self) -> Made:
        chance = self._random
        self.made += 1
        return Made(
            id=f"{self.type}-{self.made}",
            type=self.type,
            subject=chance.choice(self.subjects),
            at=self.now - timedelta(microseconds=chance.randrange(2 * 3600 * 1_000_000)),
            amount=None if chance.random() < 0.02 else Decimal(chance.randrange(1, 10**6)).scaleb(-chance.randrange(4)),
            kind=chance.choice(KINDS),
            who=f"who-{chance.randrange(40)}",
        )


@dataclass(slots=True)
class Ledger:
    """What was made and what was acknowledged. Safe for threads."""

    made: dict[str, Made] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    repeats_acknowledged: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, events: Iterable[Made]) -> None:
        """To be called before they are sent."""
        with self._lock:
            self.made.update((event.id, event) for event in events)

    def acknowledge(self, events: Iterable[Made]) -> None:
        with self._lock:
            for event in events:
                if event.id in self.acknowledged:
                    self.repeats_acknowledged += 1
                self.acknowledged.add(event.id)

    @property
    def counts(self) -> tuple[int, int]:
        """The least and greatest number of distinct events."""
        with self._lock:
            return len(self.acknowledged), len(self.made)

    def usage(self, *names: str, since: datetime | None = None) -> Usage:
        """Grouped by attributes of `Made`, or "hour"; of events from `since` on."""
        usage = Usage()
        with self._lock:
            for event in self.made.values():
                if since is None or event.at >= since:
                    usage.add(tuple(_group(event, name) for name in names), event, event.id in self.acknowledged)
        return usage


@dataclass(slots=True)
class Usage:
    """Bounds of a group's figures."""

    counts: dict[tuple[str, ...], Bounds] = field(default_factory=lambda: defaultdict(_nothing))
    sums: dict[tuple[str, ...], Bounds] = field(default_factory=lambda: defaultdict(_nothing))
    _sure: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))
    _possible: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, group: tuple[str, ...], event: Made, sure: bool) -> None:
        low, high = self.counts[group]
        self.counts[group] = low + sure, high + 1
        self._possible[group].add(event.who)
        if sure:
            self._sure[group].add(event.who)
        if event.amount is not None:
            low, high = self.sums[group]
            self.sums[group] = low + (event.amount if sure else 0), high + event.amount

    @property
    def uniques(self) -> dict[tuple[str, ...], Bounds]:
        return {g: (Decimal(len(self._sure[g])), Decimal(len(each))) for g, each in self._possible.items()}


def differences(
    what: str, wanted: dict[tuple[str, ...], Bounds], seen: dict[tuple[str, ...], Decimal]
) -> Iterator[str]:
    """A line for each group whose value is not within its bounds; a group that is not there has the value 0."""
    for group in sorted(wanted.keys() | seen.keys()):
        low, high = wanted.get(group, _nothing())
        value = seen.get(group, Decimal(0))
        if not low <= value <= high:
            yield (
                f"{what} {'/'.join(group)}: {value}, but "
                + (f"{low}" if low == high else f"{low} to {high}")
                + " counted"
            )


def hour(at: datetime) -> str:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0).isoformat()


def _group(event: Made, name: str) -> str:
    return hour(event.at) if name == "hour" else str(getattr(event, name))


def _nothing() -> Bounds:
    return Decimal(0), Decimal(0)
