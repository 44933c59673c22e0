"""The query for the replies to requests."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, bindparam, column, func, outerjoin, select, true

from pgqrs.models import Message, Text, Workflow
from pgqrs.storage.sql.expressions import ONE, array_of, text_literal, text_of, unnest
from pgqrs.types import WorkflowStatus

_OVER = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)


def replies() -> Any:
    """Return the query for the states of requests for which no caller needs to wait any longer.

    The `workflow_ids` and the `tokens` are texts of arrays, the `addresses` of the replies and the `keys` are
    arrays. A state is returned for a request that has a reply, or whose workflow has ended, was deleted or has
    another token. One snapshot has both: a reply comes before the end of its workflow.
    """
    arrays = (
        array_of(bindparam("workflow_ids", type_=Text()), BigInteger()),
        bindparam("addresses", type_=ARRAY(Text())),
        bindparam("keys", type_=ARRAY(Text())),
        array_of(bindparam("tokens", type_=Text()), BigInteger()),
    )
    columns: Any = (
        column("workflow_id", BigInteger()),
        column("address", Text()),
        column("key", Text()),
        column("token", BigInteger()),
    )
    given = unnest(*arrays).table_valued(*columns).render_derived(name="asked")
    asked = given.c
    # Lateral, with a limit: each row is looked up by its key, whatever the tables held at the planning.
    owner = (
        select(Workflow.status, Workflow.codec, Workflow.token)
        .where(Workflow.id == asked.workflow_id)
        .limit(ONE)
        .lateral("owner")
    )
    reply = (
        select(text_of(Message.payload).label("payload"))
        .where(Message.address == asked.address, Message.key == asked.key)
        .limit(ONE)
        .lateral("reply")
    )
    is_replaced = func.coalesce(asked.token, owner.c.token).is_distinct_from(owner.c.token)
    is_over = owner.c.status.in_([text_literal(status) for status in _OVER])
    return (
        select(
            *(each.label(f"asked_{each.name}") for each in asked),
            reply.c.payload,
            owner.c.status,
            owner.c.codec,
            owner.c.token,
        )
        .select_from(outerjoin(outerjoin(given, owner, true()), reply, true()))
        .where(reply.c.payload.is_not(None) | owner.c.status.is_(None) | is_over | is_replaced)
    )
