"""The OpenAPI document: what FastAPI knows, with the schemas of answers and the paths that it can't see."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import PROBLEM_JSON
from api.wire import Problem, answers, components
from ingest.openapi import OPENAPI as INGEST

_PROBLEM = {
    "description": "The request is refused, or failed; see `status` and `detail`.",
    "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The served document, made once."""
    if app.openapi_schema is None:
        answers(Problem)
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path, operations in INGEST["paths"].items():
            schema["paths"].setdefault(path, {}).update(operations)
        known = schema.setdefault("components", {}).setdefault("schemas", {})
        known.update(components())
        known.update(INGEST["components"]["schemas"])
        for unused in ("HTTPValidationError", "ValidationError"):
            known.pop(unused, None)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"].setdefault("default", _PROBLEM)
        app.openapi_schema = schema
    return app.openapi_schema
