"""Backfill: a new meter version counts what came before its cut-over, from `events`.

In each partition the ranges from some offset on, the cut-over, were counted at a revision that has the meter. What lies
below is counted here, in chunks of offsets that are always the same, so doing a chunk again writes the same rows. One
process at a time does it, under an advisory lock in Postgres; one that lost the lock unnoticed can do no harm.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import structlog
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from sqlalchemy import Connection, Engine, Row, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from metering.domain.columns import EventColumns, measure
from metering.domain.meter import Meter
from metering.postgres.tables import backfills
from sink.plan import Answer
from sink.registry import RegistryWatch
from sink.rows import US, usage_table
from sink.settings import SinkSettings
from sink.writer import ClickHouseWriter

log = structlog.get_logger()
CHUNK_OFFSETS: Final = 200_000  # part of the rows' keys: never change it
TURN_SECONDS: Final = 0.5
_LOCK: Final = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_HELD: Final = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted")
_CUT_OVER: Final = (
    "SELECT partition, min(a) FROM flushes WHERE revision >= {revision:UInt64} AND end > a GROUP BY partition"
)
_EVENTS: Final = (
    "SELECT id, source, subject, time, data, ingest_time, partition, offset FROM events FINAL"
    " WHERE partition = {partition:UInt32} AND offset >= {low:UInt64} AND offset < {high:UInt64}"
    " AND namespace = {namespace:String} AND type = {type:String}"
)


@dataclass(frozen=True, slots=True)
class _Failed(Exception):
    """An engine is away; the next turn goes on."""

    step: str


class Backfill:
    """Looks for meters to backfill, in a thread of its own. `start` it and `close` it."""

    def __init__(self, settings: SinkSettings, postgres: Engine, clickhouse: Client, registry: RegistryWatch) -> None:
        self._settings = settings
        self._postgres = postgres
        self._clickhouse = clickhouse
        self._writer = ClickHouseWriter(clickhouse)
        self._registry = registry
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="backfill", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _main(self) -> None:
        while not self._stop.wait(TURN_SECONDS):
            try:
                if self._waiting():
                    self._work()
            except (SQLAlchemyError, ClickHouseError, OSError, _Failed) as error:
                log.warning("backfill waits", error=str(error)[:500])
            except Exception as error:  # noqa: BLE001 - handed to the process, which ends with it
                self.failure = error
                return

    def _waiting(self) -> bool:
        with self._postgres.connect() as connection:
            return connection.execute(select(func.count()).where(backfills.c.done_at.is_(None))).scalar_one() > 0

    def _work(self) -> None:
        """One turn over all that wait, if no other process is at it."""
        name = f"weighbridge.backfill.{self._settings.events_topic}"
        with self._postgres.connect() as plain:
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            if not connection.execute(_LOCK, {"name": name}).scalar_one():
                return
            try:
                waiting = select(backfills).where(backfills.c.done_at.is_(None)).order_by(backfills.c.revision)
                for row in connection.execute(waiting).all():
                    self._backfill(connection, row)
            finally:
                connection.detach()  # closing it frees the lock
                connection.close()

    def _backfill(self, connection: Connection, row: Row[Any]) -> None:
        registry = self._registry.at(row.revision)
        if registry is None:
            raise _Failed("registry")
        cut_over = self._cut_over(row.revision)
        meter = next((meter for meter in registry.meters if meter.key == row.meter_key), None)
        if cut_over is None:
            return  # ticks bring the revision to quiet partitions; look again next turn
        progress: dict[str, int] = dict(row.progress)
        if meter is not None:
            for partition, end in sorted(cut_over.items()):
                self._partition(connection, meter, partition, end, progress)
                if self._stop.is_set():
                    return
        self._save(connection, row.meter_key, progress, done=True)
        log.info("backfilled", meter=row.meter_key, cut_over=cut_over)

    def _cut_over(self, revision: int) -> dict[int, int] | None:
        """The first offset of each partition that was counted at `revision` or later; None if one is not yet there."""
        rows = self._clickhouse.query(_CUT_OVER, parameters={"revision": revision}).result_rows
        found = {int(partition): int(a) for partition, a in rows}
        return found if len(found) == self._settings.event_partitions else None

    def _partition(
        self, connection: Connection, meter: Meter, partition: int, end: int, progress: dict[str, int]
    ) -> None:
        low = progress.get(str(partition), 0)
        while low < end and not self._stop.is_set():
            high = min(low + CHUNK_OFFSETS, end)
            self._chunk(meter, partition, low, high)
            low = progress[str(partition)] = high
            self._save(connection, meter.key, progress, done=False)

    def _chunk(self, meter: Meter, partition: int, low: int, high: int) -> None:
        parameters = {
            "partition": partition,
            "low": low,
            "high": high,
            "namespace": meter.namespace,
            "type": meter.event_type,
        }
        table = self._clickhouse.query_arrow(_EVENTS, parameters=parameters)
        if not table.num_rows:
            return
        measured = measure(_columns(table, meter), lambda _namespace, _type: (meter,))
        if self._writer.insert("usage", usage_table(measured, low)) is not Answer.DONE:
            raise _Failed("usage")

    def _save(self, connection: Connection, meter_key: str, progress: dict[str, int], *, done: bool) -> None:
        if not connection.execute(_HELD).scalar_one():
            raise _Failed("lock")
        values: dict[str, Any] = {"progress": progress}
        if done:
            values["done_at"] = func.now()
        connection.execute(update(backfills).where(backfills.c.meter_key == meter_key).values(**values))


def _columns(table: Any, meter: Meter) -> EventColumns:
    """Events of the meter's type, as ClickHouse gives them in Arrow."""

    def texts(name: str) -> Sequence[str]:
        return [value.decode() if isinstance(value, bytes) else value for value in table[name].to_pylist()]

    def microseconds(name: str) -> list[int]:
        return table[name].cast(US).cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]

    rows = table.num_rows
    return EventColumns(
        namespace=[meter.namespace] * rows,
        id=texts("id"),
        source=texts("source"),
        type=[meter.event_type] * rows,
        subject=texts("subject"),
        time_us=microseconds("time"),
        data=[text_.encode() for text_ in texts("data")],
        ingest_us=microseconds("ingest_time"),
        partition=table["partition"].to_pylist(),
        offset=table["offset"].to_pylist(),
    )
