"""The operations by which a step starts children, with their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from sqlalchemy import case, cast, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Text, Workflow
from pgqrs.storage.sql.expressions import ONE, ZERO, json_of, seconds_from_now, text_literal
from pgqrs.storage.writes.attributes import (
    GivenAttributes,
    InsertAttributes,
    WrittenAttributes,
    insert_values,
)
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.operation import (
    RETRY,
    CancelRequested,
    Companion,
    CurrentState,
    Follower,
    Operation,
    fencing_error,
)


class NewChild(NamedTuple):
    """A child that a step starts; `workflow_id` and `step_id` name the step, `place` counts its children from 0.

    `input` is JSON text. `delay` is the seconds until the child may start, `timeout` the seconds that it may take
    from its first start; its parent's deadline holds for it, too. `trace` is the trace context of the step; a
    child without one has that of its parent.
    """

    workflow_id: int
    step_id: str
    place: int
    child_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    codec: str | None
    token: int
    ends_with_parent: bool
    partition_key: str | None = None
    trace: str | None = None
    attributes: GivenAttributes | None = None


class NewParent(NamedTuple):
    """A workflow whose step starts children."""

    workflow_id: int
    step_id: str


class KeyedStart(NamedTuple):
    """A record to write: a child with a key, the only one of a step that has no outcome yet.

    The fields are those of a `NewChild`; `step_id` names the step among those of all generations, as
    `addresses.in_generation` does. `releases_key` says that the child has its key until its end only.
    """

    workflow_id: int
    epoch: int
    step_id: str
    claim: int
    child_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    codec: str | None
    token: int
    ends_with_parent: bool
    key: str
    releases_key: bool
    partition_key: str | None = None
    attributes: GivenAttributes | None = None


class TracedStart(NamedTuple):
    """A record to write: a child with a key and with the trace context of its step.

    The other fields are those of a `KeyedStart`.
    """

    workflow_id: int
    epoch: int
    step_id: str
    claim: int
    child_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    codec: str | None
    token: int
    ends_with_parent: bool
    key: str
    releases_key: bool
    partition_key: str | None
    attributes: GivenAttributes | None
    trace: str


class StartedChildren(NamedTuple):
    """A record to write: some of the children of a step that has no outcome yet."""

    workflow_id: int
    epoch: int
    step_id: str
    claim: int
    children: tuple[NewChild, ...]


Start = TypeVar("Start", bound=KeyedStart | TracedStart | StartedChildren)
Keyed = TypeVar("Keyed", bound=KeyedStart | TracedStart)


class InsertChildren(Companion[NewChild]):
    """Insert the children of the steps that the same statement has found to be current."""

    record = NewChild
    unsent: ClassVar = frozenset({"trace", "attributes"})

    def __init__(self, name: str) -> None:
        self.name = name

    def statement_after(self, written: Any) -> Any:
        """Return the insert; a child that is there already, at its place, is not inserted again.

        An id that another workflow has is an error: without its child the step must not be recorded.
        """
        rows = self.rows()
        given = rows.c
        parent = aliased(Workflow, name="parent")
        generation = cast(parent.generation, Text()) + text_literal("//")
        # As `addresses.in_generation`; with a generation that is NULL, so is the sum of the texts.
        step = func.coalesce(generation + given.step_id, given.step_id)
        values = _values(given, parent, given.place) | {"parent_step": step, "trace": self._trace(given, parent)}
        of_step = (written.c.workflow_id == given.workflow_id) & (written.c.key == given.step_id)
        new = (
            select(*values.values())
            .join_from(rows, written, of_step)
            .join(parent, parent.id == given.workflow_id)
            .order_by(given.child_id)
        )
        statement = insert(Workflow).from_select(list(values), new, include_defaults=False)
        place = [Workflow.parent_id, Workflow.parent_step, Workflow.place]
        return statement.on_conflict_do_nothing(index_elements=place, index_where=Workflow.parent_id.is_not(None))

    def _trace(self, given: Any, parent: Any) -> Any:  # a child with a trace context has its own
        return parent.trace


class InsertTracedChildren(InsertChildren):
    """Insert the children that have the trace contexts of their steps."""

    unsent: ClassVar = frozenset({"attributes"})

    def _trace(self, given: Any, parent: Any) -> Any:  # the signature of `InsertChildren`
        return given.trace


class DescribedChild(NamedTuple):
    """A `NewChild` with its attributes and tags."""

    workflow_id: int
    step_id: str
    place: int
    child_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    codec: str | None
    token: int
    ends_with_parent: bool
    partition_key: str | None
    trace: str | None
    attributes: str
    tags: str


class InsertDescribedChildren(InsertChildren):
    """Insert children with their attributes; of a child that is there already they are there, too."""

    record = DescribedChild  # type: ignore[assignment]  # the same fields, and more
    unsent: ClassVar = frozenset[str]()

    def _trace(self, given: Any, parent: Any) -> Any:  # a child without a trace context has its parent's
        return func.coalesce(given.trace, parent.trace)

    def statement_after(self, written: Any) -> Any:
        """Return the insert of the attributes, with the insert of the children."""
        inserted = super().statement_after(written).returning(Workflow.id).cte(f"{self.name}_inserted")
        given = self.rows().c
        owned = select(given.child_id.label("owner_id"), given.attributes, given.tags)
        rows = owned.where(given.child_id == inserted.c.id).subquery("described")
        return insert_values(rows.c).on_conflict_do_nothing()


def _values(given: Any, parent: Any, place: Any) -> dict[str, Any]:
    """Return the values of the columns of a child, at a place among the children of its step."""
    return {
        "id": given.child_id,
        "name": given.name,
        "input": json_of(given.input),
        "token": given.token,
        "queue": given.queue,
        "priority": given.priority,
        "ready_at": case((given.delay.is_(None), func.now())),
        "due_at": seconds_from_now(given.delay),
        "timeout": given.timeout,
        "deadline": parent.deadline,
        "codec": given.codec,
        "parent_id": given.workflow_id,
        "parent_step": given.step_id,
        "place": place,
        "ends_with_parent": given.ends_with_parent,
        "partition_key": given.partition_key,
    }


class MarkParents(Companion[NewParent]):
    """Note that workflows have children, so that their ends are noticed."""

    record = NewParent

    def __init__(self, name: str) -> None:
        self.name = name

    def statement_after(self, written: Any) -> Any:
        """Return the update."""
        rows = self.rows()
        return (
            update(Workflow)
            .where(Workflow.id == rows.c.workflow_id, Workflow.has_children.is_(False))
            .where(written.c.workflow_id == rows.c.workflow_id, written.c.key == rows.c.step_id)
            .values(has_children=true())
        )


class ChildWrites:
    """The writes of the children of one operation, and of their parents; both have names of their own."""

    def __init__(self, children: str, parents: str) -> None:
        self._plain = InsertChildren(children)
        self._traced = InsertTracedChildren(f"{children}traced")
        self._described = InsertDescribedChildren(f"{children}attributes")
        self._mark = MarkParents(parents)
        self.all: Sequence[Companion[Any]] = (self._plain, self._traced, self._described, self._mark)
        """The writes."""

    def arrays(self, children: Sequence[NewChild]) -> Arrays:
        """Return the binds of children and of their parents."""
        if not children:
            return {}
        parents = dict.fromkeys(NewParent(each.workflow_id, each.step_id) for each in children)
        arrays = self._mark.arrays(list(parents))
        if plain := [each for each in children if each.trace is None and each.attributes is None]:
            arrays |= self._plain.arrays(plain)
        if traced := [each for each in children if each.trace is not None and each.attributes is None]:
            arrays |= self._traced.arrays(traced)
        described: list[Any] = [
            DescribedChild(*each[:-1], *each.attributes) for each in children if each.attributes is not None
        ]
        return arrays | (self._described.arrays(described) if described else {})


class _StartOperation(Operation[Start]):
    """Insert children of steps, for current runs; the outcomes of the steps follow."""

    def answer_key(self, record: Start) -> str:
        """Return the id of the step."""
        return record.step_id

    def can_be_single(self, record: Start) -> bool:
        """Return False: the statement has further writes."""
        return False

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]

    def result_for(self, record: Start, epoch: int) -> bool:
        """Return True: the children are there."""
        return True

    def resolve_missing(self, record: Start, current: CurrentState) -> Any:
        """Return the error of a stale run, or the reason that a current run has written nothing."""
        if reason := fencing_error(record, current):
            return reason
        return self._unwritten if current.cancels is None else CancelRequested(current.cancels, None)

    _unwritten: ClassVar[Any] = RETRY


class _StartKeyed(_StartOperation[Keyed]):
    """Insert children with keys; the result is False if a child's key or place was taken, or a lock held it up."""

    unsent: ClassVar = frozenset({"epoch", "attributes"})
    describes: ClassVar[InsertAttributes]
    requeues_last: ClassVar = True  # another transaction may hold its key for a long time
    _unwritten: ClassVar[Any] = False

    def order_key(self, record: Keyed) -> str:
        """Return the step: a key that another transaction holds delays no other record of the parent."""
        return f"{record.workflow_id}/{record.step_id}"

    def payload_size(self, record: Keyed) -> int:
        """Return the length of the input."""
        return len(record.input)

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The write of the attributes."""
        return (self.describes,)

    def arrays(self, records: Sequence[Keyed]) -> Arrays:
        """Return the binds, with the binds of the attributes if there are any."""
        rows = [
            WrittenAttributes(each.workflow_id, each.step_id, each.child_id, *each.attributes)
            for each in records
            if each.attributes is not None
        ]
        return super().arrays(records) | (self.describes.arrays(rows) if rows else {})

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The note that the parents have children."""
        return {
            "parents": lambda written: (
                update(Workflow)
                .where(Workflow.id == written.c.workflow_id, Workflow.has_children.is_(False))
                .values(has_children=true())
            )
        }

    def statement(self, *, single: bool = False) -> Any:
        """Return the insert; it locks the parents."""
        held = self.lock_workflows(to_update=True, single=single)
        parent = aliased(Workflow, name="parent")
        given = held.c
        values = _values(given, parent, ZERO) | {"key": given.key, "releases_key": given.releases_key}
        values |= {"trace": self._trace(given, parent)}
        new = (
            select(*values.values())
            .join_from(held.source, parent, parent.id == given.workflow_id)
            .where(held.is_current)
            .order_by(given.child_id)
        )
        return (
            insert(Workflow)
            .from_select(list(values), new, include_defaults=False)
            .on_conflict_do_nothing()
            .returning(*self.returning(Workflow.parent_id, ONE, Workflow.parent_step))
        )

    def _trace(self, given: Any, parent: Any) -> Any:  # a child with a trace context has its own
        return parent.trace


class StartKeyedChild(_StartKeyed[KeyedStart]):
    """Insert children with keys."""

    name = "startkeyed"
    record = KeyedStart
    describes: ClassVar = InsertAttributes("startkeyedattributes")


class StartTracedChild(_StartKeyed[TracedStart]):
    """Insert children with keys and with the trace contexts of their steps."""

    name = "starttraced"
    record = TracedStart
    describes: ClassVar = InsertAttributes("starttracedattributes")

    def _trace(self, given: Any, parent: Any) -> Any:  # the signature of the base class
        return given.trace


class StartChildren(_StartOperation[StartedChildren]):
    """Insert some of the children of steps, for current runs; the outcomes of the steps follow."""

    name = "startmany"
    record = StartedChildren
    unsent: ClassVar = frozenset({"epoch", "children"})
    writes: ClassVar = ChildWrites("children", "parents")

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The writes of the children and of their parents."""
        return self.writes.all

    def arrays(self, records: Sequence[StartedChildren]) -> Arrays:
        """Return the binds, with the binds of the children and of their parents."""
        children = [each for record in records for each in record.children]
        return super().arrays(records) | self.writes.arrays(children)

    def payload_size(self, record: StartedChildren) -> int:
        """Return the length of the inputs."""
        return sum(len(each.input) for each in record.children)

    def statement(self, *, single: bool = False) -> Any:
        """Return the query that locks the parents."""
        held = self.lock_workflows(to_update=True, single=single)
        columns = self.returning(held.c.workflow_id, held.epoch, held.c.step_id)
        return select(*columns).select_from(held.source).where(held.is_current)
