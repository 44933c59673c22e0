"""The declarative models of pgqrs's tables, for your own `select()`s.

They are read-only to applications: every write belongs to the library, which fences it. `Workflow.steps` and
`Step.workflow` lead from one to the other; load them with the query, as in ``selectinload(Workflow.steps)``.
The schema here is `pgqrs`; for another one run your statement with
``schema_translate_map={"pgqrs": "your_schema"}``.
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
    Double,
    Identity,
    Index,
    MetaData,
    Uuid,
    false,
    func,
    text,
    types,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pgqrs.types import StepStatus, WorkflowStatus

SCHEMA = "pgqrs"
"""The schema of the tables unless the application chooses another."""

HEAD = "0005"
"""The newest revision in `migrations/versions`; known here so that checking it needs no Alembic."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(statuses: type[WorkflowStatus | StepStatus]) -> str:
    listed = ", ".join(f"'{status}'" for status in statuses)
    return f"status IN ({listed})"


# There is no foreign key that could tell.
_STEP_OF_WORKFLOW = "Workflow.id == foreign(Step.workflow_id)"


class Text(types.Text):
    """TEXT for binds too: SQLAlchemy casts those of its own type to VARCHAR.

    PostgreSQL has ``text = varchar`` by conversion alone, so an operator of this name and these types in another
    schema of the `search_path` would be called in its place.
    """

    cache_ok = True
    render_bind_cast = True

    def adapt(self, cls: type[Any], **_options: Any) -> Any:  # noqa: ARG002  # SQLAlchemy's signature
        """Return its like: the dialect's own type for strings is that VARCHAR."""
        return type(self)(self.length)


class Base(DeclarativeBase):
    """The declarative base of pgqrs's own tables."""

    metadata = MetaData(schema=SCHEMA, naming_convention=_NAMING)
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text(), int: BigInteger()}  # noqa: RUF012


class Workflow(Base):
    """One workflow: what was asked for, how far it is, what came of it.

    Of `ready_at`, `due_at` and `executor` at most one is set: a worker may claim it, it waits for a time, or
    somebody runs it. The partial indexes on them hold these workflows alone, however many have ended.
    """

    __tablename__ = "pgqrs_workflows"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=WorkflowStatus.PENDING.value)
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    # Random: an epoch that was lost in a failover is given to another run, and this is not.
    claim: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # json, not jsonb: jsonb makes an integer of 1e300, drops -0.0 and reorders keys: a replay would differ.
    input: Mapped[Any] = mapped_column(JSON())
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())
    queue: Mapped[str | None]
    key: Mapped[str | None]
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    ready_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    executor: Mapped[UUID | None] = mapped_column(Uuid())
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    retries: Mapped[int] = mapped_column(server_default=text("0"))
    timeout: Mapped[float | None] = mapped_column(Double())
    deadline: Mapped[datetime | None]
    # None: nobody asked to cancel it; false: after the steps that execute; true: interrupting them.
    cancel_interrupts: Mapped[bool | None]
    # None: strict JSON.
    codec: Mapped[str | None]
    # Random: an id that was lost in a failover is given to another workflow, and this is not.
    token: Mapped[int | None]

    steps: Mapped[list[Step]] = relationship(
        primaryjoin=_STEP_OF_WORKFLOW,
        order_by="Step.started_at, Step.completed_at, Step.step_id",
        viewonly=True,
    )

    __table_args__ = (
        CheckConstraint(_one_of(WorkflowStatus), name="status"),
        Index(
            "ix_pgqrs_workflows_ready",
            "queue",
            "name",
            priority.desc(),
            "id",
            postgresql_where=text("ready_at IS NOT NULL"),
        ),
        Index("ix_pgqrs_workflows_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_pgqrs_workflows_executor", "executor", postgresql_where=text("executor IS NOT NULL")),
        Index("ix_pgqrs_workflows_deadline", "deadline", postgresql_where=text("deadline IS NOT NULL")),
        Index("ix_pgqrs_workflows_key", "name", "key", unique=True, postgresql_where=text("key IS NOT NULL")),
    )


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

    fingerprint: Mapped[int | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[datetime | None]

    workflow: Mapped[Workflow] = relationship(primaryjoin=_STEP_OF_WORKFLOW, viewonly=True)

    __table_args__ = (CheckConstraint(_one_of(StepStatus), name="status"),)


class Executor(Base):
    """One `Admin` in one process, and the signs of its life: a session lock, and a beat where that cannot tell.

    `lock_key` is the advisory lock that its pulse holds in the session `backend_pid`; None behind a pooler. Once
    `expires_at` has passed, or the lock is free, workers suspect the executor from `suspected_at` on, and the next
    beat clears that. `pgqrs.storage.queries.executors` has the rules by which it counts as dead.
    """

    __tablename__ = "pgqrs_executors"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    lock_key: Mapped[int | None]
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    suspected_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    backend_pid: Mapped[int | None]
    # Seconds for which a beat counts; None in a row of an older version.
    expiry: Mapped[float | None] = mapped_column(Double())
