"""Schedules in tests: assertions, and the start of their workflows when a test moves the time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.client.admin import Admin
from pgqrs.schedules import Rule, ScheduleRecord
from pgqrs.storage.schedules.firing import Fired, ScheduleFiring
from pgqrs.storage.store import Store
from pgqrs.testing import sql as testbed
from pgqrs.testing.comparison import Arguments
from pgqrs.workflow.definition import definition_of


async def assert_scheduled(
    admin: Admin,
    workflow: Callable[..., Awaitable[Any]],
    *args: Any,
    name: str | None = None,
    rule: Rule | None = None,
    queue: str | None = None,
) -> ScheduleRecord:
    """Assert that a schedule starts a workflow, and return its record; of several, the first by name.

    Args:
        admin: The client of the database.
        workflow: A function decorated with `@workflow`.
        *args: Positional arguments of the workflow. If no arguments are passed, any arguments match.
        name: The name of the schedule; any name by default.
        rule: The rule of the schedule, a `Cron` or an `Every`; any rule by default.
        queue: The queue of the workflows; any queue by default.

    Returns:
        The record of the schedule.

    Raises:
        AssertionError: No schedule matches; the message lists the schedules.
        SerializationError: The codec cannot encode the arguments.
        TypeError: The function is not a workflow, or cannot be called with the arguments.
    """
    schedules = await admin.list_schedules()
    found = _matches(admin, schedules, workflow, args, name=name, rule=rule, queue=queue)
    if not found:
        raise AssertionError(f"no schedule of {definition_of(workflow).name!r} matches; {_listed(schedules)}")
    return found[0]


async def assert_not_scheduled(
    admin: Admin,
    workflow: Callable[..., Awaitable[Any]],
    *args: Any,
    name: str | None = None,
    rule: Rule | None = None,
    queue: str | None = None,
) -> None:
    """Assert that no schedule matches; the arguments are those of `assert_scheduled`.

    Args:
        admin: The client of the database.
        workflow: A function decorated with `@workflow`.
        *args: Positional arguments of the workflow. If no arguments are passed, any arguments match.
        name: The name of the schedule; any name by default.
        rule: The rule of the schedule, a `Cron` or an `Every`; any rule by default.
        queue: The queue of the workflows; any queue by default.

    Raises:
        AssertionError: A schedule matches; the message lists the matching schedules.
        SerializationError: The codec cannot encode the arguments.
        TypeError: The function is not a workflow, or cannot be called with the arguments.
    """
    schedules = await admin.list_schedules()
    if found := _matches(admin, schedules, workflow, args, name=name, rule=rule, queue=queue):
        raise AssertionError(f"{definition_of(workflow).name!r} is scheduled; {_listed(found)}")


def _matches(
    admin: Admin,
    schedules: Sequence[ScheduleRecord],
    workflow: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    *,
    name: str | None,
    rule: Rule | None,
    queue: str | None,
) -> list[ScheduleRecord]:
    definition = definition_of(workflow)
    arguments = Arguments.of(admin.codec, definition, args, {}).plain if args else None
    return [
        each
        for each in schedules
        if each.workflow == definition.name
        and name in {None, each.name}
        and queue in {None, each.queue}
        and (rule is None or rule == each.rule)
        and (arguments is None or each.input == arguments)
    ]


def _listed(schedules: Sequence[ScheduleRecord]) -> str:
    if not schedules:
        return "there is no schedule."
    lines = [f"    {each.name}: {each.workflow}, {each.rule}, queue {each.queue!r}" for each in schedules]
    return "\n".join(["there are:", *lines])


async def start_due(stores: Sequence[Store]) -> None:
    """Start the workflows of all schedules that are due, as a worker of all workflows and queues does."""
    store, firing = stores[0], ScheduleFiring()

    async def start(connection: AsyncConnection) -> Fired:
        names, queues = await testbed.served(connection)

        async def fetch(statement: Callable[[], Any], values: dict[str, Any]) -> Any:
            return (await connection.execute(statement(), values)).mappings().all()

        return await firing.fire(fetch, names, queues) if names else Fired()

    fired = await store.database.run_with_retries(start)
    while fired.moved:
        fired.announce(store.observer)
        for queue in fired.queues:
            await store.notify_queue(queue, fired.lowest)
        fired = await store.database.run_with_retries(start)
