INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT step_held.workflow_id, step_held.step_id, CASE WHEN (step_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (step_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_1, step_held.current_epoch, now() - step_held.elapsed * interval '1 second' AS anon_2, CASE WHEN (coalesce(step_held.output, step_held.error) IS NOT NULL) THEN now() END AS anon_3, CAST(step_held.output AS JSON) AS output, CAST(step_held.error AS JSON) AS error, step_held.fingerprint
FROM (SELECT step_rows.workflow_id AS workflow_id, step_rows.claim AS claim, step_rows.step_id AS step_id, step_rows.output AS output, step_rows.error AS error, step_rows.elapsed AS elapsed, step_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::DOUBLE PRECISION[], $7::BIGINT[]) AS step_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = step_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS step_held
WHERE step_held.current_claim = step_held.claim
ORDER BY step_held.workflow_id, step_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'step' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS step_id, pgqrs.pgqrs_workflow_steps.epoch AS epoch
