"""The broker's classes, parsed and linked once for all homes: it halves the time a broker takes to start.

Java's class data sharing: a base archive of the runtime's own classes, made when the jars come, and one of the broker's
classes above it, which the first broker leaves behind when it is stopped. Java ignores archives that don't fit.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DUMP_TIMEOUT_SECONDS = 60
# The collector is part of an archive's form.
GARBAGE_COLLECTOR = "-XX:+UseSerialGC"


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """`cache` is shared by homes, `scratch` is a file of this home alone."""

    cache: Path
    scratch: Path
    java: str
    classpath: str

    def options(self) -> list[str]:
        """For the broker's Java: use the archive, or leave one behind; nothing if neither can be."""
        self._take_over()
        quiet = ["-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr"]
        if self._top.exists():
            return [*quiet, f"-XX:SharedArchiveFile={self._top}"]
        if self._base.exists() or self._dump_base():
            return [*quiet, f"-XX:SharedArchiveFile={self._base}", f"-XX:ArchiveClassesAtExit={self.scratch}"]
        return []

    @property
    def _key(self) -> str:
        """Another Java or other jars never meet an older archive."""
        return hashlib.sha256(f"{self.java}\n{self.classpath}".encode()).hexdigest()[:12]

    @property
    def _base(self) -> Path:
        return self.cache / f"java-{self._key}.jsa"

    @property
    def _top(self) -> Path:
        return self.cache / f"broker-{self._key}.jsa"

    def _take_over(self) -> None:
        """What the broker of this home left behind becomes everybody's."""
        if not self.scratch.exists():
            return
        if not self._top.exists():
            part = self._top.with_name(f"{self._top.name}.{self.scratch.stat().st_ino}.part")
            shutil.copyfile(self.scratch, part)
            part.replace(self._top)
        self.scratch.unlink()

    def _dump_base(self) -> bool:
        part = self._base.with_name(f"{self._base.name}.{self.scratch.parent.stat().st_ino}.part")
        argv = [self.java, GARBAGE_COLLECTOR, "-Xshare:dump", f"-XX:SharedArchiveFile={part}"]
        try:
            subprocess.run(argv, capture_output=True, timeout=_DUMP_TIMEOUT_SECONDS, check=True)  # noqa: S603
            part.replace(self._base)
        except (OSError, subprocess.SubprocessError):
            return False  # slower, but it works
        return True
