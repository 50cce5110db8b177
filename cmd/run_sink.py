"""The sink process: Kafka -> dedupe -> ClickHouse and deltas. Ends on SIGTERM or SIGINT.

Exit code 0: asked to end; 1: an engine's objects are missing, or an invariant does not hold; 2: the settings are not
valid.
"""

import argparse
import errno
import gc
import signal
import sys

import structlog
from pydantic import ValidationError

from metering.observability import configure_logging
from sink.process import Sink
from sink.settings import SinkSettings


def main() -> int:
    parser = argparse.ArgumentParser(prog="run_sink", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="validate the settings and exit")
    arguments = parser.parse_args()
    try:
        settings = SinkSettings()
    except ValidationError as error:
        print(f"sink: settings: {error}", file=sys.stderr)
        return 2
    if arguments.check_config:
        return 0
    configure_logging("sink", settings.log_level)
    log = structlog.get_logger()
    try:
        sink = Sink(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sink.stop.set())
        # A batch is hundreds of thousands of objects that go all at once: looking for cycles among them is in vain.
        gc.freeze()
        gc.set_threshold(200_000, 50, 1000)
        sink.run()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        log.error(  # noqa: TRY400 - one clear line
            "the metrics port is in use: set WEIGHBRIDGE_SINK_METRICS_PORT", port=settings.sink_metrics_port
        )
        return 1
    except Exception as error:
        log.exception("the sink stops", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
