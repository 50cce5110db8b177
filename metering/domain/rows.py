"""Rows of usage as polars frames: their columns, their exact sums, their way to Arrow and to the cells of deltas."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Context, Decimal, Inexact
from itertools import islice
from typing import Any, Final

import polars as pl
import pyarrow as pa

from metering.domain.measure import number_text
from metering.domain.reading import NUMBER_TYPE

USAGE_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "namespace": pl.String(),
    "meter": pl.String(),
    "subject": pl.String(),
    "dims": pl.List(pl.String()),
    "minute": pl.Int32(),
    "ingest_minute": pl.Int32(),
    "partition": pl.UInt32(),
    "events": pl.UInt64(),
    "count": pl.UInt64(),
    "sum": NUMBER_TYPE,
    "min": NUMBER_TYPE,
    "max": NUMBER_TYPE,
    "latest": NUMBER_TYPE,
    "latest_time": pl.Int64(),
    "latest_offset": pl.UInt64(),
    "uniques": pl.List(pl.String()),
}
"""Minutes are minutes since the epoch, `latest_time` microseconds. `sum` is a String of plain digits, not a decimal,
where sums may need more than 38 digits. Of sum, min, max, latest and uniques a row has what its meter's aggregation
takes, and 0, null or [] for the rest."""

GROUP_KEYS: Final = ("subject", "minute", "ingest_minute", "partition")
LATEST_ORDER: Final = ("time", "ingest_minute", "partition", "offset")

CELL_COLUMNS: Final = (
    "namespace",
    "customer",
    "meter",
    "dims",
    "minute",
    "events",
    "count",
    "sum",
    "min",
    "max",
    "latest",
    "latest_time",
    "latest_offset",
    "uniques",
    "latest_ingest",
)
"""In the order of the fields of `metering.kafka.wire.Cell`."""

_CELL_KEYS: Final = CELL_COLUMNS[:5]
_LATEST_INGEST: Final = (
    pl.when(pl.col("latest").is_not_null()).then(pl.col("ingest_minute")).otherwise(0).alias("latest_ingest")
)
_SAFE_SUM: Final = 10**25
_EXACT: Final = Context(prec=200, traps=[Inexact])
_ARROW_TYPES: Final = {
    "namespace": pa.string(),
    "meter": pa.string(),
    "subject": pa.string(),
    "dims": pa.list_(pa.string()),
    "minute": pa.timestamp("s", tz="UTC"),
    "ingest_minute": pa.timestamp("s", tz="UTC"),
    "partition": pa.uint32(),
    "events": pa.uint64(),
    "count": pa.uint64(),
    "sum": pa.decimal256(76, 12),
    "min": pa.decimal128(38, 12),
    "max": pa.decimal128(38, 12),
    "latest": pa.decimal128(38, 12),
    "latest_time": pa.timestamp("us", tz="UTC"),
    "latest_offset": pa.uint64(),
    "uniques": pa.list_(pa.string()),
}


def stack(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The frames of usage as one. If any holds sums as texts, all of it does."""
    if not frames:
        return pl.DataFrame(schema=dict(USAGE_SCHEMA))
    if any(frame.schema["sum"] == pl.String for frame in frames):
        frames = [frame.with_columns(pl.col("sum").cast(pl.String)) for frame in frames]
    return pl.concat(frames)


def sum_is_safe(frame: pl.DataFrame, column: str) -> bool:
    """Whether any sum of these values fits Decimal(38, 12)."""
    values = frame[column]
    if values.dtype == pl.String:
        return False
    least, most = values.min(), values.max()
    if not isinstance(least, Decimal) or not isinstance(most, Decimal):
        return True  # nothing but nulls
    return max(-least, most) * frame.height < _SAFE_SUM


def exact_sums(frame: pl.DataFrame, lists: str, into: str) -> pl.DataFrame:
    """Add column `into`: the sums of the lists of numbers (or of their texts) in column `lists`, as plain texts."""
    sums = [number_text(_sum(values)) for values in frame[lists].to_list()]
    return frame.with_columns(pl.Series(into, sums, dtype=pl.String))


def arrow(usage: pl.DataFrame) -> pa.Table:
    """The rows as an Arrow table with the types that ClickHouse's `usage` takes; other columns are left out."""
    columns = []
    for name, arrow_type in _ARROW_TYPES.items():
        column = usage[name]
        if name in {"minute", "ingest_minute"}:
            column = column.cast(pl.Int64) * 60
        columns.append(column.to_arrow().cast(arrow_type))
    return pa.table(columns, names=list(_ARROW_TYPES))


def cells(usage: pl.DataFrame, customer_of: Callable[[str, str], str | None]) -> pl.DataFrame:
    """What the rows add for each customer, meter, dims and minute, in the columns of CELL_COLUMNS.

    Rows of subjects that belong to nobody are left out; the subjects of one customer, and ingest minutes, are merged.
    """
    owners = usage.select("namespace", "subject").unique()
    owners = owners.with_columns(
        pl.Series("customer", [customer_of(*pair) for pair in owners.iter_rows()], dtype=pl.String)
    ).drop_nulls()
    frame = usage.join(owners, on=["namespace", "subject"])
    shared = frame.select(_CELL_KEYS).is_duplicated()
    alone = frame.filter(~shared).with_columns(_LATEST_INGEST)  # most rows: not to be grouped, which costs
    return stack([alone.select(CELL_COLUMNS), _merged(frame.filter(shared))])


def _merged(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of usage with a customer as cells, rows of one key as one."""
    frame = frame.sort("latest_time", "ingest_minute", "partition", "latest_offset")
    safe = sum_is_safe(frame, "sum")
    usable = pl.col("latest").is_not_null()
    grouped = frame.group_by(_CELL_KEYS).agg(
        pl.col("events").sum(),
        pl.col("count").sum(),
        pl.col("sum").sum() if safe else pl.col("sum").alias("sums"),
        pl.col("min").min(),
        pl.col("max").max(),
        pl.col("latest").drop_nulls().last(),
        pl.col("latest_time").filter(usable).last().fill_null(0),
        pl.col("latest_offset").filter(usable).last().fill_null(0),
        pl.col("uniques").explode().drop_nulls().unique().sort(),
        pl.col("ingest_minute").filter(usable).last().fill_null(0).alias("latest_ingest"),
    )
    if not safe:
        grouped = exact_sums(grouped, "sums", "sum")
    return grouped.select(CELL_COLUMNS)


def cell_rows(frame: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows of `cells` as arguments for `metering.kafka.wire.Cell`, by field."""
    return zip(*[_values(frame[name]) for name in CELL_COLUMNS], strict=True)


def _values(column: pl.Series) -> list[Any]:
    """The column as cells hold it. Most columns of a frame hold nothing, which is cheaper not to look at one by one."""
    if column.null_count() == len(column):
        return [None] * len(column)
    if isinstance(column.dtype, pl.List):
        return _tuples(column)
    if column.dtype.is_decimal():
        column = column.cast(pl.String).str.strip_chars_end("0").str.strip_chars_end(".").alias("sum")
    if column.name == "sum":
        return [None if text is None else Decimal(text) for text in column.to_list()]
    return column.to_list()


def _tuples(column: pl.Series) -> list[tuple[str, ...]]:
    """A column of lists as tuples, equal ones as one object: new containers by the row wake the garbage collector."""
    lengths = column.list.len()
    items = iter(column.filter(lengths > 0).explode().to_list())
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [known.setdefault(row, row) for row in (tuple(islice(items, length)) for length in lengths.to_list())]


def _sum(values: Sequence[Decimal | str]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = _EXACT.add(total, Decimal(value))
    return total
