"""Random faults: a schedule that follows from its seed, and what each fault does to a stack."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sink.failpoint import NAMES as FAILPOINTS
from tests.chaos.stack import wait_until
from tests.chaos.world import Customer

if TYPE_CHECKING:
    from tests.chaos.load import Load
    from tests.chaos.stack import ExtraSink, Stack
    from tests.chaos.world import World

MEMBERS = ("api", "sink", "balances", "kafka", "postgres", "clickhouse")
KINDS = (
    "kill",
    "kill",
    "kill two",
    "pause",
    "pause",
    "sink",
    "failpoint",
    "failpoint",
    "end sink",
    "lose store",
    "meter",
)
EXTRA_SINKS_MAX = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """`events` are acknowledged after it before the next one comes; `seconds` is how long a member is stopped."""

    kind: str
    members: tuple[str, ...] = ()
    seconds: float = 0
    failpoint: str = ""
    events: int = 0


def schedule(seed: int, length: int) -> list[Fault]:
    """The same for the same arguments. The last fault is a customer that is made after its events."""
    chance = random.Random(f"faults {seed}")
    faults = []
    for _ in range(length):
        members = tuple(chance.sample(MEMBERS, 2))
        kind, events = chance.choice(KINDS), chance.choice((0, 50, 300))
        seconds, failpoint = round(chance.uniform(0.2, 5), 1), f"{chance.choice(FAILPOINTS)}:{chance.randrange(1, 30)}"
        match kind:
            case "kill two":
                faults.append(Fault(kind, members, events=events))
            case "kill":
                faults.append(Fault(kind, members[:1], events=events))
            case "pause":
                faults.append(Fault(kind, members[:1], seconds=seconds, events=events))
            case "failpoint":
                faults.append(Fault(kind, failpoint=failpoint, events=events))
            case _:
                faults.append(Fault(kind, events=events))
    return [*faults, Fault("customer", events=100)]


class Saboteur:
    """Does to a stack under load what a schedule says. Call `end` when it is over."""

    def __init__(self, stack: Stack, world: World, load: Load) -> None:
        self._stack, self._world, self._load = stack, world, load
        self._sinks: list[ExtraSink] = []
        self._started = 0
        self.meters: list[str] = []

    def do(self, fault: Fault) -> None:
        stack = self._stack
        match fault.kind:
            case "kill" | "kill two":
                killed = [(name, stack.kill(name)) for name in fault.members]
                for name, pid in killed:
                    stack.wait_back(name, pid)
            case "pause":
                go_on = stack.pause(fault.members[0])
                time.sleep(fault.seconds)  # the fault itself
                go_on()
            case "sink":
                self._start_sink()
            case "failpoint":
                self._start_sink(FAILPOINT=fault.failpoint)
            case "end sink":
                self._end_sinks(1)
            case "lose store":
                stack.kill_and_meanwhile("sink", lambda: shutil.rmtree(stack.home / "dedupe", ignore_errors=True))
            case "meter":
                self.meters.append(f"late{len(self.meters)}")
                self._world.create_meter(self.meters[-1], "SUM", "$.amount")
            case "customer":
                late = Customer(f"{self._world.name}-nobody")
                self._world.create_customer(late)
                self._world.entitle(late)
            case _:
                raise ValueError(fault.kind)
        self._load.more(fault.events)

    def _start_sink(self, **environment: str) -> None:
        """Wait until it has its part, or has been killed on the way."""
        self._sinks = [sink for sink in self._sinks if not sink.ended()]
        self._end_sinks(len(self._sinks) - EXTRA_SINKS_MAX + 1)
        self._started += 1
        sink = self._stack.start_sink(f"extra-{self._world.name}-{self._started}", **environment)
        self._sinks.append(sink)
        wait_until(lambda: sink.owned() or sink.ended(), "a sink to have partitions")

    def _end_sinks(self, count: int) -> None:
        for sink in self._sinks[: max(0, count)]:
            sink.send(signal.SIGTERM)
            wait_until(sink.ended, "the end of a sink")
        self._sinks = self._sinks[max(0, count) :]

    def end(self) -> None:
        self._end_sinks(len(self._sinks))
