"""Child processes of a benchmark: started, waited for, ended."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server
from typing import Final
from urllib.error import HTTPError
from urllib.request import urlopen

_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 20


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def python_process(
    arguments: Sequence[str], *, log: Path, ready_url: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python ARGUMENTS` until the block ends; the block begins when `ready_url` answers 200.

    Raises RuntimeError with the end of its log when it doesn't get ready.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=output, env={**os.environ, **(environment or {})}
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(ready_url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(arguments)} is not ready: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    with suppress(OSError, HTTPError), urlopen(url, timeout=1) as answer:
        return bool(answer.status == 200)
    return False


def run_python(arguments: Sequence[str], *, environment: Mapping[str, str], timeout: float) -> str:
    """Run `python ARGUMENTS` to its end and return what it printed. Raises RuntimeError when it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return done.stdout.strip()
