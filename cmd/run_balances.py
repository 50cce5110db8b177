"""Run the balances process: deltas and entitlement changes in, balances out."""

import argparse
import sys

import faust
from pydantic import ValidationError

from metering.balances.app import BalancesApp
from metering.balances.settings import BalancesSettings
from metering.observability import configure_logging, serve_metrics


def main() -> int:
    parser = argparse.ArgumentParser(prog="run_balances", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="validate the settings and exit")
    arguments = parser.parse_args()
    try:
        settings = BalancesSettings()
    except ValidationError as error:
        print(f"balances: settings: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if arguments.check_config:
        return 0
    configure_logging("balances", settings.log_level)
    app = BalancesApp(settings)
    try:
        server = serve_metrics(settings.balances_metrics_port, lambda: app.is_ready)
    except OSError as error:
        print(f"balances: port {settings.balances_metrics_port}: {error.strerror}", file=sys.stderr)
        return 1
    try:
        worker = faust.Worker(app, override_logging=False, quiet=True, redirect_stdouts=False)
        worker.execute_from_commandline()  # ends by SystemExit
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
