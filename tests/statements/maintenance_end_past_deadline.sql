WITH held AS
(SELECT pgqrs.pgqrs_workflows.id AS id, timed_out.error AS error, pgqrs.pgqrs_workflows.saga_state AS saga_state
FROM unnest($1::BIGINT[], $2::TEXT[]) AS timed_out(id, error)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = timed_out.id
WHERE pgqrs.pgqrs_workflows.deadline < now()
AND pgqrs.pgqrs_workflows.epoch < 9223372036854775807
AND (pgqrs.pgqrs_workflows.saga_state IS NULL
OR pgqrs.pgqrs_workflows.executor IS NULL
AND NOT (pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN'))
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED),
handed AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=coalesce(pgqrs.pgqrs_workflows.ready_at, now()), due_at=NULL, deadline=NULL, cancel_interrupts=NULL, saga_state='TIMED_OUT'
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.saga_state IS NOT NULL),
dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(held.id) AS array_agg_1
FROM held), '{}')))
 UPDATE pgqrs.pgqrs_workflows
SET status='ERROR', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=NULL, completed_at=now(), updated_at=now(), error=CAST(held.error AS JSON), ready_at=NULL, due_at=NULL, executor=NULL, deadline=NULL, cancel_interrupts=NULL
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.saga_state IS NULL
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.queue
