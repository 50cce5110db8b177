"""The folder that holds one local stack: `run/` pids, `log/` logs, and a data folder for each engine."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.errors import HomeUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
# Kafka preallocates its offset indexes, Postgres and ClickHouse write ahead.
_FREE_BYTES_MIN = 300 * 1024 * 1024


@contextmanager
def one_line_for_disk_errors(home: Path) -> Iterator[None]:
    """Turn an OSError about `home` into `HomeUnusable`."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise HomeUnusable(f"no space left on the disk of {home}: free some, or set WEIGHBRIDGE_HOME") from error
        raise HomeUnusable(f"can't write to {home} ({error.strerror}): set WEIGHBRIDGE_HOME to another") from error


def prepare(home: Path) -> Path:
    """Make the folders of `home` and return its absolute path.

    Raises `HomeUnusable` if it can't be written or its disk is full.
    """
    with one_line_for_disk_errors(home):
        home = home.expanduser().absolute()
        for folder in ("run", "log"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        probe = home / "run" / ".probe"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        stat = os.statvfs(home)
    if stat.f_bavail * stat.f_frsize < _FREE_BYTES_MIN:
        free_mib = stat.f_bavail * stat.f_frsize // 2**20
        raise HomeUnusable(f"only {free_mib} MiB free on the disk of {home}: free some, or set WEIGHBRIDGE_HOME")
    return home


def shared_cache() -> Path:
    """What homes share: the broker's jars. `~/.cache/weighbridge`, or WEIGHBRIDGE_CACHE."""
    configured = os.environ.get("WEIGHBRIDGE_CACHE")
    if configured:
        return Path(configured).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "weighbridge"
