"""Measuring many events at once: columns of events in, rows of usage out.

The sink calls this for each range, and so do the backfill and whatever answers from raw events, so that all of them
count alike. What comes out of an event for a meter depends on that event and that meter only, never on which other
events or meters were measured with it.

Sums are exact: Decimal(38, 12) where the values cannot overflow it, else Python's decimals (polars' group sums wrap).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import polars as pl

from metering.domain.jsonpath import parse_path
from metering.domain.meter import Aggregation, Meter
from metering.domain.reading import Reader, Refusals, dimension_texts, numbers, unique_texts
from metering.domain.rows import GROUP_KEYS, LATEST_ORDER, USAGE_SCHEMA, exact_sums, stack, sum_is_safe

US_PER_MINUTE: Final = 60_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SUMMED: Final = frozenset({Aggregation.SUM, Aggregation.AVG})


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Events as parallel sequences of one length. Lists are fastest.

    Times are in microseconds since the epoch. `data` is JSON text, an object or `null`. `partition` and `offset` say
    where the event lies on Kafka.
    """

    namespace: Sequence[str]
    id: Sequence[str]
    source: Sequence[str]
    type: Sequence[str]
    subject: Sequence[str]
    time_us: Sequence[int]
    data: Sequence[bytes]
    ingest_us: Sequence[int]
    partition: Sequence[int]
    offset: Sequence[int]

    def __len__(self) -> int:
        return len(self.namespace)

    def take(self, indices: Sequence[int]) -> "EventColumns":
        """The events at these indices."""
        columns = (getattr(self, column.name) for column in fields(self))
        return EventColumns(*[[column[i] for i in indices] for column in columns])


@dataclass(frozen=True, slots=True)
class MeterFinding:
    """A meter could not use the value of the event at index `row`. `message` is as event lists show it."""

    row: int
    meter_key: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What the events come to.

    `usage` has the columns of `rows.USAGE_SCHEMA`, one row per namespace, meter, subject, dims, minute, ingest_minute
    and partition, in no fixed order. `findings` are in the order of rows, then of meters.
    """

    usage: pl.DataFrame
    findings: list[MeterFinding]


def measure(columns: EventColumns, meters_of: Callable[[str, str], tuple[Meter, ...]]) -> Measured:
    """Measure events with the meters of their types. Events of types without meters add nothing."""
    usage: list[pl.DataFrame] = []
    findings: list[MeterFinding] = []
    base: pl.DataFrame | None = None
    for (namespace, event_type), indices in _by_type(columns).items():
        meters = meters_of(namespace, event_type)
        if not meters:
            continue
        if base is None:
            base = _base(columns)
        whole = len(indices) == len(columns)
        frame = base if whole else base[pl.Series(indices, dtype=pl.UInt32)]
        data = columns.data if whole else [columns.data[i] for i in indices]
        rows, found = _plan(meters).measure(frame, data)
        usage += rows
        findings += [
            MeterFinding(indices[i], key, refusal.code, refusal.message)
            for key, refusals in found
            for i, refusal in refusals
        ]
    findings.sort(key=lambda finding: finding.row)
    return Measured(stack(usage), findings)


def _by_type(columns: EventColumns) -> dict[tuple[str, str], Sequence[int]]:
    kinds = set(zip(columns.namespace, columns.type, strict=True))
    if len(kinds) == 1:
        return {kinds.pop(): range(len(columns))}
    groups: dict[tuple[str, str], list[int]] = {kind: [] for kind in sorted(kinds)}
    for index, kind in enumerate(zip(columns.namespace, columns.type, strict=True)):
        groups[kind].append(index)
    return dict(groups)


def _base(columns: EventColumns) -> pl.DataFrame:
    time = pl.Series(columns.time_us, dtype=pl.Int64)
    ingest = pl.Series(columns.ingest_us, dtype=pl.Int64)
    return pl.DataFrame(
        {
            "subject": pl.Series(columns.subject, dtype=pl.String),
            "minute": (time // US_PER_MINUTE).cast(pl.Int32),
            "ingest_minute": (ingest // US_PER_MINUTE).cast(pl.Int32),
            "partition": pl.Series(columns.partition, dtype=pl.UInt32),
            "offset": pl.Series(columns.offset, dtype=pl.UInt64),
            "time": time,
        }
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """Meters of one type that group alike: same paths of dimensions, same first instant."""

    dims: tuple[str, ...]
    from_us: int | None
    meters: tuple[tuple[Meter, str | None], ...]
    """Each with the name of its column of values; None for COUNT."""


class _Plan:
    """How the events of one type are measured by its meters.

    Columns are named n0, n1, ... for numbers, u... for texts of unique counts, d... for dimensions.
    """

    def __init__(self, meters: tuple[Meter, ...]) -> None:
        self._kinds: dict[tuple[str, str], str] = {}
        cuts: dict[tuple[tuple[str, ...], int | None], list[tuple[Meter, str | None]]] = {}
        for meter in meters:
            dims = tuple(self._name("d", path) for _, path in meter.group_by)
            value = None
            if meter.aggregation is not Aggregation.COUNT:
                kind = "u" if meter.aggregation is Aggregation.UNIQUE_COUNT else "n"
                value = self._name(kind, meter.value_path or "$")
            cuts.setdefault((dims, _us(meter.event_from)), []).append((meter, value))
        self._cuts = [_Cut(dims, from_us, tuple(of)) for (dims, from_us), of in cuts.items()]
        self._paths = tuple(dict.fromkeys(path for _, path in self._kinds))
        self._reader = Reader([parse_path(path) for path in self._paths])

    def _name(self, kind: str, path: str) -> str:
        return self._kinds.setdefault((kind, path), f"{kind}{len(self._kinds)}")

    def measure(
        self, frame: pl.DataFrame, data: Sequence[bytes]
    ) -> tuple[list[pl.DataFrame], list[tuple[str, Refusals]]]:
        """Usage rows, and for each meter what it could not use (indices into `data`)."""
        read = dict(zip(self._paths, self._reader.read(data), strict=True))
        series: list[pl.Series] = []
        refused: dict[str, Refusals] = {}
        for (kind, path), name in self._kinds.items():
            if kind == "d":
                column = dimension_texts(read[path])
            elif kind == "u":
                column, refused[name] = unique_texts(read[path], path)
            else:
                column, refused[name] = numbers(read[path], path)
            series.append(column.alias(name))
        frame = frame.with_columns(series)
        usage = [rows for cut in self._cuts for rows in _group(frame, cut)]
        findings = [
            (meter.key, _since(frame, refused[value], cut.from_us))
            for cut in self._cuts
            for meter, value in cut.meters
            if value is not None and refused[value]
        ]
        return usage, findings


@lru_cache(maxsize=4096)
def _plan(meters: tuple[Meter, ...]) -> _Plan:
    return _Plan(meters)


def _since(frame: pl.DataFrame, refusals: Refusals, from_us: int | None) -> Refusals:
    if from_us is None:
        return refusals
    times = frame["time"]
    return [(index, refusal) for index, refusal in refusals if times[index] >= from_us]


def _group(frame: pl.DataFrame, cut: _Cut) -> Iterator[pl.DataFrame]:
    if cut.from_us is not None:
        frame = frame.filter(pl.col("time") >= cut.from_us)
    if not frame.height:
        return
    if any(meter.aggregation is Aggregation.LATEST for meter, _ in cut.meters):
        frame = frame.sort(LATEST_ORDER)
    keys = [*GROUP_KEYS, *dict.fromkeys(cut.dims)]
    safe = {value: sum_is_safe(frame, value) for meter, value in cut.meters if value and meter.aggregation in _SUMMED}
    aggregates = [pl.len().alias("events").cast(pl.UInt64)]
    for index, (meter, value) in enumerate(cut.meters):
        aggregates += _aggregates(meter, value, index, safe)
    grouped = frame.group_by(keys, maintain_order=False).agg(aggregates)
    dims = pl.concat_list(cut.dims) if cut.dims else pl.lit([], dtype=pl.List(pl.String))
    grouped = grouped.with_columns(dims.alias("dims"))
    for index, (meter, value) in enumerate(cut.meters):
        rows = grouped
        if value is not None and not safe.get(value, True):
            rows = exact_sums(rows, f"list{index}", f"sum{index}")
        yield _usage_rows(rows, meter, index)


def _aggregates(meter: Meter, value: str | None, index: int, safe: Mapping[str, bool]) -> list[pl.Expr]:
    """What to take of each group for a meter; only what its aggregation needs."""
    if value is None:
        return []
    column = pl.col(value)
    taken = [column.count().cast(pl.UInt64).alias(f"count{index}")]
    match meter.aggregation:
        case Aggregation.SUM | Aggregation.AVG:
            if safe[value]:
                taken.append(column.sum().alias(f"sum{index}"))
            else:
                taken.append(column.drop_nulls().alias(f"list{index}"))
        case Aggregation.MIN:
            taken.append(column.min().alias(f"min{index}"))
        case Aggregation.MAX:
            taken.append(column.max().alias(f"max{index}"))
        case Aggregation.LATEST:
            usable = column.is_not_null()
            taken.append(column.drop_nulls().last().alias(f"latest{index}"))
            taken.append(pl.col("time").filter(usable).last().fill_null(0).alias(f"latest_time{index}"))
            taken.append(pl.col("offset").filter(usable).last().fill_null(0).alias(f"latest_offset{index}"))
        case Aggregation.UNIQUE_COUNT:
            taken.append(column.drop_nulls().unique().sort().alias(f"uniques{index}"))
        case Aggregation.COUNT:
            pass
    return taken


def _usage_rows(grouped: pl.DataFrame, meter: Meter, index: int) -> pl.DataFrame:
    own: dict[str, Any] = {"namespace": pl.lit(meter.namespace), "meter": pl.lit(meter.key)}
    columns: list[pl.Expr] = []
    for name, dtype in USAGE_SCHEMA.items():
        mine = f"{name}{index}"
        if name in own:
            columns.append(own[name].alias(name))
        elif mine in grouped.columns:
            columns.append(pl.col(mine).alias(name))
        elif name == "count":
            columns.append(pl.col("events").alias(name))
        elif name in grouped.columns:
            columns.append(pl.col(name))
        else:
            columns.append(_nothing(name, dtype))
    return grouped.select(columns)


def _nothing(name: str, dtype: pl.DataType) -> pl.Expr:
    """What a meter's rows say where its aggregation takes nothing."""
    if name in {"min", "max", "latest"}:
        return pl.lit(None, dtype=dtype).alias(name)
    if name == "uniques":
        return pl.lit([], dtype=dtype).alias(name)
    return pl.lit(0).cast(dtype).alias(name)


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // timedelta(microseconds=1)
