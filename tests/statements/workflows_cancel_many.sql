WITH held AS
(SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.executor AS executor, pgqrs.pgqrs_workflows.token AS token, pgqrs.pgqrs_workflows.saga_state AS saga_state, pgqrs.pgqrs_workflows.cancel_interrupts AS cancel_interrupts
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($2::TEXT AS BIGINT[]) AS anon_1), '{}'))
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE SKIP LOCKED),
asked AS
(UPDATE pgqrs.pgqrs_workflows
SET cancel_interrupts=(coalesce(pgqrs.pgqrs_workflows.cancel_interrupts, false)
OR $1::BOOLEAN)
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.status = 'RUNNING'
AND (held.saga_state IS NULL
OR held.saga_state = 'OPEN')),
cancelled AS
(UPDATE pgqrs.pgqrs_workflows
SET status=$3::TEXT, completed_at=now(), updated_at=now(), ready_at=NULL, due_at=NULL, deadline=NULL, cancel_interrupts=NULL
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.status IN ('PENDING', 'WAITING')
AND held.saga_state IS NULL
RETURNING pgqrs.pgqrs_workflows.id),
unwinding AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=coalesce(pgqrs.pgqrs_workflows.ready_at, now()), due_at=NULL, deadline=NULL, cancel_interrupts=NULL, saga_state='CANCELLED'
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.status IN ('PENDING', 'WAITING')
AND held.saga_state = 'OPEN'
RETURNING pgqrs.pgqrs_workflows.id),
waits_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(cancelled.id) AS array_agg_1
FROM cancelled), '{}'))),
also_dropped AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(unwinding.id) AS array_agg_2
FROM unwinding), '{}')))
 SELECT held.id, held.name, held.status, held.executor, held.token, held.saga_state, held.cancel_interrupts
FROM held
