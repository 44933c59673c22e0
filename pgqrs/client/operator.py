"""The methods of `Admin` for operators: find, explain, change, keep and delete workflows, and their queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Concatenate, TypeVar, Unpack

from pgqrs.client.diagnosis.reasons import why
from pgqrs.client.diagnosis.workers import list_workers
from pgqrs.client.doctor.checks import Doctor
from pgqrs.client.doctor.findings import Finding
from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.lists.bulk import BulkOperations
from pgqrs.client.lists.listing import count_workflows, list_workflows
from pgqrs.client.loop_state import LoopStates
from pgqrs.client.queues.settings import QueueSettings, queue_limits
from pgqrs.client.queues.states import States, StateSnapshot
from pgqrs.client.retention.documents import Document, Documents, Ids
from pgqrs.client.retention.purge import purge
from pgqrs.client.retention.settings import KeptFor, RetentionRecord, RetentionSettings, retention_times
from pgqrs.client.rewinding.rewinds import Rewinds
from pgqrs.client.scheduling.handle import ScheduleHandle, find_schedule, list_schedules
from pgqrs.schedules import ScheduleRecord
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.selection.bulk import Progress
from pgqrs.storage.selection.filters import FilterConditions, WorkflowFilter
from pgqrs.storage.selection.selections import Selectable
from pgqrs.types import (
    BulkReport,
    Holds,
    QueueRecord,
    Rate,
    RewindRecord,
    StepRecord,
    Why,
    WorkerRecord,
    WorkflowCount,
    WorkflowPage,
)
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.messaging.messages import Topic

T = TypeVar("T")


class Operator:
    """Finds, explains, changes and deletes the workflows of a schema, and sets its queues; `Admin` is one."""

    _loops: LoopStates

    async def list_steps(self, workflow_id: int) -> list[StepRecord]:
        """Return the records of a workflow's steps, in the order in which the steps began.

        A step with `outcome_unknown` began and has no outcome; if its workflow has ended, its effect may have
        happened. A step that a killed process executed for less than 0.1 seconds has no record.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The records. A payload that this `Admin` cannot read, such as a payload of another codec, is
            `Unreadable`.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self._loops.steps(workflow_id)

    async def list_workflows(
        self,
        matching: WorkflowFilter | None = None,
        *,
        after: int | None = None,
        limit: int = 100,
        payloads: bool = True,
        **conditions: Unpack[FilterConditions],
    ) -> WorkflowPage:
        """Return one page of workflows, newest first.

        A workflow that is enqueued meanwhile is on no later page unless its id is lower, and no workflow is on two
        pages. A row that cannot be read does not fail the page.

        Without conditions, and by a status in ``ERROR`` and ``CANCELLED``, ``RUNNING``, attributes, tags, a
        parent, or a name with a key, all workflows are searched. Other conditions have no index, for which each
        workflow would have to pay: a page searches the newest 100,000 workflows, or the newest 25,000 that an
        index finds, and `WorkflowPage.next` goes on from there. So follow `next` until it is None.

        Args:
            matching: The conditions as a `WorkflowFilter`; by default they are the further arguments.
            after: The cursor of the page before, `WorkflowPage.next`: the page has lower ids only. By default the
                page begins with the newest workflow.
            limit: Maximum workflows of the page; 100 by default.
            payloads: Whether inputs and outputs are read. With False they are None in the records, and large ones
                cost nothing. True by default.
            **conditions: The fields of a `WorkflowFilter`, as in ``status="ERROR", tags=("eu",)``.

        Returns:
            The records, with the cursor of the next page. A payload that this `Admin` cannot read, such as a
            payload of another codec, is `Unreadable`.

        Raises:
            TypeError: `limit` or `after` is not an int, or a condition is unknown or of another type.
            ValueError: A status is unknown.
            ConfigurationError: `limit` is negative, or a condition is not usable; see `WorkflowFilter`.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await list_workflows(self._loops, matching, conditions, after=after, limit=limit, payloads=payloads)

    async def count_workflows(
        self, matching: WorkflowFilter | None = None, **conditions: Unpack[FilterConditions]
    ) -> list[WorkflowCount]:
        """Return the numbers of workflows by name and status.

        The call reads all workflows that it counts, which takes about a second for some million.

        Args:
            matching: The conditions as a `WorkflowFilter`; by default they are the further arguments.
            **conditions: The fields of a `WorkflowFilter`.

        Returns:
            The numbers, in the order of the names and statuses; no entry has the number 0.

        Raises:
            TypeError: A condition is unknown or of another type.
            ValueError: A status is unknown.
            ConfigurationError: A condition is not usable; see `WorkflowFilter`.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await count_workflows(self._loops, matching, conditions)

    async def cancel_workflows(
        self,
        which: Selectable,
        *,
        interrupt: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Request the cancellation of many workflows; see `cancel_workflow` for the course of each.

        One statement cancels up to 2,000 workflows and is committed at once, so the call is safe to interrupt and
        to repeat. A workflow that another transaction has locked is tried again later, up to 30 seconds.

        Args:
            which: A `WorkflowFilter`; or ids; or a select of `pgqrs.models.Workflow.id`, which may join tables of
                the application, as in ``select(Workflow.id).join(Order, Order.workflow_id == Workflow.id)``.
            interrupt: Whether to interrupt executing steps; see `cancel_workflow`. False by default.
            dry_run: True to write nothing, and to return the report of the workflows that would be cancelled.
            progress: A function that is called with the report so far after each statement; none by default.
            session: A caller's session or connection: the cancellations take effect when the caller commits, all
                of them at once, and the select sees the changes of the caller.

        Returns:
            The numbers of the workflows that were found and changed, and the reasons of the others.

        Raises:
            ConfigurationError: The filter has no condition, or the select returns other columns than
                `Workflow.id`.
            TypeError: `which` is of another type, or an id is not an int.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        bulk = BulkOperations(self._loops, which, dry_run=dry_run, progress=progress, session=session)
        return await bulk.cancel(interrupt=interrupt)

    async def resume_workflows(
        self,
        which: Selectable,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Make many failed or cancelled workflows ready to run again; see `resume_workflow`.

        A workflow that has not ended is left as it is, so a repeated call does not fence the runs of the first. A
        workflow whose key another workflow has by now is left, too.

        Args:
            which: The workflows; see `cancel_workflows`.
            dry_run: True to write nothing, and to return the report of the workflows that would be resumed.
            progress: A function that is called with the report so far after each statement; none by default.
            session: A caller's session or connection, in a transaction; see `cancel_workflows`.

        Returns:
            The report.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await BulkOperations(
            self._loops, which, dry_run=dry_run, progress=progress, session=session
        ).resume()

    async def send_many(
        self,
        which: Selectable,
        topic: Topic[T] | str,
        value: T,
        *,
        key: str,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Send a message to many workflows; see `WorkflowHandle.send` and `cancel_workflows`.

        Args:
            which: The workflows; see `cancel_workflows`.
            topic: The topic, or its name for values of any type.
            value: The value of the messages, which the codec of the topic must be able to encode.
            key: The idempotency key of the messages, which makes the call safe to repeat: a workflow gets one
                message with this topic and key.
            dry_run: True to write nothing, and to return the report of the workflows that would get the message.
            progress: A function that is called with the report so far after each statement; none by default.
            session: A caller's session or connection: the messages are sent when the caller commits.

        Returns:
            The report. Workflows that have ended, that have the message already, or that are written with another
            codec are left.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The topic or the key cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        bulk = BulkOperations(self._loops, which, dry_run=dry_run, progress=progress, session=session)
        return await bulk.send(topic, value, key)

    async def rewind(
        self, workflow_id: int, *, before: str, session: SessionOrConnection | None = None
    ) -> RewindRecord:
        """Rewind a workflow to the time before one of its steps, and make it ready to run again from there.

        Operators call this method after a fix, also for a workflow that has succeeded. The steps that were
        completed before the chosen one began stay. The chosen step and the others are set aside: the next run
        executes them again, and `list_rewinds` returns their records. Messages that these steps have received
        return to the workflow. Their effects elsewhere stay, as do messages sent, events set, and rows written.
        Children that they have started are left behind, and cancelled if they were to end with their parent.
        `docs/operating.md` has the rules.

        Args:
            workflow_id: The id of the workflow.
            before: The id of the step, as `list_steps` returns it.
            session: A caller's session or connection, in a transaction. The change takes effect when the caller
                commits. By default the change is committed before this method returns.

        Returns:
            The rewind, with the steps that it has set aside.

        Raises:
            TypeError: `workflow_id` is not an int, or `before` is not a string.
            WorkflowNotFoundError: No workflow has this id.
            StepNotFoundError: The workflow has recorded no such step; `near` has similar ids.
            RewindRefusedError: A live executor runs the workflow, or a saga has undone a step that would stay.
            KeyTakenError: The workflow has released its key at its end, and another workflow has the key.
            UniqueTakenError: The workflow has given up its unique value, and another workflow holds it.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Rewinds(self._loops, session).rewind(workflow_id, before)

    async def rewind_workflows(
        self,
        which: Selectable,
        *,
        before: str,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Rewind many workflows that have ended to the time before one of their steps; see `rewind`.

        A workflow that has not ended is left as it is, so a repeated call does not rewind the workflows of the
        first once more, until they have ended again. One transaction rewinds up to 100 workflows.

        Args:
            which: The workflows; see `cancel_workflows`.
            before: The id of the step; a workflow that has recorded no such step is left.
            dry_run: True to write nothing, and to return the report of the workflows that would be rewound.
            progress: A function that is called with the report so far after each 2,000 workflows; none by default.
            session: A caller's session or connection, in a transaction; see `cancel_workflows`.

        Returns:
            The report.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            InvalidNameError: `before` cannot be the id of a step.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        bulk = BulkOperations(self._loops, which, dry_run=dry_run, progress=progress, session=session)
        return await bulk.rewind(before)

    async def list_rewinds(self, workflow_id: int) -> list[RewindRecord]:
        """Return the rewinds of a workflow, the first one first, with the steps that they have set aside.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The records; a payload that cannot be read is `Unreadable`.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Rewinds(self._loops).list(workflow_id)

    async def why(self, workflow_id: int) -> Why:
        """Return the reasons why a workflow is not running, or is not coming forward.

        The reasons are those of one moment, read by one statement, which takes milliseconds and no lock.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The reasons, each with a sentence and its facts; ``print`` shows them.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await why(self._loops, workflow_id)

    async def list_workers(self) -> list[WorkerRecord]:
        """Return the live workers, by the starts of their executors.

        A process that runs workflows without a `Worker`, and a worker of an older version, have a record without
        names. A process that was killed is listed until its executor is forgotten, and is suspected.

        Returns:
            The records.

        Raises:
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await list_workers(self._loops)

    async def doctor(self) -> list[Finding]:
        """Look at the server and the tables for conditions that slow pgqrs down or stop it.

        The checks are cheap, whatever the tables hold. A check that this role may not make is a finding, too.

        Returns:
            The findings, the worst first: dead rows, the sessions, prepared transactions, replication slots and
            standbys that keep them, indexes, autovacuum, rights, the clock and the retention.

        Raises:
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Doctor(self._loops).findings()

    async def set_retention(
        self,
        days: KeptFor = 30,
        failed: KeptFor = 90,
        *,
        per: Mapping[str, KeptFor] | None = None,
        archive: bool | timedelta = False,
        session: SessionOrConnection | None = None,
    ) -> None:
        """Set for how long ended workflows are kept, for all workers; the times replace the earlier ones.

        The workers delete older workflows in the background, about four times in the shortest of the times, and at
        least once a day. Without this call they do so with the defaults of this method, seven days after the first
        worker of this version has started. A workflow is kept longer while its parent is there or a child of it
        lives, while its batch lives, and while the throttle of its unique value counts it.

        Args:
            days: Days, or a `timedelta`, from the end of a workflow until it is deleted; None for ever.
            failed: The same for workflows that have failed.
            per: The same for workflows of some names, failed or not.
            archive: Whether a deleted workflow is archived: its document is a row of `pgqrs_archive`, and its
                handles still return its result. With a `timedelta` a month of the archive is dropped after that
                time.
            session: A caller's session or connection, in any state. The times take effect when the caller
                commits. By default they are committed before this method returns.

        Raises:
            ConfigurationError: A time is less than an hour, or more than a hundred years.
            InvalidNameError: A name cannot be that of a workflow.
            TypeError: A time is neither a number nor a `timedelta`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        times = retention_times(days, failed, per, archive)
        await RetentionSettings(self._loops, session).set(times)

    async def retention(self, *, session: SessionOrConnection | None = None) -> RetentionRecord:
        """Return for how long ended workflows are kept, and the state of the deletion.

        Args:
            session: A caller's session or connection, in whose transaction the record is read.

        Returns:
            The record.

        Raises:
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await RetentionSettings(self._loops, session).get()

    async def purge(
        self,
        which: Selectable,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Delete workflows that have ended, each with its children and their children, now and for good.

        They are not archived; see `export_workflow`. A statement deletes up to 500 workflows with all their rows
        but their messages, which are deleted at the end of the call. So the call is safe to interrupt and to
        repeat. A workflow that another transaction has locked is tried again later, up to 30 seconds.

        Args:
            which: The workflows; see `cancel_workflows`.
            dry_run: True to delete nothing, and to return the report of the workflows that would be deleted.
            progress: A function that is called with the report so far after each chunk; none by default.
            session: A caller's session or connection: the workflows are gone when the caller commits.

        Returns:
            The report; `changed` is the number of the workflows that were deleted, without children that were not
            selected. A workflow is left if it has not ended, is a child of a workflow that stays, has a live
            child, is in a live batch, is counted by a throttle, or has replied within the last hour.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await purge(self._loops, which, dry_run=dry_run, progress=progress, session=session)

    async def export_workflow(self, workflow_id: int, *, session: SessionOrConnection | None = None) -> Document:
        """Return a workflow, its children and their children as one JSON document.

        The document of an archived workflow is that of the archive, which has no children.
        The document has the rows as they are, so a payload is JSON text in the codec that has written it; `format`
        is the version of the document.

        Args:
            workflow_id: The id of the workflow, which may be live.
            session: A caller's session or connection, in whose transaction the workflow is read.

        Returns:
            The document, which `json.dumps` accepts.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id, and none is archived.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Documents(self._loops, session).export(workflow_id)

    async def import_workflow(
        self,
        document: Mapping[str, Any],
        *,
        ids: Ids = "new",
        live: bool = False,
        session: SessionOrConnection | None = None,
    ) -> WorkflowHandle[Any]:
        """Write the workflows of a document of `export_workflow` or of the archive, all of them or none.

        They keep their times, so the retention may soon delete an old one again; a workflow that is resumed is
        kept. Without `live` a document with a workflow that has not ended is refused, because its steps would be
        executed a second time beside the first workflow.

        Args:
            document: The document.
            ids: ``"new"``, the default, for new ids: the recorded results of steps are not changed, and may have
                the old ids of children. ``"keep"`` for the ids of the document, if they are free, in the database
                that has given them out; handles from before then work again.
            live: Whether workflows that have not ended are accepted. They are ready, and a worker continues them.
                False by default.
            session: A caller's session or connection, in a transaction. The workflows are there when the caller
                commits.

        Returns:
            The handle of the workflow.

        Raises:
            ConfigurationError: The document is of another format, has live workflows, or ids that are not free.
            KeyTakenError: Another workflow has the key of one.
            CodecMismatchError: A live workflow is written with another codec than that of this `Admin`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Documents(self._loops, session).import_(document, ids=ids, live=live)

    async def set_queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        partition_concurrency: int | None = None,
        rate: Rate | None = None,
        partition_rate: Rate | None = None,
        weights: Mapping[str, float] | None = None,
        holds: Holds = "running",
        ordered: bool = False,
        fair: bool = True,
        session: SessionOrConnection | None = None,
    ) -> None:
        """Set the limits of a queue for all workers; they replace its earlier limits.

        A claim that begins after the commit follows the limits. Runs that are live then go on, and count. A queue
        without limits costs nothing: the call without limits deletes the row of the queue, unless it is paused.

        Args:
            name: The name of the queue.
            concurrency: Maximum runs of the queue at once, in all processes; no limit by default.
            partition_concurrency: Maximum runs of each partition key at once; no limit by default. See `options`.
            rate: Maximum rate of the starts of the queue, as in ``Rate(100, per=60, burst=20)``; no limit by
                default. A workflow counts when it is started for the first time.
            partition_rate: Maximum rate of the starts of each partition key; no limit by default.
            weights: The weights of partition keys, as in ``{"gold": 4}``: while several keys have ready workflows,
                a key with the weight 4 starts four times as many as a key with the weight 1, the default.
            holds: The time for which a workflow counts for `concurrency` and `partition_concurrency`.
                ``"running"``, the default: while it runs. ``"until_end"``: from its first start until its end,
                also while it sleeps, waits or is to be retried, so that a limit of 1 is a mutex.
            ordered: Whether the workflows of each partition key run one after the other, strictly in the order in
                which they were enqueued: the next one starts when the one before it has ended. This implies
                `partition_concurrency=1` and ``holds="until_end"``. Priorities have no effect. False by default.
            fair: Whether the partition keys are served in turn; True by default. With False the workflows are
                claimed by priority, then by age, whatever their keys; the limits of each key hold as well.
            session: A caller's session or connection, in any state. The limits take effect when the caller
                commits. By default they are committed before this method returns.

        Raises:
            InvalidNameError: The name or a partition key cannot be stored.
            ConfigurationError: A limit, a weight or a rate is out of range; or `holds` is ``"until_end"``
                without a limit of runs, or `partition_concurrency` is not 1 in an ordered queue, or `fair` is
                False with weights.
            TypeError: A limit is not an int, a rate is not a `Rate`, or a weight is not a number.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        limits = queue_limits(
            concurrency=concurrency,
            partition_concurrency=partition_concurrency,
            rate=rate,
            partition_rate=partition_rate,
            weights=weights,
            holds=holds,
            ordered=ordered,
            fair=fair,
        )
        await QueueSettings(self._loops, session).set(name, limits)

    async def pause_queue(self, name: str, *, session: SessionOrConnection | None = None) -> None:
        """Pause a queue: no worker claims its workflows until `resume_queue`; its runs go on.

        Args:
            name: The name of the queue.
            session: A caller's session or connection; see `set_queue`.

        Raises:
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await QueueSettings(self._loops, session).pause(name)

    async def resume_queue(self, name: str, *, session: SessionOrConnection | None = None) -> None:
        """End the pause of a queue; a queue that is not paused stays as it is.

        Args:
            name: The name of the queue.
            session: A caller's session or connection; see `set_queue`.

        Raises:
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await QueueSettings(self._loops, session).resume(name)

    async def delete_queue(self, name: str, *, session: SessionOrConnection | None = None) -> None:
        """Delete the limits and the pause of a queue; its workflows stay, and are claimed without a limit.

        Args:
            name: The name of the queue.
            session: A caller's session or connection; see `set_queue`.

        Raises:
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await QueueSettings(self._loops, session).delete(name)

    async def list_queues(self, *, session: SessionOrConnection | None = None) -> list[QueueRecord]:
        """Return the queues that have limits, are paused, or have workflows that are ready or running.

        The call counts all ready workflows, which takes a while if there are very many.

        Args:
            session: A caller's session or connection, in whose transaction the queues are read.

        Returns:
            The records, in the order of the names.

        Raises:
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await QueueSettings(self._loops, session).list()

    async def state(
        self,
        workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[Any]] | str,
        partition_key: str,
        *,
        session: SessionOrConnection | None = None,
    ) -> StateSnapshot:
        """Return the state that the workflows of a name and a partition key share, as `ctx.state`.

        No worker is necessary, and the state outlives the workflows.

        Args:
            workflow: A function decorated with `@workflow`, or the name of the workflow.
            partition_key: The partition key.
            session: A caller's session or connection, in whose transaction the state is read.

        Returns:
            The values by name; empty if no workflow has set one.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`.
            InvalidNameError: The name or the partition key cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await States(self._loops, session).read(workflow, partition_key)

    async def delete_state(
        self, workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[Any]] | str, partition_key: str
    ) -> int:
        """Delete the state that the workflows of a name and a partition key share.

        Args:
            workflow: A function decorated with `@workflow`, or the name of the workflow.
            partition_key: The partition key.

        Returns:
            The number of the values.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`.
            InvalidNameError: The name or the partition key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await States(self._loops).delete(workflow, partition_key)

    async def find_schedule(self, name: str) -> ScheduleHandle[Any]:
        """Return the handle of a schedule.

        Args:
            name: The name of the schedule.

        Returns:
            The handle.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            InvalidNameError: The name cannot be that of a schedule.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await find_schedule(self._loops, name)

    async def list_schedules(self) -> list[ScheduleRecord]:
        """Return the records of all schedules, by name.

        Returns:
            The records. Arguments that this `Admin` cannot read, as of another codec, are `Unreadable`.

        Raises:
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await list_schedules(self._loops)
