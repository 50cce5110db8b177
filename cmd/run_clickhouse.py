"""Serve ClickHouse's HTTP protocol from the embedded engine: what the local stack runs as `clickhouse`."""

import sys

from deploy.local.clickhouse.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
