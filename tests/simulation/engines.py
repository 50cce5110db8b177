"""Simulated engines: a log that only grows, a row per partition, tables that collapse equal keys, stores that get lost.

Nothing here knows of the protocol. What an engine must never see (two different rows under one key, overlapping ranges,
a gap in the deltas) raises `Broken` at once.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sink.duplicates import Known
from sink.plan import NO_PLAN, Plan

MINUTE = 10  # ticks of the simulated clock
BALANCE_PARTITIONS = 2


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True)
class Record:
    """On the log: an event (`subject` named), something undecodable (`broken`), or a tick (`key` None)."""

    key: bytes | None
    append_time: int
    subject: str = ""
    broken: bool = False

    @property
    def value(self) -> bytes:
        return b"broken" if self.broken else self.subject.encode()


@dataclass(frozen=True, slots=True)
class Registry:
    """At one revision: which meters there are, and whose usage a subject's is."""

    meters: frozenset[str]
    customer_of: dict[str, str]


@dataclass(frozen=True, slots=True)
class SentDelta:
    partition: int
    start: int
    end: int
    revision: int
    floor: int
    digest: bytes
    cells: dict[tuple[str, str], int]


class Postgres:
    """The fence rows and the registry's log."""

    def __init__(self, partitions: int) -> None:
        self.plans = [NO_PLAN] * partitions
        self.registries = [Registry(frozenset({"m0"}), {"s0": "c0", "s1": "c1"})]  # of revision 1, 2, ...

    @property
    def revision(self) -> int:
        return len(self.registries)

    def at(self, revision: int) -> Registry:
        return self.registries[revision - 1] if revision else Registry(frozenset(), {})

    def compare_and_set(self, partition: int, expected: Plan, new: Plan, *, blind: bool) -> bool:
        if not blind and self.plans[partition].fence != expected.fence:
            return False
        self.plans[partition] = new
        return True


class Kafka:
    """The partitions of `events`, and the deltas with the balances that consume them."""

    def __init__(self, partitions: int) -> None:
        self.logs: list[list[Record]] = [[] for _ in range(partitions)]
        self.deltas: list[list[SentDelta]] = [[] for _ in range(BALANCE_PARTITIONS)]
        self.vectors: list[dict[int, int]] = [defaultdict(int) for _ in range(BALANCE_PARTITIONS)]
        self.balances: dict[tuple[str, str], int] = defaultdict(int)

    def send_delta(self, place: int, delta: SentDelta) -> None:
        """Append, and let the balances consume it: skipped at or below the vector, else it must begin there."""
        self.deltas[place].append(delta)
        at = self.vectors[place][delta.partition]
        if delta.end <= at:
            return
        if delta.start != at:
            raise Broken(f"balances at {at} of p{delta.partition} got a delta of [{delta.start}, {delta.end})")
        self.vectors[place][delta.partition] = delta.end
        for cell, count in delta.cells.items():
            self.balances[cell] += count


@dataclass(slots=True)
class _Stored:
    row: Any
    times: int
    durable: bool


class ClickHouse:
    """Tables by key. Equal keys collapse, and must be equal rows; `keyed` off shows what happens without."""

    def __init__(self, *, keyed: bool = True) -> None:
        self.tables: dict[str, dict[Any, _Stored]] = {"events": {}, "usage": {}, "flushes": {}}
        self.restarts = 0
        self.suspects: set[tuple[int, int]] = set()  # ranges flushed since the last sync before a restart
        self._unsynced: set[tuple[int, int]] = set()
        self._keyed = keyed

    def insert(self, table: str, rows: dict[Any, Any]) -> None:
        stored = self.tables[table]
        for key, row in rows.items():
            was = stored.get(key)
            if was is None:
                stored[key] = _Stored(row, 1, durable=False)
            elif was.row != row:
                raise Broken(f"{table} {key} was {was.row} and now is {row}")
            else:
                was.times += 1
            if table == "flushes":
                self._unsynced.add(key)
                if was is None:
                    self._check_touching(key)

    def rows(self, table: str) -> dict[Any, Any]:
        return {key: stored.row for key, stored in self.tables[table].items()}

    def usage(self) -> dict[Any, int]:
        """(meter, subject, ingest minute, partition, a) -> count, as a query sees it."""
        return {key: stored.row * (1 if self._keyed else stored.times) for key, stored in self.tables["usage"].items()}

    def sync(self) -> None:
        """What was written is on the disk."""
        for stored in self.tables.values():
            for row in stored.values():
                row.durable = True
        self._unsynced.clear()

    def crash(self, at_work: set[tuple[int, int]]) -> None:
        """Lose what was not on the disk. `at_work` are the ranges that are planned now."""
        for stored in self.tables.values():
            for key in [key for key, row in stored.items() if not row.durable]:
                del stored[key]
        self.suspects |= self._unsynced | at_work
        self._unsynced.clear()
        self.restarts += 1

    def _check_touching(self, key: tuple[int, int]) -> None:
        partition, a = key
        end = self.tables["flushes"][key].row["end"]
        for (other, b), stored in self.tables["flushes"].items():
            if other == partition and b != a and b < end and a < stored.row["end"]:
                raise Broken(f"p{partition}: ranges [{a}, {end}) and [{b}, {stored.row['end']}) overlap")


@dataclass(slots=True)
class Store:
    """A dedupe store on a sink's disk."""

    name: str
    ids: dict[bytes, Known] = field(default_factory=dict)
    reach: int = 0
    held: bool = False
