"""How a partition of the balances topic is read, by an owner that takes it over and by every reader.

An owner's epoch rises when the partition is taken; it writes the epoch before anything else. What comes after a higher
epoch has been seen is from an owner that has lost the partition, and counts for nothing. Since such a record may
displace the valid one when the topic is compacted, the next owner writes what it displaces again.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from metering.domain.balance import Vector, joined

K = TypeVar("K")
R = TypeVar("R")


@dataclass(slots=True)
class BalanceLog(Generic[K, R]):
    """What the records read so far say. Feed it in the order of the topic."""

    epoch: int = 0
    passed: Vector = ()
    records: dict[K, R] = field(default_factory=dict)
    displaced: set[K] = field(default_factory=set)
    """Keys whose last record in the topic counts for nothing."""

    def admits(self, epoch: int) -> bool:
        """Whether what an owner of this epoch wrote counts here. A higher epoch ends all lower ones."""
        self.epoch = max(self.epoch, epoch)
        return epoch == self.epoch

    def take_record(self, epoch: int, key: K, record: R) -> bool:
        """One balance. Whether it counts."""
        if not self.admits(epoch):
            self.displaced.add(key)
            return False
        self.records[key] = record
        self.displaced.discard(key)
        return True

    def take_passed(self, epoch: int, vector: Vector) -> bool:
        """All records so far have passed this vector. Whether it counts."""
        if not self.admits(epoch):
            return False
        self.passed = joined(self.passed, vector)
        return True
