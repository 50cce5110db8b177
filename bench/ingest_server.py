"""The ingest endpoint alone in a server, and beside it `/constant`, which answers 204 at once: the limit.

`python -m bench.ingest_server PORT`; the engines come from the environment, as for any process.
"""

import sys

import uvicorn

from ingest.body import Receive
from ingest.http import IngestEndpoint, Scope, Send
from ingest.limits import IngestSettings
from metering.kafka.producer import AckedProducer
from metering.settings import EngineSettings


def application(engines: EngineSettings, settings: IngestSettings) -> object:
    producer = AckedProducer(engines.kafka_bootstrap, settings.producer_limits)
    ingest = IngestEndpoint(
        producer,
        topic=engines.events_topic,
        partitions=engines.event_partitions,
        namespace=engines.default_namespace,
        settings=settings,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await producer.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await producer.close()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/api/v1/events":
            await ingest(scope, receive, send)
        elif scope["path"] == "/readyz":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await receive()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return app


def main() -> None:
    app = application(EngineSettings(), IngestSettings())
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
