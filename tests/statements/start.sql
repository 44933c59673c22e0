UPDATE pgqrs.pgqrs_workflows
SET status='RUNNING', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=start_held.claim, started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), completed_at=NULL, updated_at=now(), error=NULL, ready_at=NULL, due_at=NULL, executor=start_held.executor, retries=CASE WHEN (pgqrs.pgqrs_workflows.status = 'ERROR') THEN 0 ELSE pgqrs.pgqrs_workflows.retries END, deadline=coalesce(pgqrs.pgqrs_workflows.deadline, now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, start_held.timeout) * interval '1 second')
FROM (SELECT start_rows.workflow_id AS workflow_id, start_rows.claim AS claim, start_rows.executor AS executor, start_rows.timeout AS timeout, start_rows.codec AS codec, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::UUID[], $4::DOUBLE PRECISION[], $5::TEXT[]) AS start_rows(workflow_id, claim, executor, timeout, codec)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = start_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS start_held
WHERE pgqrs.pgqrs_workflows.id = start_held.workflow_id
AND pgqrs.pgqrs_workflows.claim IS DISTINCT
FROM start_held.claim
AND pgqrs.pgqrs_workflows.status IN ('PENDING', 'RUNNING', 'WAITING', 'ERROR')
AND (pgqrs.pgqrs_workflows.executor IS NULL
OR pgqrs.pgqrs_workflows.executor = start_held.executor
OR pgqrs.pgqrs_workflows.executor = '00000000-0000-0000-0000-000000000000'::uuid)
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM start_held.codec
RETURNING 'start' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS step_id, pgqrs.pgqrs_workflows.epoch AS epoch
