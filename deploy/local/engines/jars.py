"""The broker's jars, downloaded once per user and checked against known digests."""

from __future__ import annotations

import fcntl
import hashlib
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.engines.home import one_line_for_disk_errors, shared_cache
from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KAFKA_VERSION = "4.1.1"
_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_DIGESTS = Path(__file__).with_name("kafka_jars.sha256")
_DOWNLOAD_MIB = 41


def kafka_jars(report: Callable[[str], None]) -> Path:
    """The folder with the broker's jars; on first use it downloads them, telling `report` how far it is.

    The set and content of the jars are pinned by `kafka_jars.sha256`; anything else raises `EngineError`.
    """
    cache = shared_cache()
    # The name has the digests' digest: another pinned set never meets an older one.
    folder = cache / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(_DIGESTS.read_bytes()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    with one_line_for_disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "kafka.lock"):
            if not folder.is_dir():  # another process may have been faster
                _download(cache, folder, report)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(cache: Path, folder: Path, report: Callable[[str], None]) -> None:
    # Imported here: it takes 0.3 s and is needed once.
    from jgo.env import EnvironmentBuilder, LinkStrategy  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    repository = cache / "maven"
    done = threading.Event()
    watcher = threading.Thread(target=_report_size, args=(repository, report, done), daemon=True)
    watcher.start()
    try:
        context = MavenContext(repo_cache=repository, remote_repos={"central": "https://repo.maven.apache.org/maven2"})
        builder = EnvironmentBuilder(context=context, cache_dir=cache / "jgo", link_strategy=LinkStrategy.AUTO)
        environment = builder.from_endpoint(endpoint=_COORDINATES)
    except OSError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise EngineError(f"can't download Kafka {KAFKA_VERSION} from Maven Central: {lines[0]}") from error
    finally:
        done.set()
        watcher.join()
    _install({jar.name: jar for jar in Path(environment.path).rglob("*.jar")}, folder)
    report("Kafka's jars are here")


def _install(found: dict[str, Path], folder: Path) -> None:
    expected = {name: digest for digest, name in (line.split() for line in _DIGESTS.read_text().splitlines())}
    if found.keys() != expected.keys():
        raise EngineError(f"Kafka's jars are not the pinned ones: {sorted(found.keys() ^ expected.keys())}")
    staging = folder.with_suffix(".part")
    staging.mkdir(exist_ok=True)
    for name, jar in found.items():
        content = jar.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected[name]:
            raise EngineError(f"{jar} is not the pinned content; delete it and try again")
        (staging / name).write_bytes(content)
    staging.rename(folder)  # all or nothing


def _report_size(folder: Path, report: Callable[[str], None], done: threading.Event) -> None:
    while not done.wait(0.5):
        size = sum(path.stat().st_size for path in folder.rglob("*.jar") if path.exists())
        report(f"downloading Kafka {KAFKA_VERSION}, once for all homes: {size / 2**20:.0f} of {_DOWNLOAD_MIB} MiB")
