"""What the supervisor says of itself, in `run/stack.json`, for `up`, `status` and `down` to read."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

ENGINES = ("kafka", "postgres", "clickhouse")
PROCESSES = ("api", "sink", "balances", "billing")


class Phase(StrEnum):
    """Where a component is."""

    WAITING = "waiting"  # for what it needs
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # it ended; it will be started again
    STOPPED = "stopped"


class ComponentState(msgspec.Struct, frozen=True):
    """`note` is one line: what it is doing, or why it failed. `restarts` counts since the supervisor started."""

    phase: Phase = Phase.WAITING
    pid: int | None = None
    restarts: int = 0
    note: str = ""


class StackState(msgspec.Struct, frozen=True):
    """`error` and `exit_code` are set when the stack could not start; `ready` when all components were ready once."""

    supervisor_pid: int
    components: dict[str, ComponentState]
    urls: dict[str, str] = {}
    ready: bool = False
    error: str = ""
    exit_code: int = 0


def state_path(home: Path) -> Path:
    return home / "run" / "stack.json"


def read_state(home: Path) -> StackState | None:
    """None if none was ever written, or it can't be read."""
    try:
        return msgspec.json.decode(state_path(home).read_bytes(), type=StackState)
    except (OSError, msgspec.DecodeError):
        return None


def write_state(home: Path, state: StackState) -> None:
    """Written whole or not at all."""
    part = state_path(home).with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    part.replace(state_path(home))
