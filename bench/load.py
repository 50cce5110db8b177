"""A load generator for HTTP/1.1 that costs little itself, in a process of its own.

    result = run_load(Load(port=8888, requests=[request("POST", "/x", body)], connections=64, seconds=5))

By hand: `python -m bench.load < load.json`. Each connection sends its next request when the last is answered, or, with
`rate`, when it is due; latencies count from when a request was due.
"""

import asyncio
import json
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Final, cast

import msgspec
import uvloop

COUNTER: Final = b"@@@@@@@@@@@@"  # in a request: replaced by a number of twelve digits, another one each time
_START_SECONDS: Final = 30


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. `requests` are whole requests as bytes, taken in turn. `rate` is requests/s over all connections.

    `first` is the first number that stands for COUNTER. Measuring begins after `warm_up_seconds`.
    `requests_max` ends the run early, when so many were sent.
    """

    port: int
    requests: Sequence[bytes]
    host: str = "127.0.0.1"
    connections: int = 64
    seconds: float = 5.0
    warm_up_seconds: float = 1.0
    rate: float | None = None
    first: int = 0
    requests_max: int | None = None


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Latencies are in milliseconds; `statuses` counts all answers, warm-up included."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    statuses: dict[str, int]
    sent: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """The bytes of a request, kept alive."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    if body:
        head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def run_load(load: Load) -> LoadResult:
    """Run the load in a child process and wait for it. Raises RuntimeError when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(load),
        capture_output=True,
        timeout=load.seconds + load.warm_up_seconds + _START_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.decode()[-2000:]}")
    return msgspec.json.decode(done.stdout, type=LoadResult)


def others(result: LoadResult, expected: str) -> tuple[str, ...]:
    """A line that says so if there were answers with another status than the expected one."""
    wrong = {status: count for status, count in result.statuses.items() if status != expected}
    return (f"other answers: {wrong}",) if wrong else ()


class _Run:
    """What the connections of a run share."""

    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop) -> None:
        self.load = load
        self.loop = loop
        self.counted = [COUNTER in each for each in load.requests]
        self.sent = 0
        self.began = perf_counter()
        self.measure_from = self.began + load.warm_up_seconds
        self.end = self.measure_from + load.seconds
        self.latencies = array("d")
        self.statuses: Counter[bytes] = Counter()
        self.active = 0
        self.last_answer = self.measure_from
        self.over = loop.create_future()
        self.error: str | None = None

    def next_request(self) -> bytes:
        load, number = self.load, self.sent
        self.sent += 1
        which = number % len(load.requests)
        text = load.requests[which]
        return text.replace(COUNTER, b"%012d" % (load.first + number)) if self.counted[which] else text

    def answered(self, due: float, status: bytes) -> None:
        now = perf_counter()
        self.statuses[status] += 1
        if self.measure_from <= now <= self.end:
            self.latencies.append(now - due)
            self.last_answer = now

    def finished(self, now: float) -> bool:
        most = self.load.requests_max
        return now >= self.end or (most is not None and self.sent >= most)

    def leave(self, error: str | None = None) -> None:
        self.error = self.error or error
        self.active -= 1
        if not self.active and not self.over.done():
            self.over.set_result(None)


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._due = 0.0
        self._left = False
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's does not inherit from it
        self._run.active += 1

    def go(self) -> None:
        run = self._run
        now = perf_counter()
        if run.finished(now):
            self._leave(None)
            return
        self._due = now
        if run.load.rate is not None:
            self._due = run.began + run.sent / run.load.rate
            if self._due > now:
                text = run.next_request()
                run.loop.call_later(self._due - now, self._transport.write, text)
                return
        self._transport.write(run.next_request())

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return
        status = data[9:12]
        if status != b"204":
            head = data[:head_end].lower()
            at = head.find(b"\r\ncontent-length:")
            if at < 0:
                self._leave(f"an answer without length: {head!r}")
                return
            length = int(head[at + 17 :].split(b"\r\n", 1)[0])
            if len(data) < head_end + 4 + length:
                return
        self._buffer = b""
        self._run.answered(self._due, status)
        self.go()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave(f"connection lost: {exc}")

    def _leave(self, error: str | None) -> None:
        if not self._left:
            self._left = True
            self._run.leave(error)
            self._transport.close()


async def _drive(load: Load) -> LoadResult:
    loop = asyncio.get_running_loop()
    run = _Run(load, loop)
    opened = [
        await loop.create_connection(lambda: _Connection(run), load.host, load.port) for _ in range(load.connections)
    ]
    run.began = perf_counter()
    run.measure_from = run.last_answer = run.began + load.warm_up_seconds
    run.end = run.measure_from + load.seconds
    for _, connection in opened:
        connection.go()
    await run.over
    if run.error is not None:
        raise RuntimeError(run.error)
    ordered = sorted(run.latencies)
    return LoadResult(
        requests=len(ordered),
        seconds=max(run.last_answer - run.measure_from, 1e-9) if load.requests_max else load.seconds,
        p50_ms=_percentile(ordered, 0.50),
        p99_ms=_percentile(ordered, 0.99),
        max_ms=_percentile(ordered, 1.0),
        statuses={status.decode(): count for status, count in run.statuses.items()},
        sent=run.sent,
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    return 1000 * ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    result = uvloop.run(_drive(load))
    print(json.dumps(msgspec.to_builtins(result)))


if __name__ == "__main__":
    main()
