"""The declarative models of pgqrs's tables, for your own `select()`s.

They are read-only to applications: every write belongs to the library, which fences it. The schema here is
`pgqrs`; for another one run your statement with ``schema_translate_map={"pgqrs": "your_schema"}``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Identity,
    MetaData,
    Text,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgqrs.types import StepStatus, WorkflowStatus

SCHEMA = "pgqrs"
"""The schema of the tables unless the application chooses another."""

HEAD = "0001"
"""The newest revision in `migrations/versions`; known here so that checking it needs no Alembic."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(statuses: type[WorkflowStatus | StepStatus]) -> str:
    listed = ", ".join(f"'{status}'" for status in statuses)
    return f"status IN ({listed})"


class Base(DeclarativeBase):
    """The declarative base of pgqrs's own tables."""

    metadata = MetaData(schema=SCHEMA, naming_convention=_NAMING)
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text(), int: BigInteger()}  # noqa: RUF012


class Workflow(Base):
    """One workflow: what was asked for, how far it is, what came of it."""

    __tablename__ = "pgqrs_workflows"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=WorkflowStatus.PENDING.value)
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    claim: Mapped[UUID | None] = mapped_column(Uuid())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # json, not jsonb: jsonb makes an integer of 1e300, drops -0.0 and reorders keys: a replay would differ.
    input: Mapped[Any] = mapped_column(JSON())
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())

    __table_args__ = (CheckConstraint(_one_of(WorkflowStatus), name="status"),)


class Step(Base):
    """One step of a workflow and its recorded outcome.

    There is no foreign key to the workflow: it does not fence, and costs more than the fence that does.
    """

    __tablename__ = "pgqrs_workflow_steps"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    epoch: Mapped[int]
    reopened: Mapped[bool] = mapped_column(server_default=false())
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())

    __table_args__ = (CheckConstraint(_one_of(StepStatus), name="status"),)
