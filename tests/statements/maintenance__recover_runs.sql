WITH lost AS
(SELECT pgqrs.pgqrs_workflows.id AS id
FROM (SELECT pgqrs.pgqrs_executors.id AS id
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.stopped_at IS NOT NULL
OR $1::BOOLEAN
AND pg_catalog.pg_postmaster_start_time() < pg_catalog.now() - interval '3.0 second'
AND (pgqrs.pgqrs_executors.suspected_at < pg_catalog.now() - interval '0.8 second'
AND (NOT (pgqrs.pgqrs_executors.lock_key IS NULL
OR (EXISTS (SELECT *
FROM pg_catalog.pg_locks
WHERE pg_catalog.pg_locks.locktype = 'advisory'
AND pg_catalog.pg_locks.granted
AND pg_catalog.pg_locks.database = (SELECT pg_catalog.pg_database.oid
FROM pg_catalog.pg_database
WHERE pg_catalog.pg_database.datname = pg_catalog.current_database())
AND pg_catalog.pg_locks.objsubid = 1
AND ((CAST(pg_catalog.pg_locks.classid AS BIGINT) << 32) | CAST(pg_catalog.pg_locks.objid AS BIGINT)) = pgqrs.pgqrs_executors.lock_key
AND (pgqrs.pgqrs_executors.backend_pid IS NULL
OR pg_catalog.pg_locks.pid = pgqrs.pgqrs_executors.backend_pid))))
OR pgqrs.pgqrs_executors.lock_key IS NULL
AND pgqrs.pgqrs_executors.expires_at < pg_catalog.now())
OR pgqrs.pgqrs_executors.suspected_at < pg_catalog.now() - coalesce(pgqrs.pgqrs_executors.expiry, 15.0) * interval '3.0 second'
AND pgqrs.pgqrs_executors.expires_at < pg_catalog.now())
UNION SELECT '00000000-0000-0000-0000-000000000000'::uuid AS id
UNION SELECT pgqrs.pgqrs_workflows.executor AS executor
FROM pgqrs.pgqrs_workflows
WHERE $2::BOOLEAN
AND pgqrs.pgqrs_workflows.executor IS NOT NULL
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_executors
WHERE pgqrs.pgqrs_executors.id = pgqrs.pgqrs_workflows.executor))) AS dead
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.executor = dead.id
WHERE pgqrs.pgqrs_workflows.epoch < 9223372036854775807

LIMIT 2000
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED)
 UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' ELSE 'PENDING' END, epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=NULL, completed_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN now() END, updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL) THEN now() END, due_at=NULL, executor=NULL, attempts=CASE WHEN ((SELECT 1
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_workflow_steps.epoch = pgqrs.pgqrs_workflows.epoch
AND pgqrs.pgqrs_workflow_steps.status != 'RUNNING'

LIMIT 1) IS NOT NULL) THEN 0 ELSE pgqrs.pgqrs_workflows.attempts END, deadline=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL) THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=NULL
FROM lost
WHERE pgqrs.pgqrs_workflows.id = lost.id
RETURNING pgqrs.pgqrs_workflows.id
