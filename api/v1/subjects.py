"""`/api/v1/subjects`: names for subject keys. Events and queries need none of them."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from api.requests import ExactRoute
from api.services import Wired
from api.wire import NO_CONTENT, Body, Timestamp, Wire, WireResponse, answers, maybe_timestamp, respond, timestamp
from metering.domain.customer import Subject as DomainSubject
from metering.postgres.subjects import SubjectPatch, delete_subject, get_subject, list_subjects, upsert_subjects

router = APIRouter(prefix="/api/v1/subjects", tags=["Subjects"], route_class=ExactRoute)

LIST_MAX = 1000
IdOrKey = Annotated[str, Path(alias="subjectIdOrKey", min_length=1)]


class Subject(Wire):
    """A subject. `metadata` is always there."""

    id: str
    key: str
    metadata: dict[str, Any]
    created_at: Timestamp
    updated_at: Timestamp
    display_name: str | None = None
    stripe_customer_id: str | None = None
    deleted_at: Timestamp | None = None


class SubjectUpsert(Body):
    key: Annotated[str, Field(min_length=1)]
    display_name: str | None = None
    metadata: dict[str, Any] | None = None
    stripe_customer_id: str | None = None


def subject_wire(subject: DomainSubject) -> Subject:
    return Subject(
        id=subject.id,
        key=subject.key,
        metadata=dict(subject.metadata),
        created_at=timestamp(subject.created_at),
        updated_at=timestamp(subject.updated_at),
        display_name=subject.display_name,
        stripe_customer_id=subject.stripe_customer_id,
        deleted_at=maybe_timestamp(subject.deleted_at),
    )


@router.post("", operation_id="upsertSubject", responses={200: answers(list[Subject])})
async def upsert(services: Wired, body: Annotated[list[SubjectUpsert], Field(max_length=LIST_MAX)]) -> WireResponse:
    """Create or change subjects, all or none. Only members that are sent change; null clears one."""
    patches = [
        SubjectPatch(each.key, {name: getattr(each, name) for name in each.model_fields_set - {"key"}}) for each in body
    ]
    async with services.engine.begin() as connection:
        made = await upsert_subjects(connection, services.namespace, patches, now=services.now())
    return respond([subject_wire(each) for each in made])


@router.get("", operation_id="listSubjects", responses={200: answers(list[Subject])})
async def list_all(services: Wired) -> WireResponse:
    """List live subjects, at most 1000."""
    async with services.engine.connect() as connection:
        found = await list_subjects(connection, services.namespace, limit=LIST_MAX)
    return respond([subject_wire(each) for each in found])


@router.get("/{subjectIdOrKey}", operation_id="getSubject", responses={200: answers(Subject)})
async def get(services: Wired, id_or_key: IdOrKey) -> WireResponse:
    async with services.engine.connect() as connection:
        return respond(subject_wire(await get_subject(connection, services.namespace, id_or_key)))


@router.delete("/{subjectIdOrKey}", operation_id="deleteSubject", status_code=204, responses={204: NO_CONTENT})
async def delete(services: Wired, id_or_key: IdOrKey) -> None:
    """Delete a subject. Its usage stays."""
    async with services.engine.begin() as connection:
        await delete_subject(connection, services.namespace, id_or_key, now=services.now())
