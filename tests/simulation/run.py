"""Runs of the simulator: `simulate(seed)` lets chance decide what happens next; `Stage` is driven by hand.

By hand: `python -m tests.simulation.run SEED` prints the schedule of a seed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from metering.domain.errors import ProtocolViolation
from sink.plan import Command, Fetch, PartitionProtocol
from tests.simulation.engines import MINUTE, Broken, Registry
from tests.simulation.loop import WINDOW, Loop, Outcome, Rules, World
from tests.simulation.oracle import check_all, reached, usage_by_minute

SINKS = 2
TURNS = 170
SETTLING_STEPS_MAX = 4000
UNCLEAR: tuple[Outcome, ...] = ("lost", "applied, unclear", "hung")


class Stage:
    """A world with two sinks whose every move is asked for."""

    def __init__(
        self,
        *,
        partitions: int = 1,
        rules: Rules | None = None,
        protocol: Callable[[], PartitionProtocol] = PartitionProtocol,
    ) -> None:
        self.world = World(partitions, rules or Rules(), protocol)
        self.owners = [0] * partitions
        self.loops: list[Loop] = []

    def start(self, sink: int, partition: int = 0) -> Loop:
        """A sink takes a partition; a loop that another has for it goes on."""
        self.owners[partition] = sink
        loop = Loop(self.world, sink, partition)
        self.world.trace.append(f"S{sink} is given p{partition}, with store {loop.store.name}")
        self.loops.append(loop)
        return loop

    def append(self, keys: str, partition: int = 0) -> None:
        """Put events on the log, one for each letter; `!` before a letter: undecodable; `.`: a tick."""
        broken = False
        for letter in keys:
            if letter == "!":
                broken = True
                continue
            key = None if letter == "." else letter.encode()
            self.world.append(partition, key, "" if key is None else f"s{ord(letter) % 3}", broken=broken)
            self.world.trace.append(f"p{partition} gets {'broken ' if broken else ''}{letter}")
            broken = False

    def run_to(self, loop: Loop, command: type[Command], *, most: int = 3) -> None:
        """Let the loop go on until `command` is its next."""
        for _ in range(200):
            if loop.ended or isinstance(loop.command, command):
                return
            loop.step(most=most)
        raise AssertionError(f"{loop.name} did not come to {command.__name__}")

    def finish(self, loop: Loop, *, most: int = 3) -> None:
        """Let the loop do all that is on the log, and the advance past it, or end fenced."""
        log = self.world.kafka.logs[loop.partition]
        for _ in range(SETTLING_STEPS_MAX):
            if loop.ended or (isinstance(loop.command, Fetch) and loop.command.start == len(log)):
                return
            if not loop.ready():
                raise Broken(f"{loop.name} waits for ever for {loop.command}")
            loop.step(most=most)
        raise Broken(f"{loop.name} does not come to an end")

    def kill(self, loop: Loop) -> None:
        self.world.trace.append(f"{loop.name} is killed")
        loop.kill()
        self.loops.remove(loop)

    def settle(self) -> None:
        """No more faults: what hangs happens, zombies go on, owners finish; then all is checked."""
        world = self.world
        while world.hung:
            name, write = world.hung.pop()
            world.trace.append(f"at last happens: {name}")
            write()
        for loop in [loop for loop in self.loops if not loop.ended and self.owners[loop.partition] != loop.sink]:
            self.finish(loop)
        world.known_revision = [world.postgres.revision] * SINKS
        for partition, sink in enumerate(self.owners):
            for _ in range(2):
                self._finish_owner(partition, sink)
                world.clock += 1
                if world.rules.ticks:
                    world.append(partition, None)
            self._finish_owner(partition, sink)
        check_all(world)

    def _finish_owner(self, partition: int, sink: int) -> None:
        log = self.world.kafka.logs[partition]
        for loop in [loop for loop in self.loops if loop.partition == partition and not loop.ended]:
            self.finish(loop)
        alive = [loop for loop in self.loops if loop.partition == partition and loop.sink == sink and not loop.ended]
        if not alive:
            self.finish(self.start(sink, partition))
        elif isinstance(alive[-1].command, Fetch) and alive[-1].command.start < len(log):
            self.finish(alive[-1])


@dataclass(slots=True)
class _Bill:
    cut: int
    usage: dict[tuple[str, str, int], int]


@dataclass(slots=True)
class _Chance:
    """The moves of one seed, with weights of their own."""

    random: Random
    stage: Stage
    faults: float
    loses_parts: bool
    bills: list[_Bill] = field(default_factory=list)

    def turn(self) -> None:
        moves: list[tuple[float, Callable[[], None]]] = [
            (30, self._step),
            (7, self._append),
            (4, self._clock),
            (1, self._learn),
            (0.4, self._change_registry),
            (1.2 * self.faults, self._rebalance),
            (1.2 * self.faults, self._crash),
            (0.6 * self.faults, self._lose_store),
            (0.5 * self.faults, self._fail_over),
            (2 * self.faults, self._deliver),
            (1, self._retake),
            (2, self._bill),
        ]
        if self.loses_parts:
            moves += [(1, self.stage.world.clickhouse.sync), (0.7, self._clickhouse_crash)]
        weights, actions = zip(*moves, strict=True)
        self.random.choices(actions, weights)[0]()

    def _say(self, text: str) -> None:
        self.stage.world.trace.append(text)

    def _step(self) -> None:
        ready = [loop for loop in self.stage.loops if not loop.ended and loop.ready()]
        if not ready:
            return
        loop = self.random.choice(ready)
        for _ in range(self.random.randint(1, 5)):
            if loop.ended or not loop.ready():
                return
            outcome = self.random.choice(UNCLEAR) if self.random.random() < 0.12 * self.faults else "done"
            loop.step(outcome, most=self.random.randint(1, 4))

    def _append(self) -> None:
        partition = self.random.randrange(self.stage.world.partitions)
        for _ in range(self.random.randint(1, 3)):
            letter = self.random.choice("ABCDEF")
            self.stage.append(f"{'!' if self.random.random() < 0.15 else ''}{letter}", partition)

    def _clock(self) -> None:
        world = self.stage.world
        jump = WINDOW - self.random.randint(0, 4) if self.random.random() < 0.15 else 0
        world.clock += jump or self.random.randint(1, 6)
        self._say(f"clock {world.clock}")

    def _learn(self) -> None:
        world, sink = self.stage.world, self.random.randrange(SINKS)
        world.known_revision[sink] = self.random.randint(world.known_revision[sink], world.postgres.revision)
        self._say(f"S{sink} knows revision {world.known_revision[sink]}")

    def _change_registry(self) -> None:
        postgres = self.stage.world.postgres
        last = postgres.registries[-1]
        meters = last.meters ^ {self.random.choice(("m1", "m2"))}
        customers = {**last.customer_of, f"s{self.random.randrange(3)}": f"c{self.random.randrange(3)}"}
        postgres.registries.append(Registry(meters, customers))
        self._say(f"registry at revision {postgres.revision}")

    def _rebalance(self) -> None:
        stage = self.stage
        partition = self.random.randrange(stage.world.partitions)
        old = stage.owners[partition]
        if self.random.random() < 0.4:  # the old owner hears of it; else it goes on as a zombie
            for loop in [loop for loop in stage.loops if (loop.sink, loop.partition) == (old, partition)]:
                stage.kill(loop)
        stage.start(1 - old, partition)

    def _crash(self) -> None:
        stage, sink = self.stage, self.random.randrange(SINKS)
        for loop in [loop for loop in stage.loops if loop.sink == sink]:
            stage.kill(loop)
        stage.world.known_revision[sink] = self.random.randint(1, stage.world.postgres.revision)
        for partition, owner in enumerate(stage.owners):
            if owner == sink:
                stage.start(self.random.randrange(SINKS), partition)

    def _lose_store(self) -> None:
        free = [store for store in self.stage.world.stores.values() if not store.held and store.reach]
        if free:
            store = self.random.choice(free)
            store.ids, store.reach = {}, 0
            self._say(f"{store.name} is lost")

    def _fail_over(self) -> None:
        world = self.stage.world
        partition = self.random.randrange(world.partitions)
        world.skew[partition] = self.random.randint(-12, 3)
        self._say(f"p{partition} has a leader whose clock is off by {world.skew[partition]}")

    def _clickhouse_crash(self) -> None:
        world = self.stage.world
        world.clickhouse.crash({(partition, plan.a) for partition, plan in enumerate(world.postgres.plans)})
        self._say("ClickHouse restarts and has lost what was not on its disk")

    def _deliver(self) -> None:
        hung = self.stage.world.hung
        if hung:
            name, write = hung.pop(self.random.randrange(len(hung)))
            self._say(f"now happens what hung: {name}")
            write()

    def _retake(self) -> None:
        stage = self.stage
        for partition, sink in enumerate(stage.owners):
            if not any((loop.sink, loop.partition, loop.ended) == (sink, partition, False) for loop in stage.loops):
                stage.start(sink, partition)

    def _bill(self) -> None:
        """Take the usage as of a cut that every partition has passed. It must never change again."""
        world = self.stage.world
        if self.loses_parts:
            return
        cut = min(reached(world, partition) for partition in range(world.partitions)) // MINUTE * MINUTE
        if cut > 0:
            self._say(f"bill with cut {cut}")
            self.bills.append(_Bill(cut, usage_by_minute(world, cut)))


def simulate(
    seed: int, *, rules: Rules | None = None, protocol: Callable[[], PartitionProtocol] = PartitionProtocol
) -> Stage:
    """One run. Raises Broken or ProtocolViolation with the schedule that led there."""
    random = Random(seed)
    rules = rules or Rules()
    loses_parts = random.random() < 0.2
    if loses_parts:  # what is lost is noticed soon: long before the window has passed it
        rules = replace(rules, window=100 * rules.window)
    stage = Stage(partitions=random.choice((1, 1, 2)), rules=rules, protocol=protocol)
    chance = _Chance(random, stage, faults=random.choice((0.3, 1, 2)), loses_parts=loses_parts)
    try:
        for partition in range(stage.world.partitions):
            stage.start(random.randrange(SINKS), partition)
        for _ in range(TURNS):
            chance.turn()
        stage.settle()
        _check_time_passes(stage)
        _check_bills(stage, chance.bills)
    except (Broken, ProtocolViolation) as error:
        raise type(error)(f"seed {seed}: {error}\n{schedule(stage)}") from None
    return stage


def _check_bills(stage: Stage, bills: list[_Bill]) -> None:
    for bill in bills:
        if usage_by_minute(stage.world, bill.cut) != bill.usage:
            raise Broken(f"a row with an ingest time before {bill.cut} appeared after that cut")


def _check_time_passes(stage: Stage) -> None:
    world = stage.world
    for partition in range(world.partitions):
        if reached(world, partition) < world.clock + min(world.skew[partition], 0) - 3:
            raise Broken(f"p{partition} is quiet, and its ingest time stays at {reached(world, partition)}")


def schedule(stage: Stage) -> str:
    """What happened, a line a step."""
    return "\n".join(f"  {n:4} {line}" for n, line in enumerate(stage.world.trace, start=1))


__all__ = ["Broken", "Stage", "schedule", "simulate"]

if __name__ == "__main__":
    print(schedule(simulate(int(sys.argv[1]))))  # noqa: T201
