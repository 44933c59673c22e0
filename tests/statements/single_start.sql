WITH start_done AS
(UPDATE pgqrs.pgqrs_workflows
SET status='RUNNING', epoch=(pgqrs.pgqrs_workflows.epoch + 1), claim=$1::BIGINT, started_at=coalesce(pgqrs.pgqrs_workflows.started_at, now()), completed_at=NULL, updated_at=now(), error=NULL, ready_at=NULL, due_at=NULL, executor=$2::UUID, retries=CASE WHEN (pgqrs.pgqrs_workflows.status = 'ERROR') THEN 0 ELSE pgqrs.pgqrs_workflows.retries END, deadline=CASE WHEN (pgqrs.pgqrs_workflows.started_at IS NULL) THEN least(pgqrs.pgqrs_workflows.deadline, now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, $3::FLOAT) * interval '1 second') ELSE coalesce(pgqrs.pgqrs_workflows.deadline, now() + coalesce(CASE WHEN (pgqrs.pgqrs_workflows.timeout IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_workflows.timeout, 0), 3153600000.0) END, $3::FLOAT) * interval '1 second') END
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $4::BIGINT
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS start_held
WHERE pgqrs.pgqrs_workflows.id = start_held.id
AND pgqrs.pgqrs_workflows.claim IS DISTINCT
FROM $1::BIGINT
AND pgqrs.pgqrs_workflows.status IN ('PENDING', 'RUNNING', 'WAITING', 'ERROR')
AND (pgqrs.pgqrs_workflows.executor IS NULL
OR pgqrs.pgqrs_workflows.executor = $2::UUID
OR pgqrs.pgqrs_workflows.executor = '00000000-0000-0000-0000-000000000000'::uuid)
AND pgqrs.pgqrs_workflows.codec IS NOT DISTINCT
FROM $5::TEXT
AND pgqrs.pgqrs_workflows.token IS NOT DISTINCT
FROM coalesce($6::BIGINT, pgqrs.pgqrs_workflows.token)
RETURNING pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.epoch),
start_waits AS
(DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = any(coalesce((SELECT pg_catalog.array_agg(start_done.id) AS array_agg_1
FROM start_done), '{}')))
 SELECT start_done.epoch
FROM start_done
