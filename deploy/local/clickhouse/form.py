"""A request whose query and parameters come as a form: what clients do when they are too long for a URL."""

from __future__ import annotations

from dataclasses import replace
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING

from deploy.local.clickhouse.failure import QueryFailed

if TYPE_CHECKING:
    from deploy.local.clickhouse.request import Request

_BAD_FORM = 1000


def is_form(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data")


def with_form(request: Request, headers: dict[bytes, bytes], content: bytes) -> Request:
    """`request` with the form's query and `param_*` fields. Raises `QueryFailed` if it is no form."""
    head = b"Content-Type: " + headers[b"content-type"] + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + content)
    if not message.is_multipart():
        raise QueryFailed(_BAD_FORM, "Code: 1000. DB::Exception: the body is no form. (POCO_EXCEPTION)")
    fields: dict[str, str] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        value = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(value, bytes):
            fields[name] = value.decode()
    parameters = {name.removeprefix("param_"): value for name, value in fields.items() if name.startswith("param_")}
    return replace(request, query=fields.get("query", request.query), parameters=request.parameters | parameters)
