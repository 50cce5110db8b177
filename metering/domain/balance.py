"""The record of one balance: a snapshot at a boundary a day or so ago, the usage since, and the vector of what is in.

Usage since the snapshot is kept by minute; the minutes before `through` are over, so only the phase they lie in matters
and they are merged into its first minute. An event older than the snapshot can't be merged: then it is computed anew.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from metering.domain.burndown import Balance, Snapshot, advance, next_boundary, opening, value_at
from metering.domain.consumption import Measured, Point, Usage, add, instant_of, minute_of, point
from metering.domain.entitlement import DimensionFilter, Entitlement
from metering.domain.filters import Compare, OneOf, StringFilter, matches
from metering.domain.meter import Aggregation

#: The snapshot stays this far behind, so that events late by less are merged like any other.
SNAPSHOT_LAG: Final = timedelta(days=1)

#: A record with more minutes than this is settled before it is written.
UNSETTLED_MINUTES_MAX: Final = 16

#: The aggregations of which a balance can be kept.
BALANCED: Final = frozenset({Aggregation.SUM, Aggregation.COUNT, Aggregation.UNIQUE_COUNT, Aggregation.LATEST})

Vector = tuple[int, ...]
"""For each source partition the end of the last range applied: all offsets below it are in, none at or above."""


class Cell(Measured, Protocol):
    """What a range adds for a customer, a meter, a set of dimensions and a minute (`metering.kafka.wire.Cell`)."""

    @property
    def namespace(self) -> str: ...
    @property
    def customer(self) -> str: ...
    @property
    def meter(self) -> str: ...
    @property
    def dims(self) -> Sequence[str]: ...
    @property
    def minute(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Record:
    """One balance. `sequence` is that of the change which brought `entitlement`; None says that it is gone.

    `usage` holds all usage since `snapshot.at` that `vector` covers. `through`, in minutes since the epoch: minutes
    before it are merged, so the value at an earlier instant can't be told from this record.
    """

    sequence: int
    entitlement: Entitlement | None
    snapshot: Snapshot | None
    usage: Usage
    through: int
    vector: Vector


@dataclass(frozen=True, slots=True)
class Late:
    """Usage from before the snapshot: the record has to be computed anew."""

    minute: int


def computed(sequence: int, entitlement: Entitlement, usage: Usage, vector: Vector) -> Record:
    """A record from all usage below `vector`."""
    start = opening(entitlement)
    return Record(sequence, entitlement, start, usage, minute_of(start.at), vector)


def gone(sequence: int, vector: Vector) -> Record:
    """The record of an entitlement that ended."""
    return Record(sequence, None, None, {}, 0, vector)


def usage_of(entitlement: Entitlement, cells: Iterable[Cell], partition: int) -> dict[int, Point]:
    """What of a range's cells for the customer this entitlement counts, by minute."""
    usage: dict[int, Point] = {}
    first = minute_of(entitlement.measure_usage_from)
    for cell in cells:
        if cell.meter == entitlement.meter_key and cell.minute >= first and counts(entitlement, cell.dims):
            extra = point(entitlement.aggregation, cell, partition)
            if extra is not None:
                add(usage, cell.minute, extra)
    return usage


def counts(entitlement: Entitlement, dims: Sequence[str]) -> bool:
    """Whether usage with these dimensions passes the feature's filters."""
    values = dict(zip(entitlement.dimensions, dims, strict=True))
    return all(matches(_condition(each), values.get(each.dimension, "")) for each in entitlement.filters)


def _condition(each: DimensionFilter) -> StringFilter:
    if each.operator in ("$in", "$nin"):
        return OneOf(each.values, negated=each.operator == "$nin")
    return Compare(each.operator, each.values[0])


def merged(record: Record, extra: Usage) -> Record | Late:
    """The record with more usage. Its vector is the caller's to move."""
    if record.snapshot is None or not extra:
        return record
    if min(extra) < minute_of(record.snapshot.at):
        return Late(min(extra))
    usage = dict(record.usage)
    for minute, each in extra.items():
        add(usage, minute, each)
    return replace(record, usage=usage)


def settled(record: Record, now: datetime) -> Record:
    """The record with its past merged by phase, and its snapshot moved on to the last boundary a day ago."""
    if record.entitlement is None or record.snapshot is None:
        return record
    through = max(record.through, minute_of(now))
    entitlement, snapshot = record.entitlement, record.snapshot
    phase, end = minute_of(snapshot.at), _end(entitlement, snapshot.at)
    usage: dict[int, Point] = {}
    for minute, each in sorted(record.usage.items(), key=lambda item: item[0]):
        while minute >= end and minute < through:
            phase = end
            end = _end(entitlement, instant_of(phase))
        add(usage, phase if minute < through else minute, each)
    horizon = now - SNAPSHOT_LAG
    if horizon > snapshot.at:
        snapshot = advance(snapshot, entitlement, usage, horizon)
        first = minute_of(snapshot.at)
        usage = {minute: each for minute, each in usage.items() if minute >= first}
    return replace(record, usage=usage, snapshot=snapshot, through=through)


def tidied(record: Record, now: datetime) -> Record:
    """The same, but only once enough has gathered: settling costs more than a few minutes more in the record."""
    return settled(record, now) if len(record.usage) > UNSETTLED_MINUTES_MAX else record


def _end(entitlement: Entitlement, phase: datetime) -> int:
    return minute_of(next_boundary(entitlement, phase))


def value(record: Record, at: datetime) -> Balance | None:
    """The balance at `at`, or None if there is no entitlement.

    Asked for an instant before what the record has merged it answers for that: a reader's clock may be behind.
    """
    if record.entitlement is None or record.snapshot is None:
        return None
    if at < record.entitlement.measure_usage_from:
        return value_at(record.entitlement, {}, at)
    return value_at(
        record.entitlement, record.usage, max(at, instant_of(record.through), record.snapshot.at), record.snapshot
    )


def tells(record: Record, at: datetime) -> bool:
    """Whether `value` at `at` is exactly that of `at`; else it takes the usage rows to tell."""
    return at >= instant_of(record.through)


def joined(one: Vector, other: Vector) -> Vector:
    """The higher of both in each component; one may be shorter."""
    if len(one) < len(other):
        one, other = other, one
    return (*(max(a, b) for a, b in zip(one, other, strict=False)), *one[len(other) :])


def covers(one: Vector, other: Vector) -> bool:
    """Whether `one` is at or above `other` everywhere."""
    return joined(one, other) == one
