"""What all tests share: the real engines, one set for the whole run, and a clean place in each for every test.

    def test_something(postgres_url, clickhouse_database, kafka_bootstrap, topic_prefix): ...

`postgres_url` is a database of the test's own, `clickhouse_database` has `.url` and `.name` of one, and topics and
groups of a test begin with `topic_prefix`. Tests that ask for any of these get the marker `engines`.

Options: `--chaos` runs fault tests for longer, `--seeds N` says how often; a test with a `seed` argument runs once per
seed. WEIGHBRIDGE_TEST_ENGINES_URLS names the file that `python -m deploy.local.engines --json FILE` wrote, to use
engines that run already.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import hypothesis
import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUN_FOLDER = "WEIGHBRIDGE_TEST_RUN"
_URLS = "WEIGHBRIDGE_TEST_ENGINES_URLS"
_START_SECONDS = 270  # the first time with a download
_STOP_SECONDS = 30
_CHAOS_SEEDS = 25

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("chaos", deadline=None, max_examples=2000, print_blob=True)


@dataclass(frozen=True, slots=True)
class EngineUrls:
    """Where the engines of this run are."""

    kafka_bootstrap: str
    postgres_url: str
    clickhouse_url: str


@dataclass(frozen=True, slots=True)
class ClickHouseDatabase:
    """A database of one test's own."""

    url: str
    name: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("weighbridge")
    group.addoption("--chaos", action="store_true", help="run fault tests for longer and with more seeds")
    group.addoption("--seeds", type=int, default=None, metavar="N", help="how many seeds a seeded test runs")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("chaos" if config.getoption("--chaos") else "ci")
    if not hasattr(config, "workerinput"):  # the controller, or the only process; workers inherit the variable
        os.environ[_RUN_FOLDER] = tempfile.mkdtemp(prefix="weighbridge-test-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        run = Path(os.environ.pop(_RUN_FOLDER))
        _stop_engines(run)
        for left in run.iterdir():
            left.unlink()
        run.rmdir()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(_seeds(metafunc.config)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    docker = None
    for item in items:
        if "engines" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.engines)
        if item.get_closest_marker("docker") is not None:
            docker = _docker_missing() if docker is None else docker
            if docker:
                item.add_marker(pytest.mark.skip(reason=docker))


@pytest.fixture(scope="session")
def chaos(pytestconfig: pytest.Config) -> bool:
    """Whether fault tests should take their time."""
    return bool(pytestconfig.getoption("--chaos"))


@pytest.fixture(scope="session")
def seeds(pytestconfig: pytest.Config) -> int:
    """How many seeds were asked for, for tests that loop over their seeds themselves."""
    return _seeds(pytestconfig)


@pytest.fixture(scope="session")
def engines() -> EngineUrls:
    """The engines of this run, started by the first test that needs them and shared by all xdist workers."""
    if running := os.environ.get(_URLS):
        return EngineUrls(**json.loads(Path(running).read_text()))
    run = Path(os.environ[_RUN_FOLDER])
    with _locked(run / "lock"):
        urls = run / "urls.json"
        if not urls.exists():
            _start_engines(run, urls)
    return EngineUrls(**json.loads(urls.read_text()))


@pytest.fixture
def postgres_url(engines: EngineUrls) -> Iterator[str]:
    """The URL of an empty database, dropped after the test."""
    with _postgres_database(engines) as url:
        yield url


@pytest.fixture(scope="module")
def module_postgres_url(engines: EngineUrls) -> Iterator[str]:
    """The same for all tests of a module that can share one."""
    with _postgres_database(engines) as url:
        yield url


@pytest.fixture
def clickhouse_url(engines: EngineUrls) -> str:
    return engines.clickhouse_url


@pytest.fixture
def clickhouse_database(engines: EngineUrls) -> Iterator[ClickHouseDatabase]:
    """An empty database, dropped after the test."""
    with _clickhouse_database(engines) as database:
        yield database


@pytest.fixture(scope="module")
def module_clickhouse_database(engines: EngineUrls) -> Iterator[ClickHouseDatabase]:
    """The same for all tests of a module that can share one."""
    with _clickhouse_database(engines) as database:
        yield database


@pytest.fixture
def kafka_bootstrap(engines: EngineUrls) -> str:
    return engines.kafka_bootstrap


@pytest.fixture
def topic_prefix() -> str:
    """What the names of a test's topics and groups begin with."""
    return f"t{secrets.token_hex(6)}-"


def _seeds(config: pytest.Config) -> int:
    asked = config.getoption("--seeds")
    if asked is not None:
        return int(asked)
    return _CHAOS_SEEDS if config.getoption("--chaos") else 1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start_engines(run: Path, urls: Path) -> None:
    """In a process of their own, which ends them when this run does, however it ends."""
    controller = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    argv = [sys.executable, "-m", "deploy.local.engines", "--home", str(run / "home"), "--temporary"]
    argv += ["--json", str(urls), "--while-pid", str(controller)]
    log = run / "engines.log"
    with log.open("wb") as output:
        host = subprocess.Popen(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
    (run / "pid").write_text(str(host.pid))
    deadline = time.monotonic() + _START_SECONDS
    while not urls.exists():
        if host.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the engines did not start:\n{log.read_text()}", pytrace=False)
        time.sleep(0.05)
    host.returncode = 0  # it goes on beyond this process: no warning that we didn't wait for it


def _stop_engines(run: Path) -> None:
    try:
        pid = int((run / "pid").read_text())
    except FileNotFoundError:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while (run / "home").exists() and time.monotonic() < deadline:  # the last thing it does is to remove it
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


@contextmanager
def _postgres_database(engines: EngineUrls) -> Iterator[str]:
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(engines.postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlsplit(engines.postgres_url)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(engines.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def _clickhouse_database(engines: EngineUrls) -> Iterator[ClickHouseDatabase]:
    name = f"t_{secrets.token_hex(8)}"
    _clickhouse(engines, f"CREATE DATABASE {name}")
    try:
        yield ClickHouseDatabase(engines.clickhouse_url, name)
    finally:
        _clickhouse(engines, f"DROP DATABASE {name} SYNC")


def _clickhouse(engines: EngineUrls, statement: str) -> None:
    with urlopen(Request(engines.clickhouse_url, data=statement.encode()), timeout=30) as answer:
        answer.read()


def _docker_missing() -> str:
    """Why Docker can't be used here; empty when it can."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "no Docker engine here"
    return "" if done.returncode == 0 else "no Docker engine here"
