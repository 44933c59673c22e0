UPDATE pgqrs.pgqrs_workflows
SET deadline=CASE WHEN (coalesce($1::TEXT, 'OPEN') = 'OPEN') THEN pgqrs.pgqrs_workflows.deadline END, cancel_interrupts=CASE WHEN (coalesce($1::TEXT, 'OPEN') = 'OPEN') THEN pgqrs.pgqrs_workflows.cancel_interrupts END, saga_state=CASE WHEN (coalesce($1::TEXT, 'OPEN') != 'OPEN'
OR NOT coalesce(pgqrs.pgqrs_workflows.saga_state IS NOT NULL
AND pgqrs.pgqrs_workflows.saga_state != 'OPEN', false)) THEN $1::TEXT ELSE pgqrs.pgqrs_workflows.saga_state END
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $2::BIGINT
AND pgqrs.pgqrs_workflows.claim = $3::BIGINT
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS saga_held
WHERE pgqrs.pgqrs_workflows.id = saga_held.id
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
RETURNING pgqrs.pgqrs_workflows.epoch AS epoch
