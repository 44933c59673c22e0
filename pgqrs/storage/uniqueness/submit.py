"""Writes submissions with a unique value on any connection, in its transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

from pgqrs.errors import UniqueCause, UniqueTakenError, WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.storage.queries.workflows import WorkflowRepository, of_keys
from pgqrs.storage.records import KeyOwner, from_row
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import text_of_array
from pgqrs.storage.uniqueness import statements
from pgqrs.storage.uniqueness.records import Placed, UniquePolicy, UniqueSubmission
from pgqrs.storage.writes.attributes import WrittenAttributes

OnTaken: TypeAlias = Callable[[UniqueSubmission, KeyOwner], object]
"""A function that is called with a submission and the workflow that has its key."""


class UniqueWrites:
    """Submissions of one name with different unique values, and the traces of each sending of them.

    The transaction of a sending may be committed although its answer was lost. So a further sending looks for the
    workflows that the earlier ones have named.
    """

    def __init__(self, policy: UniquePolicy, taken: OnTaken, trace: str | None = None) -> None:
        self._trace = trace
        self._policy = policy
        self._taken = taken
        self._sent: set[int] = set()
        self._changed: dict[int, int] = {}
        self.stopped: dict[int, UUID] = {}
        """The workflows whose cancellation their executors are to hear, with the executors."""

    async def write(self, connection: Connection, new: Sequence[UniqueSubmission]) -> dict[int, Placed]:
        """Write submissions, and return the workflows that they have led to, by token.

        The result omits a token whose id another workflow has, and a token whose value was given up meanwhile.
        Raises `UniqueTakenError` if a workflow that must not be replaced holds a value.
        """
        placed = await self._written_before(connection, new)
        left = [each for each in new if each.token not in placed]
        while left:
            self._sent.update(each.workflow_id for each in left)
            found = await self._insert(connection, left)
            found |= await self._of_others(connection, [each for each in left if each.token not in found])
            placed |= found
            left = [each for each in left if each.token not in placed]
            if not await self._cancel_holders(connection, left):
                break
        return placed

    async def _written_before(self, connection: Connection, new: Iterable[UniqueSubmission]) -> dict[int, Placed]:
        """Return the workflows that an earlier sending has made, and the started ones that it has changed."""
        if not self._sent:
            return {}
        ids = text_of_array([*self._sent, *self._changed.values()])
        rows: Any = await connection.execute(statements.written_before(), {"ids": ids})
        there = {row.id: row for row in rows}
        by_token = {row.token: row for row in there.values()}
        placed: dict[int, Placed] = {}
        for each in new:
            row = by_token.get(each.token) or self._started_with(each, there)
            if row is not None:
                placed[each.token] = Placed(row.id, row.token, row.is_ready)
        return placed

    def _started_with(self, new: UniqueSubmission, there: dict[int, Any]) -> Any:
        """Return the row of a workflow that a submission has changed, and that has started with its input."""
        row = there.get(self._changed.get(new.token, 0))
        is_applied = row is not None and row.has_started and (row.input, row.codec) == (new.input, new.codec)
        return row if is_applied else None

    async def _insert(self, connection: Connection, new: Sequence[UniqueSubmission]) -> dict[int, Placed]:
        """Insert workflows, or change the holders of their values as the policy has it."""
        policy = self._policy
        values = {each.unique_value: each for each in new}
        binds: dict[str, Any] = statements.SUBMISSIONS.arrays(new)
        statement = statements.submit if self._trace is None else statements.submit_traced
        if policy.taken == "replace":
            statement = statements.replace
        if policy.debounce is not None:
            statement = statements.debounce
            binds |= {"debounce": policy.debounce, "at_most": policy.debounce_at_most}
        if policy.throttle is not None:
            statement = statements.throttle
            binds["throttle"] = policy.throttle
            asked = {"name": new[0].name, "values": list(values), "throttle": policy.throttle}
            await connection.execute(statements.lock_throttles(), asked)
        if statement is statements.submit_traced:
            binds["new_trace"] = self._trace
        rows: Any = await connection.execute(statement(), binds)
        placed = {values[row.unique_value].token: Placed(row.id, row.token, row.is_ready) for row in rows}
        await self._describe(connection, new, placed)
        self._changed |= {token: each.workflow_id for token, each in placed.items() if each.token != token}
        if self._trace is not None and statement is not statements.submit_traced:
            await self._trace_new(connection, placed)
        return placed

    async def _trace_new(self, connection: Connection, placed: Mapping[int, Placed]) -> None:
        """Give the trace context to the workflows that a statement has made, which may also change holders."""
        made = [each.workflow_id for token, each in placed.items() if each.token == token]
        if made:
            traced = {"ids": text_of_array(made), "new_trace": self._trace}
            await connection.execute(statements.set_trace(), traced)

    async def _describe(
        self, connection: Connection, new: Sequence[UniqueSubmission], placed: dict[int, Placed]
    ) -> None:
        """Write the attributes of submissions, as far as there are any, to their workflows."""
        owners = [(placed[each.token].workflow_id, each.attributes) for each in new if each.token in placed]
        rows = [
            WrittenAttributes(owner, None, owner, *attributes)
            for owner, attributes in owners
            if attributes is not None
        ]
        if rows:
            write = statements.replace_attributes if self._policy.changes_holder else statements.insert_attributes
            await connection.execute(write(), statements.ATTRIBUTES.arrays(rows))

    async def _of_others(self, connection: Connection, left: Sequence[UniqueSubmission]) -> dict[int, Placed]:
        """Return the workflows that have the keys of submissions, or that hold their values."""
        owners = await _owners(connection, left)
        placed: dict[int, Placed] = {}
        for each in left:
            if (owner := owners.get(each.key)) is not None:
                self._taken(each, owner)
                placed[each.token] = Placed(owner.workflow_id, owner.token)
        if self._policy.taken == "cancel" or len(placed) == len(left):
            return placed
        holders = await _holders(connection, left)
        for each in left:
            holder = None if each.token in placed else holders.get(each.unique_value)
            if holder is not None and self._is_satisfied(each, holder):
                placed[each.token] = Placed(holder.id, holder.token)
        return placed

    def _is_satisfied(self, new: UniqueSubmission, holder: Any) -> bool:
        """Return whether a submission leads to the holder as it is, or raise `UniqueTakenError`.

        A holder that did not start when it was to be changed is a new one.
        """
        changes_holder = self._policy.changes_holder
        if self._policy.taken == "raise" or (changes_holder and holder.has_started):
            cause: UniqueCause = "started" if changes_holder else "held"
            raise UniqueTakenError(holder.id, new.name, new.unique_value, holder.id, cause=cause)
        return not changes_holder

    async def _cancel_holders(self, connection: Connection, left: Sequence[UniqueSubmission]) -> bool:
        """Cancel the holders of values and take the values from them; return whether there was one."""
        if self._policy.taken != "cancel" or not left:
            return False
        holders = await _holders(connection, left)
        for value, holder in sorted(holders.items()):
            try:
                cancelled = await WorkflowRepository(connection).cancel(
                    holder.id, interrupt=False, token=holder.token
                )
            except (WorkflowFinishedError, WorkflowNotFoundError):  # it has given the value up since
                continue
            await connection.execute(statements.give_up(), {"workflow": holder.id, "value": value})
            if cancelled.executor is not None:
                self.stopped[holder.id] = cancelled.executor
        return bool(holders)


async def _owners(connection: Connection, new: Sequence[UniqueSubmission]) -> dict[str | None, KeyOwner]:
    """Return the workflows that have the keys of submissions, by key."""
    keys = [each.key for each in new if each.key is not None]
    if not keys:
        return {}
    rows = (await connection.execute(of_keys(), {"name": new[0].name, "keys": keys})).mappings()
    return {row["key"]: from_row(KeyOwner, row) for row in rows}


async def _holders(connection: Connection, new: Sequence[UniqueSubmission]) -> dict[str, Any]:
    """Return the rows of the workflows that hold the values of submissions, by value."""
    asked = {"name": new[0].name, "values": [each.unique_value for each in new]}
    rows: Any = await connection.execute(statements.holders(), asked)
    return {row.unique_value: row for row in rows}
