"""Clients that post a world's events, some twice, and keep the books of what was acknowledged."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import httpx
import msgspec

from tests.chaos.stack import DEADLINE_SECONDS, wait_until

if TYPE_CHECKING:
    from tests.chaos.oracle import Ledger, Made, Traffic

CLIENTS = 4
BATCH = 25
REPEATED = 0.03
AGAIN_SECONDS = 0.1
PATH = "/api/v1/events"
HEADERS = {"content-type": "application/cloudevents-batch+json"}


@dataclass(slots=True)
class Load:
    """Runs in a thread while its context is open; on the way out it waits until all has its answer.

    A batch that gets no 2xx is posted again with the same ids until it does. One of the clients is impatient: it sends
    the events of `impatient`, and gives up at the first failure.
    """

    url: str
    ledger: Ledger
    patient: Traffic
    impatient: Traffic
    rate_max: float = 2000  # events a second
    statuses: Counter[int] = field(default_factory=Counter)
    retry_after: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _failure: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._main, name="load")
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(2 * DEADLINE_SECONDS)
        assert not self._thread.is_alive(), f"requests without an answer; statuses {dict(self.statuses)}"
        if self._failure is not None:
            raise self._failure

    def more(self, count: int, *, seconds: float = DEADLINE_SECONDS) -> None:
        """Until `count` more events are acknowledged."""
        wanted = len(self.ledger.acknowledged) + count
        wait_until(
            lambda: self._failure or len(self.ledger.acknowledged) >= wanted,
            f"{count} more acknowledged events; statuses so far {dict(self.statuses)}",
            seconds,
        )

    def refused(self) -> int:
        """How many requests got 503 so far."""
        return self.statuses[503]

    def _main(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - raised at the end of the context
            self._failure = error

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        impatient = number == 0
        traffic = self.impatient if impatient else self.patient
        chance = random.Random(f"{traffic.type} {traffic.seed} {number}")
        recent: deque[Made] = deque(maxlen=500)
        async with httpx.AsyncClient(timeout=30) as http:
            while not self._stop.is_set():
                began = time.monotonic()
                batch = [traffic.make() for _ in range(chance.randrange(1, 2 * BATCH))]
                self.ledger.add(batch)
                recent.extend(batch)
                batch += [event for event in batch if chance.random() < REPEATED / 2]
                batch += [event for event in recent if chance.random() < REPEATED / 2 * BATCH / 500]
                await self._post(http, batch, once=impatient)
                await asyncio.sleep(max(0.0, began + len(batch) * CLIENTS / self.rate_max - time.monotonic()))

    async def _post(self, http: httpx.AsyncClient, batch: list[Made], *, once: bool) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not await self._acknowledged(http, batch):
            await asyncio.sleep(AGAIN_SECONDS)
            if once:
                return
            assert time.monotonic() < deadline, f"no acknowledgement in {DEADLINE_SECONDS} s: {dict(self.statuses)}"

    async def _acknowledged(self, http: httpx.AsyncClient, batch: list[Made]) -> bool:
        try:
            answer = await http.post(f"{self.url}{PATH}", content=encoded(batch), headers=HEADERS)
        except httpx.TransportError:
            self.statuses[0] += 1
            return False
        self.statuses[answer.status_code] += 1
        if answer.is_success:
            self.ledger.acknowledge(batch)
            return True
        assert answer.status_code == 503, f"{answer.status_code} {answer.text}"
        self.retry_after.add(answer.headers.get("retry-after", ""))
        return False


def encoded(events: list[Made]) -> bytes:
    """A batch as it is posted."""
    return msgspec.json.encode([event.cloud_event() for event in events])


def post(url: str, ledger: Ledger, events: list[Made]) -> None:
    """Until these are acknowledged, from this thread; they must be in the ledger."""
    for start in range(0, len(events), 4 * BATCH):
        batch = events[start : start + 4 * BATCH]

        def acknowledged(batch: list[Made] = batch) -> bool:
            try:
                answer = httpx.post(f"{url}{PATH}", content=encoded(batch), headers=HEADERS, timeout=30)
            except httpx.TransportError:
                return False
            assert answer.is_success or answer.status_code == 503, answer.text
            return answer.is_success

        wait_until(acknowledged, "an acknowledgement")
        ledger.acknowledge(batch)
