UPDATE pgqrs.pgqrs_workflows
SET status=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NOT NULL) THEN 'CANCELLED' WHEN (end_held.error IS NULL) THEN 'SUCCESS' ELSE 'ERROR' END, completed_at=now(), updated_at=now(), output=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL) THEN CAST(end_held.output AS JSON) END, error=CASE WHEN (pgqrs.pgqrs_workflows.cancel_interrupts IS NULL) THEN CAST(end_held.error AS JSON) END, executor=NULL, deadline=NULL, cancel_interrupts=NULL
FROM (SELECT end_rows.workflow_id AS workflow_id, end_rows.claim AS claim, end_rows.output AS output, end_rows.error AS error, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[]) AS end_rows(workflow_id, claim, output, error)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = end_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE OF pgqrs_workflows SKIP LOCKED) AS end_held
WHERE pgqrs.pgqrs_workflows.id = end_held.workflow_id
AND end_held.current_claim = end_held.claim
AND pgqrs.pgqrs_workflows.status = 'RUNNING'
RETURNING 'end' AS kind, pgqrs.pgqrs_workflows.id AS workflow_id, CAST(NULL AS TEXT) AS step_id, CASE WHEN (pgqrs.pgqrs_workflows.status = 'CANCELLED') THEN -pgqrs.pgqrs_workflows.epoch ELSE pgqrs.pgqrs_workflows.epoch END AS epoch
