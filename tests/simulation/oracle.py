"""What must have come out, counted from the logs alone, in the plainest way."""

from collections import defaultdict
from typing import Any

from tests.simulation.engines import MINUTE, Broken
from tests.simulation.loop import World


def count_input(world: World) -> dict[tuple[int, int], tuple[str, int]]:
    """(partition, offset) -> (subject, ingest time) of every record that counts."""
    counts: dict[tuple[int, int], tuple[str, int]] = {}
    for partition, log in enumerate(world.kafka.logs):
        last_counted: dict[bytes, int] = {}
        now = 0
        for offset, record in enumerate(log):
            now = max(now, record.append_time)
            if record.key is None or record.broken:
                continue
            before = last_counted.get(record.key)
            if before is not None and now - before < world.rules.window:
                continue
            last_counted[record.key] = now
            counts[partition, offset] = (record.subject, now)
    return counts


def check_ranges(world: World) -> dict[tuple[int, int], int]:
    """That ranges touch, account for all and never go back in revision or time. Returns the revision of each offset."""
    revisions: dict[tuple[int, int], int] = {}
    flushes = world.clickhouse.rows("flushes")
    for partition in range(world.partitions):
        at, revision, reached = 0, 0, 0
        for (_, a), row in sorted((key, row) for key, row in flushes.items() if key[0] == partition):
            if a != at:
                raise Broken(f"p{partition}: a range starts at {a}, the one before ended at {at}")
            if row["accounting"].total != row["end"] - a:
                raise Broken(f"p{partition}: [{a}, {row['end']}) accounts for {row['accounting']}")
            if row["revision"] < revision or row["reached"] < reached:
                raise Broken(f"p{partition}: [{a}, {row['end']}) goes back in revision or ingest time")
            at, revision, reached = row["end"], row["revision"], row["reached"]
            revisions |= {(partition, offset): revision for offset in range(a, at)}
        if at != len(world.kafka.logs[partition]):
            raise Broken(f"p{partition}: ranges end at {at}, the log at {len(world.kafka.logs[partition])}")
    return revisions


def check_all(world: World) -> None:
    """Everything that must hold when all is flushed."""
    counts = count_input(world)
    events = world.clickhouse.rows("events")
    if set(events) != set(counts):
        raise Broken(f"events has {sorted(set(events) ^ set(counts))} too many or too few")
    revisions = check_ranges(world)
    usage: dict[tuple[str, str, int], int] = defaultdict(int)
    balances: dict[tuple[str, str], int] = defaultdict(int)
    for where, (subject, time) in counts.items():
        registry = world.postgres.at(revisions[where])
        for meter in registry.meters | {"m0"}:
            usage[meter, subject, time // MINUTE] += 1
            if customer := registry.customer_of.get(subject):
                balances[customer, meter] += 1
    _compare("usage", usage_by_minute(world), dict(usage))
    _compare("balances", dict(world.kafka.balances), dict(balances))
    _check_accounting(world, counts)


def usage_by_minute(world: World, before: int | None = None) -> dict[tuple[str, str, int], int]:
    """(meter, subject, ingest minute) -> count, of ingest minutes that begin before `before`."""
    found: dict[tuple[str, str, int], int] = defaultdict(int)
    for (meter, subject, minute, _, _), count in world.clickhouse.usage().items():
        if before is None or minute * MINUTE < before:
            found[meter, subject, minute] += count
    return dict(found)


def reached(world: World, partition: int) -> int:
    """The ingest time that a partition's flushes have reached without a gap."""
    flushes = world.clickhouse.rows("flushes")
    at, time = 0, 0
    while (row := flushes.get((partition, at))) is not None:
        at, time = row["end"], row["reached"]
    return time


def _check_accounting(world: World, counts: dict[tuple[int, int], tuple[str, int]]) -> None:
    rows = [row["accounting"] for row in world.clickhouse.rows("flushes").values()]
    records = [record for log in world.kafka.logs for record in log]
    ticks = sum(record.key is None for record in records)
    broken = sum(record.broken for record in records)
    said = tuple(sum(getattr(row, name) for row in rows) for name in ("counted", "duplicate", "rejected", "ticks"))
    true = (len(counts), len(records) - ticks - broken - len(counts), broken, ticks)
    if said != true:
        raise Broken(f"flushes say {said} were counted, duplicate, rejected, ticks; it was {true}")


def _compare(what: str, is_: dict[Any, int], should: dict[Any, int]) -> None:
    if is_ != should:
        wrong = {key: (is_.get(key), should.get(key)) for key in is_ | should if is_.get(key) != should.get(key)}
        raise Broken(f"{what}: (is, should be) {wrong}")
