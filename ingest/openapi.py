"""The OpenAPI of the ingest endpoint. FastAPI can't see a raw ASGI application; `api` merges this into its document."""

from typing import Any, Final

from ingest.limits import NAME_CHARACTERS_MAX


def _name(description: str, example: str) -> dict[str, Any]:
    limits = {"minLength": 1, "maxLength": NAME_CHARACTERS_MAX}
    return {"type": "string", **limits, "description": description, "example": example}


_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "title": "CloudEvent",
    "description": "A CloudEvent in structured mode. Members beyond these are extensions: letters and digits as the "
    "name, a text, number, boolean or null as the value; they are accepted and not kept.",
    "required": ["id", "source", "specversion", "type", "subject"],
    "additionalProperties": {},
    "properties": {
        "id": _name("Identifies the event: it counts once for each id and source.", "req-7731"),
        "source": {**_name("Where the event happened, a URI reference.", "edge-gw-2"), "format": "uri-reference"},
        "specversion": {"type": "string", "minLength": 1, "default": "1.0", "example": "1.0"},
        "type": _name("What happened; meters count events by it.", "gpu.job"),
        "subject": _name("Whom to count it for.", "acme-prod"),
        "time": {
            "type": "string",
            "format": "date-time",
            "nullable": True,
            "description": "When it happened, RFC 3339 with an offset, after 1970 began and before 2200; kept to the "
            "microsecond. Without it, when the event is received.",
            "example": "2031-02-03T04:05:06.789Z",
        },
        "datacontenttype": {"type": "string", "enum": ["application/json"], "nullable": True},
        "dataschema": {"type": "string", "format": "uri", "nullable": True, "description": "Accepted, not kept."},
        "data": {
            "type": "object",
            "nullable": True,
            "additionalProperties": {},
            "description": 'What meters read. Numbers keep every digit; texts such as "12.5" count as numbers too.',
            "example": {"seconds": "12.5", "tier": "a100"},
        },
    },
}

_EVENT_REF: Final = {"$ref": "#/components/schemas/Event"}
_BATCH: Final = {"type": "array", "items": _EVENT_REF}


def _problem(description: str, **headers: Any) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/UnexpectedProblemResponse"}
    answer: dict[str, Any] = {
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    }
    return {**answer, "headers": headers} if headers else answer


_RETRY_AFTER: Final = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait before repeating."}

OPENAPI: Final[dict[str, Any]] = {
    "paths": {
        "/api/v1/events": {
            "post": {
                "operationId": "ingestEvents",
                "tags": ["Events"],
                "summary": "Ingest events",
                "description": "Ingests a CloudEvent or a batch of them; gzip as the content encoding is understood. "
                "204 means that all of them are safe. They are taken all or not at all: a refused request may be "
                "mended or repeated as it is, since an event counts once however often it comes.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/IngestEventsBody"}},
                        "application/cloudevents+json": {"schema": _EVENT_REF},
                        "application/cloudevents-batch+json": {"schema": _BATCH},
                    },
                },
                "responses": {
                    "204": {"description": "All events are accepted and safe."},
                    "400": _problem("An event breaks a rule; `extensions.validationErrors` says which and where."),
                    "413": _problem("The body or the batch is too large."),
                    "415": _problem("The content encoding is not supported."),
                    "503": _problem("Kafka is away or too slow. Repeat the request.", **{"Retry-After": _RETRY_AFTER}),
                },
            }
        }
    },
    "components": {
        "schemas": {
            "Event": _EVENT,
            "IngestEventsBody": {"anyOf": [_EVENT_REF, _BATCH]},
            "UnexpectedProblemResponse": {
                "type": "object",
                "title": "Problem",
                "description": "A problem as in RFC 9457.",
                "required": ["type", "title", "status"],
                "properties": {
                    "type": {"type": "string", "default": "about:blank"},
                    "title": {"type": "string"},
                    "status": {"type": "integer", "minimum": 400, "maximum": 599},
                    "detail": {"type": "string"},
                    "instance": {"type": "string", "example": "urn:request:01J6R3Q9"},
                    "extensions": {"type": "object", "additionalProperties": {}},
                },
            },
        }
    },
}
