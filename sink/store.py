"""The dedupe store of one partition: RocksDB, id -> where it was counted.

Keys of 16 bytes are ids. `reach` holds up to which offset the store is complete, written with the ids in one write, so
a store that lost its newest writes says so by itself. For each write there is a row `(ingest time, offset)` -> its ids,
by which they are found again when the window has passed them.

A store belongs to one process: RocksDB locks it. If the folder is locked (by a process that was stopped, say), the next
name is taken; a store that is new or behind is completed from `events`.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DbClosedError, Options, Rdict, WriteBatch

from metering.domain.event import KEY_BYTES
from sink.duplicates import Known, Sighting, remembered

STORES_PER_PARTITION_MAX: Final = 16
EXPIRED_ROWS_MAX: Final = 4
_REACH: Final = b"reach"
_ONE: Final = struct.Struct(">QQ")
_TWO: Final = struct.Struct(">QQQQ")
_INDEX_TAG: Final = bytes(KEY_BYTES)  # sorts before every id but the zero hash itself
_TIME_AND_START: Final = struct.Struct(">QQ")
_INDEX_BYTES: Final = KEY_BYTES + _TIME_AND_START.size
_BLOCK_CACHE_BYTES: Final = 32 * 1024 * 1024
_BLOOM_BITS: Final = 10


class DedupeStore:
    """Use from one thread at a time."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._db = Rdict(str(path), _options())
        self.path = path

    @classmethod
    def open(cls, folder: Path, partition: int) -> "DedupeStore":
        """The first store of the partition that no other process holds."""
        last: Exception | None = None
        for n in range(STORES_PER_PARTITION_MAX):
            try:
                return cls(folder / (f"{partition}.{n}" if n else str(partition)))
            except Exception as error:  # rocksdict raises nothing narrower
                if "lock" not in str(error).lower():
                    raise
                last = error
        raise RuntimeError(f"all dedupe stores of partition {partition} are locked") from last

    def reach(self) -> int:
        """Up to which offset all ids are here; 0 for a new store."""
        value = self._db.get(_REACH)
        return int.from_bytes(value, "big") if value is not None else 0

    def lookup(self, keys: Sequence[bytes]) -> list[Known | None]:
        return [_known(value) for value in self._db.get(list(keys))]

    def put(
        self,
        keys: Sequence[bytes],
        sightings: Sequence[Sighting],
        known: Sequence[Known | None],
        *,
        start: int,
        end: int,
    ) -> None:
        """Remember the counted ids of the range [start, end), and that the store is complete to `end`.

        `known` is what `lookup` said of them. An id may be there more than once, in order of offsets.
        """
        batch = WriteBatch(raw_mode=True)
        for key, sighting, was in zip(keys, sightings, known, strict=True):
            if was is None:
                batch.put(key, _ONE.pack(*sighting))
            else:
                batch.put(key, _value(remembered(was, sighting, start)))
        if keys:
            index = _INDEX_TAG + _TIME_AND_START.pack(sightings[-1].ingest_time, start)
            batch.put(index, b"".join(keys))
        batch.put(_REACH, end.to_bytes(8, "big"))
        self._db.write(batch)

    def expire(self, before: int) -> int:
        """Forget ids that were last counted before this ingest time (ms). Does a bounded part; returns how many."""
        forgotten = 0
        for index, ids in self._written_before(before):
            keys = [ids[i : i + KEY_BYTES] for i in range(0, len(ids), KEY_BYTES)]
            batch = WriteBatch(raw_mode=True)
            for key, known in zip(keys, self.lookup(keys), strict=True):
                if known is not None and known.last.ingest_time < before:
                    batch.delete(key)
                    forgotten += 1
            batch.delete(index)
            self._db.write(batch)
        return forgotten

    def _written_before(self, before: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for index, ids in self._items_from(_INDEX_TAG + b"\0"):
            if len(index) != _INDEX_BYTES or len(found) == EXPIRED_ROWS_MAX:
                break
            if _TIME_AND_START.unpack(index[KEY_BYTES:])[0] >= before:
                break
            found.append((index, ids))
        return found

    def _items_from(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from self._db.items(from_key=key)

    def close(self) -> None:
        """Give the folder back. Closing again does nothing."""
        with suppress(DbClosedError):
            self._db.close()


def _known(value: bytes | None) -> Known | None:
    if value is None:
        return None
    if len(value) == _ONE.size:
        return Known(Sighting(*_ONE.unpack(value)))
    last_offset, last_time, before_offset, before_time = _TWO.unpack(value)
    return Known(Sighting(last_offset, last_time), Sighting(before_offset, before_time))


def _value(known: Known) -> bytes:
    if known.before is None:
        return _ONE.pack(*known.last)
    return _TWO.pack(*known.last, *known.before)


def _options() -> Options:
    options = Options(raw_mode=True)
    table = BlockBasedOptions()
    table.set_bloom_filter(_BLOOM_BITS, False)
    table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(table)
    options.create_if_missing(True)
    return options
