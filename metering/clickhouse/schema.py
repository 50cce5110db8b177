"""The tables in ClickHouse and how they come into being.

Every table that the sink writes collapses equal keys (ReplacingMergeTree), so writing a range again changes nothing.
All are partitioned by ingest time, never by event time: an insert touches one or two partitions, whatever times its
events carry.
"""

from dataclasses import dataclass
from typing import Final

from clickhouse_connect.driver.client import Client

from metering.clickhouse.client import connect_server
from metering.settings import EngineSettings

# Usage is read more often than anything else: LZ4, which is read faster than ZSTD and is hardly larger here.
# What a group of events is known by, between `usage` and `usage_closed`. `latest` is the value of the greatest
# (time, ingest_minute, partition, offset): rows of one range have the last three at hand, closed rows must keep them.
_MEASURED: Final = """
    events UInt64 CODEC(T64, LZ4),
    count UInt64 CODEC(T64, LZ4),
    sum Decimal(76, 12),
    min Nullable(Decimal(38, 12)),
    max Nullable(Decimal(38, 12)),
    latest Nullable(Decimal(38, 12)),
    latest_time DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    latest_offset UInt64 CODEC(Delta, LZ4),
    uniques Array(String)"""

_GROUP: Final = """
    namespace LowCardinality(String),
    meter LowCardinality(String),
    subject String,
    dims Array(String),
    minute DateTime64(0, 'UTC') CODEC(DoubleDelta, LZ4),"""

_CLOSED: Final = f"""{_GROUP}
    ingest_hour DateTime('UTC') CODEC(DoubleDelta, LZ4),{_MEASURED},
    latest_minute DateTime('UTC') CODEC(DoubleDelta, LZ4),
    latest_partition UInt32 CODEC(T64, LZ4)"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its columns, its engine's family and its keys. `version` tells which of equal keys stays, if named."""

    name: str
    columns: str
    order_by: str
    partition_by: str | None = None
    replacing: bool = True

    def ddl(self, database: str, cluster: str | None) -> str:
        """CREATE TABLE for one node, or for every node of `cluster` with replicated parts."""
        family = "ReplacingMergeTree" if self.replacing else "MergeTree"
        engine = f"Replicated{family}" if cluster else family
        on_cluster = f" ON CLUSTER `{cluster}`" if cluster else ""
        partition = f"\nPARTITION BY {self.partition_by}" if self.partition_by else ""
        settings = "" if cluster else f"\nSETTINGS {_DURABLE}"
        return (
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{self.name}`{on_cluster} ({self.columns}\n)\n"
            f"ENGINE = {engine}{partition}\nORDER BY ({self.order_by}){settings}"
        )


# On one node an acknowledged insert must lie on the disk. In a cluster a majority of replicas stands for that.
_DURABLE: Final = (
    "fsync_after_insert = 1, fsync_part_directory = 1, "
    "min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, "
    # Insert tokens and block hashes are not relied on, and a window of them would swallow rows that are meant.
    "non_replicated_deduplication_window = 0"
)

EVENTS: Final = Table(
    "events",
    """
    namespace LowCardinality(String),
    type LowCardinality(String),
    subject String CODEC(ZSTD),
    time DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    id String CODEC(ZSTD),
    source LowCardinality(String),
    key FixedString(16) CODEC(NONE),
    data String CODEC(ZSTD),
    ingest_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    stored_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    partition UInt32 CODEC(T64, ZSTD),
    offset UInt64 CODEC(Delta, ZSTD),
    INDEX range (partition, offset) TYPE minmax GRANULARITY 1,
    INDEX event_time time TYPE minmax GRANULARITY 1""",
    order_by="namespace, type, subject, time, partition, offset",
    partition_by="toYYYYMM(ingest_time)",
)

USAGE: Final = Table(
    "usage",
    f"""{_GROUP}
    ingest_minute DateTime('UTC') CODEC(DoubleDelta, LZ4),
    partition UInt32 CODEC(T64, LZ4),
    a UInt64 CODEC(Delta, LZ4),{_MEASURED}""",
    order_by="namespace, meter, subject, minute, dims, ingest_minute, partition, a",
    partition_by="toYYYYMM(ingest_minute)",
)

FLUSHES: Final = Table(
    "flushes",
    """
    partition UInt32,
    a UInt64 CODEC(Delta, ZSTD),
    end UInt64 CODEC(Delta, ZSTD),
    counted UInt64 CODEC(T64, ZSTD),
    duplicate UInt64 CODEC(T64, ZSTD),
    rejected UInt64 CODEC(T64, ZSTD),
    ticks UInt64 CODEC(T64, ZSTD),
    revision UInt64 CODEC(Delta, ZSTD),
    ingest_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    digest FixedString(16) CODEC(NONE),
    flushed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD)""",
    order_by="partition, a",
)

DEAD_LETTERS: Final = Table(
    "dead_letters",
    """
    namespace LowCardinality(String),
    ingest_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    partition UInt32 CODEC(T64, ZSTD),
    offset UInt64 CODEC(Delta, ZSTD),
    meter LowCardinality(String),
    code LowCardinality(String),
    detail String CODEC(ZSTD),
    id String CODEC(ZSTD),
    source LowCardinality(String),
    type LowCardinality(String),
    subject String CODEC(ZSTD),
    payload String CODEC(ZSTD)""",
    order_by="namespace, ingest_time, partition, offset, meter",
    partition_by="toYYYYMM(ingest_time)",
)

USAGE_CLOSED: Final = Table(
    "usage_closed",
    _CLOSED,
    order_by="namespace, meter, subject, minute, dims, ingest_hour",
    partition_by="toYYYYMMDD(ingest_hour)",
    replacing=False,
)

# Days of it that are over, by month: a day that is a part of its own costs each query that touches it a millisecond.
USAGE_MONTHS: Final = Table(
    "usage_months",
    _CLOSED,
    order_by=USAGE_CLOSED.order_by,
    partition_by="toYYYYMM(ingest_hour)",
    replacing=False,
)

TABLES: Final = (EVENTS, USAGE, FLUSHES, DEAD_LETTERS, USAGE_CLOSED, USAGE_MONTHS)


def create_all(settings: EngineSettings) -> None:
    """Make the database and its tables where they are missing. Doing it again changes nothing."""
    with connect_server(settings) as client:
        create_tables(client, settings.clickhouse_database)


def create_tables(client: Client, database: str, *, cluster: str | None = None) -> None:
    """As `create_all`, over a connection. `cluster` makes them on its every node."""
    on_cluster = f" ON CLUSTER `{cluster}`" if cluster else ""
    client.command(f"CREATE DATABASE IF NOT EXISTS `{database}`{on_cluster}")
    for table in TABLES:
        client.command(table.ddl(database, cluster))


def drop_all(settings: EngineSettings) -> None:
    """Remove the database with all in it. For tests and for starting over."""
    with connect_server(settings) as client:
        client.command(f"DROP DATABASE IF EXISTS `{settings.clickhouse_database}` SYNC")
