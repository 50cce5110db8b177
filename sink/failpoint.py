"""A place where a test has the process killed: WEIGHBRIDGE_FAILPOINT=after_events, or after_events:3 for the third.

The kill is SIGKILL, so nothing is flushed, nobody is told.
"""

import os
import signal
import threading
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = "WEIGHBRIDGE_FAILPOINT"
NAMES: Final = (
    "after_plan",
    "after_events",
    "after_usage",
    "after_flushes",
    "after_deltas",
    "after_dedupe",
    "after_advance",
)


class Failpoint:
    """Counts how often its place is passed and kills the process at the one asked for."""

    def __init__(self, name: str | None = None, nth: int = 1) -> None:
        if name is not None and name not in NAMES:
            raise ValueError(f"{VARIABLE}: there is no failpoint {name!r}; there are {', '.join(NAMES)}")
        self._name = name
        self._left = nth
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Failpoint":
        text = environment.get(VARIABLE, "")
        name, _, nth = text.partition(":")
        return cls(name or None, int(nth or 1))

    def passed(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
