INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output, error, fingerprint, retry_at) SELECT $1::BIGINT AS anon_1, $2::TEXT AS anon_2, 'RUNNING', wait_held.current_epoch, now() - $3::FLOAT * interval '1 second' AS anon_3, CAST($4::TEXT AS JSON) AS anon_4, CAST($5::TEXT AS JSON) AS anon_5, $6::BIGINT AS anon_6, now() + $7::FLOAT * interval '1 second' AS anon_7
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND pgqrs.pgqrs_workflows.claim = $8::BIGINT
AND pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS wait_held
WHERE true
ON CONFLICT (workflow_id, step_id)
DO UPDATE
SET status = excluded.status, epoch = excluded.epoch, reopened = false, started_at = excluded.started_at, completed_at = NULL, output = excluded.output, error = excluded.error, fingerprint = excluded.fingerprint, failures = 0, retry_at = excluded.retry_at
WHERE pgqrs.pgqrs_workflow_steps.status != 'SUCCESS'
AND (pgqrs.pgqrs_workflow_steps.epoch < excluded.epoch
OR pgqrs.pgqrs_workflow_steps.status = 'RUNNING'
AND pgqrs.pgqrs_workflow_steps.epoch = excluded.epoch)
RETURNING pgqrs.pgqrs_workflow_steps.epoch AS epoch
