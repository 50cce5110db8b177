"""Questions about usage, the partial states that answer them, and the last step from states to rows.

Answers come from ClickHouse's `usage` or from raw events. Each way brings (GroupKey, PartialState) pairs, several of
one key if it likes; `answer` alone decides what is a row, which bounds it shows, and in what order rows stand.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from metering.domain.errors import InvalidInput, ProtocolViolation
from metering.domain.filters import StringFilter, matches
from metering.domain.measure import json_number
from metering.domain.meter import Aggregation, Meter
from metering.domain.window import WindowSize, window_at

SUBJECT: Final = "subject"
CUSTOMER_ID: Final = "customer_id"
BUILT_IN: Final = frozenset({SUBJECT, CUSTOMER_ID})
AVERAGE_DIGITS: Final = 38

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE: Final = timedelta(minutes=1)
_UTC: Final = ZoneInfo("UTC")
_EXACT: Final = Context(prec=200, traps=[Inexact])
_AVERAGE: Final = Context(prec=AVERAGE_DIGITS)


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What is asked of a meter: usage in [start, end), None for an open bound, cut down to whole seconds.

    `subjects` limits to these, None to none. `customers` maps ids to the subjects that belong to them now; None asks
    regardless of customers. `filters` are by dimension, ANDed. `group_by` names dimensions, `subject` and `customer_id`
    (only with `customers`); rows are grouped by these and nothing else. With `as_of`, only events whose ingest minute
    is before it count. Raises InvalidInput for what makes no sense.
    """

    meter: Meter
    start: datetime | None = None
    end: datetime | None = None
    window: WindowSize | None = None
    zone: ZoneInfo = _UTC
    subjects: frozenset[str] | None = None
    customers: Mapping[str, frozenset[str]] | None = None
    filters: Mapping[str, StringFilter] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()
    as_of: datetime | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None:
            if self.start == self.end:
                raise InvalidInput("from and to cannot be equal")
            if self.start > self.end:
                raise InvalidInput("from must be before to")
        known = frozenset(self.meter.dimensions)
        for name in self.group_by:
            if name not in known and name not in BUILT_IN:
                raise InvalidInput(f"invalid group by: {name}")
        if CUSTOMER_ID in self.group_by and self.customers is None:
            raise InvalidInput("customer filter is required with customer_id group by")
        for name in self.filters:
            if name not in known:
                raise InvalidInput(f"invalid group by filter: {name}")
        object.__setattr__(self, "group_by", tuple(dict.fromkeys(self.group_by)))

    @property
    def namespace(self) -> str:
        """The namespace of the meter."""
        return self.meter.namespace

    @property
    def first_instant(self) -> datetime | None:
        """From when on events count, inclusive: `start` on a whole second, or the meter's first instant if later."""
        start = None if self.start is None else self.start.replace(microsecond=0)
        bounds = [bound for bound in (start, self.meter.event_from) if bound is not None]
        return max(bounds) if bounds else None

    @property
    def last_instant(self) -> datetime | None:
        """Until when events count, exclusive, on a whole second."""
        return None if self.end is None else self.end.replace(microsecond=0)

    @property
    def grouped_dimensions(self) -> tuple[str, ...]:
        """The dimensions among `group_by`, in its order."""
        return tuple(name for name in self.group_by if name not in BUILT_IN)

    @property
    def subjects_asked(self) -> frozenset[str] | None:
        """The subjects whose usage counts, by both kinds of filter; None for all."""
        if self.customers is None:
            return self.subjects
        owned = frozenset().union(*self.customers.values())
        return owned if self.subjects is None else owned & self.subjects


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What a row stands for: the start of its window (None without windows), its subject, customer and dimensions.

    `subject` and `customer` are None when not grouped by; `values` are in the order of `grouped_dimensions`.
    """

    window: datetime | None = None
    subject: str | None = None
    customer: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartialState:
    """What some events come to; merging is associative and commutative, and the default is its neutral element.

    `events` counts all, `count` the usable ones. `latest_order` is (time in us, ingest minute, partition, offset) of
    the event that `latest` comes from. `first_minute` and `last_minute` are those of all events, in minutes since the
    epoch. `distinct` stands in for `uniques` where an engine has counted them; such states can't be merged.
    """

    events: int = 0
    count: int = 0
    sum: Decimal = Decimal(0)
    min: Decimal | None = None
    max: Decimal | None = None
    latest: Decimal | None = None
    latest_order: tuple[int, int, int, int] = (0, 0, 0, 0)
    uniques: frozenset[str] = frozenset()
    first_minute: int | None = None
    last_minute: int | None = None
    distinct: int | None = None

    def merge(self, other: "PartialState") -> "PartialState":
        """The state of both together; the events of the two must be different ones."""
        if not other.events:
            return self
        if not self.events:
            return other
        if self.distinct is not None or other.distinct is not None:
            raise ProtocolViolation("counts of distinct values can't be added")
        newer = max((self, other), key=lambda state: (state.latest is not None, state.latest_order))
        return PartialState(
            events=self.events + other.events,
            count=self.count + other.count,
            sum=_EXACT.add(self.sum, other.sum),
            min=min((value for value in (self.min, other.min) if value is not None), default=None),
            max=max((value for value in (self.max, other.max) if value is not None), default=None),
            latest=newer.latest,
            latest_order=newer.latest_order,
            uniques=self.uniques | other.uniques,
            first_minute=min(m for m in (self.first_minute, other.first_minute) if m is not None),
            last_minute=max(m for m in (self.last_minute, other.last_minute) if m is not None),
        )

    def value(self, aggregation: Aggregation) -> Decimal | None:  # noqa: PLR0911 - one per aggregation
        """What the meter shows, None when no event was usable. Exact, but for the average: 38 significant digits."""
        match aggregation:
            case Aggregation.COUNT:
                return Decimal(self.count)
            case Aggregation.UNIQUE_COUNT:
                return Decimal(len(self.uniques) if self.distinct is None else self.distinct)
            case Aggregation.SUM:
                return json_number(self.sum) if self.count else None
            case Aggregation.AVG:
                return json_number(_AVERAGE.divide(self.sum, Decimal(self.count))) if self.count else None
            case Aggregation.MIN:
                return None if self.min is None else json_number(self.min)
            case Aggregation.MAX:
                return None if self.max is None else json_number(self.max)
            case Aggregation.LATEST:
                return None if self.latest is None else json_number(self.latest)
        assert_never(aggregation)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row of an answer. Without windows, given bounds of the query stand in it as they were given."""

    value: Decimal
    window_start: datetime
    window_end: datetime
    subject: str | None
    customer_id: str | None
    group_by: Mapping[str, str]


def answer(query: UsageQuery, states: Iterable[tuple[GroupKey, PartialState]]) -> list[UsageRow]:
    """The rows of a query by window, if it has windows, then by subject, customer, group values."""
    merged: dict[GroupKey, PartialState] = {}
    for key, state in states:
        known = merged.get(key)
        merged[key] = state if known is None else known.merge(state)
    if query.window is None and not query.group_by:
        return _total(query, merged.get(GroupKey(), PartialState()))
    rows = [_row(query, key, state) for key, state in merged.items() if state.count]
    return sorted(rows, key=_window_first if query.window is not None else _group)


def _total(query: UsageQuery, state: PartialState) -> list[UsageRow]:
    """The one row without windows and groups. Counting nothing is 0; of nothing there is no sum, no least value."""
    counting = query.meter.aggregation in {Aggregation.COUNT, Aggregation.UNIQUE_COUNT}
    return [_row(query, GroupKey(), state)] if state.count or counting else []


def _row(query: UsageQuery, key: GroupKey, state: PartialState) -> UsageRow:
    value = state.value(query.meter.aggregation)
    assert value is not None
    if query.window is not None:
        assert key.window is not None
        start, end = window_at(key.window, query.window, query.zone)
    else:
        start = query.start or _EPOCH + (state.first_minute or 0) * _MINUTE
        end = query.end or _EPOCH + ((state.last_minute or 0) + 1) * _MINUTE
    groups = dict(zip(query.grouped_dimensions, key.values, strict=True))
    return UsageRow(value, start, end, key.subject, key.customer, groups)


def _window_first(row: UsageRow) -> tuple[datetime, tuple[str, str, tuple[str, ...]]]:
    return row.window_start, _group(row)


def _group(row: UsageRow) -> tuple[str, str, tuple[str, ...]]:
    return row.subject or "", row.customer_id or "", tuple(row.group_by.values())


class Grouping:
    """Gives rows of usage, (subject, dims, minute), their group in a query; None where its filters leave them out."""

    def __init__(self, query: UsageQuery) -> None:
        self._query = query
        self._owners = {subject: owner for owner, owned in (query.customers or {}).items() for subject in owned}
        names = query.meter.dimensions
        self._at = tuple(names.index(name) for name in query.grouped_dimensions)
        self._filters = tuple((names.index(name), condition) for name, condition in query.filters.items())
        self._asked = query.subjects_asked
        self._windows: dict[int, datetime | None] = {}

    def key_of(self, subject: str, dims: tuple[str, ...], minute: int) -> GroupKey | None:
        """The group of events of this minute (since the epoch)."""
        if self._asked is not None and subject not in self._asked:
            return None
        if not all(matches(condition, dims[at]) for at, condition in self._filters):
            return None
        grouped = self._query.group_by
        return GroupKey(
            self._window(minute),
            subject if SUBJECT in grouped else None,
            self._owners[subject] if CUSTOMER_ID in grouped else None,
            tuple(dims[at] for at in self._at),
        )

    def _window(self, minute: int) -> datetime | None:
        if minute not in self._windows:
            size = self._query.window
            instant = _EPOCH + minute * _MINUTE
            self._windows[minute] = None if size is None else window_at(instant, size, self._query.zone)[0]
        return self._windows[minute]
