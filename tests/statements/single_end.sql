UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (NOT (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
OR coalesce(pgqrs.pgqrs_workflows.saga_state = 'OPEN', false))) THEN 'CANCELLED' WHEN ($1::TEXT IS NULL) THEN 'SUCCESS' ELSE 'ERROR' END, completed_at=now(), updated_at=now(), output=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
OR coalesce(pgqrs.pgqrs_workflows.saga_state = 'OPEN', false)) THEN CAST($2::TEXT AS JSON) END, error=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
OR coalesce(pgqrs.pgqrs_workflows.saga_state = 'OPEN', false)) THEN CAST($1::TEXT AS JSON) END, executor=NULL, deadline=NULL, cancel_interrupts=NULL
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $3::BIGINT
AND pgqrs.pgqrs_workflows.claim = $4::BIGINT
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS end_held
WHERE pgqrs.pgqrs_workflows.id = end_held.id
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
RETURNING CASE WHEN (pgqrs.pgqrs_workflows.status = 'CANCELLED') THEN -pgqrs.pgqrs_workflows.epoch ELSE pgqrs.pgqrs_workflows.epoch END AS epoch
