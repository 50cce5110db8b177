"""Log files that don't grow without end."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG_BYTES_MAX = 32 * 1024 * 1024


def rotate(log: Path, *, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Move a log over `bytes_max` to `NAME.log.1`, replacing the one before. Whether it was.

    The writer keeps its file open and appends to it, so the content is copied and the file cut to nothing; lines
    written in between are lost.
    """
    try:
        if log.stat().st_size <= bytes_max:
            return False
        shutil.copyfile(log, log.with_suffix(".log.1"))
    except FileNotFoundError:
        return False
    os.truncate(log, 0)
    return True
