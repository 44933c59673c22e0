INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT last_held.workflow_id, last_held.step_id, CASE WHEN (last_held.output IS NOT NULL) THEN 'SUCCESS' WHEN (last_held.error IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_1, last_held.current_epoch, clock_timestamp() - last_held.elapsed * interval '1 second' AS anon_2, CASE WHEN (coalesce(last_held.output, last_held.error) IS NOT NULL) THEN clock_timestamp() END AS anon_3, CAST(last_held.output AS JSON) AS output, CAST(last_held.error AS JSON) AS error, last_held.fingerprint
FROM (SELECT last_rows.workflow_id AS workflow_id, last_rows.claim AS claim, last_rows.step_id AS step_id, last_rows.output AS output, last_rows.error AS error, last_rows.elapsed AS elapsed, last_rows.fingerprint AS fingerprint, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::DOUBLE PRECISION[], $7::BIGINT[]) AS last_rows(workflow_id, claim, step_id, output, error, elapsed, fingerprint)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = last_rows.workflow_id
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS last_held
WHERE last_held.current_claim = last_held.claim
ORDER BY last_held.workflow_id, last_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = excluded.completed_at, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING 'last' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS step_id, pgqrs.pgqrs_workflow_steps.epoch AS epoch
