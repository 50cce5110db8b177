"""Run the three engines by themselves: `python -m deploy.local.engines --home /tmp/x`, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

from deploy.local.engines import Engines, Ports
from deploy.local.errors import LocalStackError

_WATCH_SECONDS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.engines", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the folder for data, logs and pids")
    parser.add_argument("--default-ports", action="store_true", help="8890 to 8893 instead of free ones")
    parser.add_argument("--json", type=Path, help="write the URLs to this file when all are ready")
    parser.add_argument("--temporary", action="store_true", help="remove the home at the end")
    parser.add_argument("--while-pid", type=int, help="end when this process does")
    arguments = parser.parse_args()
    # Both end it the same way: through the `with`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(arguments)
    except LocalStackError as error:
        print(f"weighbridge: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    finally:
        if arguments.temporary:
            shutil.rmtree(arguments.home, ignore_errors=True)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    ports = Ports() if arguments.default_ports else Ports.free()
    with Engines.start(arguments.home, ports, report=lambda line: print(line, flush=True)) as engines:  # noqa: T201
        urls = {
            "kafka_bootstrap": engines.kafka_bootstrap,
            "postgres_url": engines.postgres_url,
            "clickhouse_url": engines.clickhouse_url,
        }
        for key, value in urls.items():
            print(f"{key:16} {value}", flush=True)  # noqa: T201
        print(f"ready after {time.monotonic() - began:.1f} s; Ctrl-C stops them", flush=True)  # noqa: T201
        if arguments.json is not None:
            part = arguments.json.with_suffix(".part")
            part.write_text(json.dumps(urls))
            part.rename(arguments.json)
        while arguments.while_pid is None or psutil.pid_exists(arguments.while_pid):
            time.sleep(_WATCH_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
