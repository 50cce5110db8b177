"""The rows that a range comes to, as Arrow tables with the columns of ClickHouse. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from metering.domain import rows as usage_rows
from metering.domain.columns import EventColumns, Measured, MeterFinding, measure
from metering.domain.registry import Registry
from sink.decode import Decoded, Rejected
from sink.plan import Accounting, Batch, Plan

MS: Final = pa.timestamp("ms", tz="UTC")
US: Final = pa.timestamp("us", tz="UTC")
PAYLOAD_BYTES_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class RangeRows:
    """Rows of one range; None where there are none."""

    events: pa.Table | None
    dead_letters: pa.Table | None
    usage: pa.Table | None
    measured: Measured
    accounting: Accounting


def count(
    partition: int,
    plan: Plan,
    batch: Batch,
    decoded: Decoded,
    *,
    skip: set[int],
    registry: Registry,
    stored_at: int,
) -> RangeRows:
    """Make the rows of a range. `skip` are indexes into `decoded` of duplicates; `stored_at` is in ms."""
    times = batch.ingest_times(plan.ingest_floor)
    columns = _columns(partition, batch.start, decoded, skip, times)
    keys = decoded.keys if not skip else [key for i, key in enumerate(decoded.keys) if i not in skip]
    measured = measure(columns, registry.meters_of)
    accounting = Accounting(len(columns), len(skip), len(decoded.rejected), decoded.ticks)
    letters = _Letters(partition)
    for finding in measured.findings:
        letters.add_finding(finding, columns)
    for rejected in decoded.rejected:
        letters.add_rejected(rejected, batch, times)
    return RangeRows(
        _events(columns, keys, stored_at) if len(columns) else None,
        letters.table(),
        usage_table(measured, plan.a),
        measured,
        accounting,
    )


def usage_table(measured: Measured, a: int) -> pa.Table | None:
    """Usage as ClickHouse takes it, keyed by the range's start."""
    if not measured.usage.height:
        return None
    table = usage_rows.arrow(measured.usage)
    return table.append_column("a", pa.array([a] * len(table), pa.uint64()))


def flush_table(partition: int, plan: Plan, accounting: Accounting, reached: int, flushed_at: int) -> pa.Table:
    """The row of `flushes` that accounts for the range. Times are in ms."""
    numbers = {
        "a": plan.a,
        "end": plan.end,
        "counted": accounting.counted,
        "duplicate": accounting.duplicate,
        "rejected": accounting.rejected,
        "ticks": accounting.ticks,
        "revision": plan.revision,
    }
    return pa.table(
        {
            "partition": pa.array([partition], pa.uint32()),
            **{name: pa.array([number], pa.uint64()) for name, number in numbers.items()},
            "ingest_time": pa.array([reached], pa.int64()).cast(MS),
            "digest": pa.array([plan.digest], pa.binary(16)),
            "flushed_at": pa.array([flushed_at], pa.int64()).cast(MS),
        }
    )


def _columns(partition: int, start: int, decoded: Decoded, skip: set[int], times: Sequence[int]) -> EventColumns:
    events, indexes = decoded.events, decoded.indexes
    if skip:
        events = [event for i, event in enumerate(events) if i not in skip]
        indexes = [index for i, index in enumerate(indexes) if i not in skip]
    return EventColumns(
        namespace=[event.namespace for event in events],
        id=[event.id for event in events],
        source=[event.source for event in events],
        type=[event.type for event in events],
        subject=[event.subject for event in events],
        time_us=[event.time for event in events],
        data=[bytes(event.data) for event in events],
        ingest_us=[times[index] * 1000 for index in indexes],
        partition=[partition] * len(events),
        offset=[start + index for index in indexes],
    )


def _events(columns: EventColumns, keys: Sequence[bytes], stored_at: int) -> pa.Table:
    n = len(columns)
    ingest = pa.array(columns.ingest_us, pa.int64()).cast(US).cast(MS)
    return pa.table(
        {
            "namespace": pa.array(columns.namespace, pa.string()),
            "type": pa.array(columns.type, pa.string()),
            "subject": pa.array(columns.subject, pa.string()),
            "time": pa.array(columns.time_us, pa.int64()).cast(US),
            "id": pa.array(columns.id, pa.string()),
            "source": pa.array(columns.source, pa.string()),
            "key": pa.array(keys, pa.binary(16)),
            "data": pa.array(columns.data, pa.binary()),
            "ingest_time": ingest,
            "stored_at": pa.array([stored_at] * n, pa.int64()).cast(MS),
            "partition": pa.array(columns.partition, pa.uint32()),
            "offset": pa.array(columns.offset, pa.uint64()),
        }
    )


class _Letters:
    """Collects dead letters, one list a column."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._rows: list[tuple[str, int, int, str, str, str, str, str, str, str, bytes]] = []

    def add_finding(self, finding: MeterFinding, columns: EventColumns) -> None:
        row = finding.row
        self._rows.append(
            (
                columns.namespace[row],
                columns.ingest_us[row] // 1000,
                columns.offset[row],
                finding.meter_key,
                finding.code,
                finding.message,
                columns.id[row],
                columns.source[row],
                columns.type[row],
                columns.subject[row],
                columns.data[row][:PAYLOAD_BYTES_MAX],
            )
        )

    def add_rejected(self, rejected: Rejected, batch: Batch, times: Sequence[int]) -> None:
        event = rejected.event
        read = (event.namespace, event.id, event.source, event.type, event.subject) if event else ("",) * 5
        namespace, event_id, source, event_type, subject = read
        self._rows.append(
            (
                namespace,
                times[rejected.index],
                batch.start + rejected.index,
                "",
                rejected.code,
                rejected.detail,
                event_id,
                source,
                event_type,
                subject,
                batch.values[rejected.index][:PAYLOAD_BYTES_MAX],
            )
        )

    def table(self) -> pa.Table | None:
        if not self._rows:
            return None
        columns = list(zip(*self._rows, strict=True))
        texts = ("meter", "code", "detail", "id", "source", "type", "subject")
        return pa.table(
            {
                "namespace": pa.array(columns[0], pa.string()),
                "ingest_time": pa.array(columns[1], pa.int64()).cast(MS),
                "partition": pa.array([self._partition] * len(self._rows), pa.uint32()),
                "offset": pa.array(columns[2], pa.uint64()),
                **{name: pa.array(columns[3 + i], pa.string()) for i, name in enumerate(texts)},
                "payload": pa.array(columns[10], pa.binary()),
            }
        )
