"""A small disk of the stack's own, so that it can be filled: a tmpfs, where this user may mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = "1500m"
_CHUNK = bytes(1024 * 1024)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mounted on `folder`; False where that isn't permitted, and then `folder` is what it was."""
    is_mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
    try:
        yield is_mounted
    finally:
        if is_mounted:
            _run("umount", "--lazy", str(folder))


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No byte is free while this is open."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            with suppress(OSError):  # others write as well
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free)
            file.seek(0, os.SEEK_END)
            for size in (len(_CHUNK), 4096):
                _write_all(file.fileno(), _CHUNK[:size])
        yield
    finally:
        ballast.unlink()


def _write_all(descriptor: int, chunk: bytes) -> None:
    try:
        while os.write(descriptor, chunk) == len(chunk):
            pass
    except OSError:
        return


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
