INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, error, fingerprint, failures, retry_at) SELECT failure_held.workflow_id, failure_held.step_id, 'RUNNING', failure_held.current_epoch, now() - failure_held.elapsed * interval '1 second' AS anon_1, CAST(failure_held.error AS JSON) AS error, failure_held.fingerprint, failure_held.failures, now() + failure_held.delay * interval '1 second' AS anon_2
FROM (SELECT failure_rows.workflow_id AS workflow_id, failure_rows.claim AS claim, failure_rows.step_id AS step_id, failure_rows.error AS error, failure_rows.elapsed AS elapsed, failure_rows.fingerprint AS fingerprint, failure_rows.failures AS failures, failure_rows.delay AS delay, pgqrs.pgqrs_workflows.epoch AS current_epoch, pgqrs.pgqrs_workflows.claim AS current_claim
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::DOUBLE PRECISION[], $6::BIGINT[], $7::BIGINT[], $8::DOUBLE PRECISION[]) AS failure_rows(workflow_id, claim, step_id, error, elapsed, fingerprint, failures, delay)
JOIN pgqrs.pgqrs_workflows ON pgqrs.pgqrs_workflows.id = failure_rows.workflow_id
WHERE pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
ORDER BY pgqrs.pgqrs_workflows.id
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS failure_held
WHERE failure_held.current_claim = failure_held.claim
ORDER BY failure_held.workflow_id, failure_held.step_id
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = NULL, output = NULL, error = excluded.error, fingerprint = excluded.fingerprint, failures = excluded.failures, retry_at = excluded.retry_at
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
AND NOT (pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch
AND pgqrs.pgqrs_workflow_steps.failures >= excluded.failures)
RETURNING 'failure' AS kind, pgqrs.pgqrs_workflow_steps.workflow_id AS workflow_id, pgqrs.pgqrs_workflow_steps.step_id AS step_id, pgqrs.pgqrs_workflow_steps.epoch AS epoch
