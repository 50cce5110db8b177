"""Pid files that can be told from stale ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from deploy.local.engines.child import wait_ended

if TYPE_CHECKING:
    from pathlib import Path

# A start time is known to a clock tick, relative to a boot time that is known to a second.
_CLOCK_SLACK_SECONDS = 3


def write(path: Path, pid: int) -> None:
    """Written whole or not at all."""
    part = path.with_suffix(".pid.part")
    part.write_text(f"{pid}\n")
    part.replace(path)


def running(path: Path) -> psutil.Process | None:
    """The process that the file was written for; None if it ended, even if its pid belongs to another one now."""
    try:
        pid, written = int(path.read_text()), path.stat().st_mtime
        process = psutil.Process(pid)
        younger = process.create_time() > written + _CLOCK_SLACK_SECONDS
        return None if younger or process.status() == psutil.STATUS_ZOMBIE else process
    except (OSError, ValueError, psutil.Error):
        return None


def end_left_over(path: Path, *, timeout_seconds: float = 10) -> bool:
    """Kill the process of a file that nobody supervises any more. Whether there was one."""
    process = running(path)
    if process is not None:
        family = [process, *process.children(recursive=True)]
        for each in family:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        wait_ended(family, timeout_seconds=timeout_seconds)
    path.unlink(missing_ok=True)
    return process is not None
