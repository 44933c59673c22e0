INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error, fingerprint) SELECT $1::BIGINT AS anon_1, $2::TEXT AS anon_2, CASE WHEN ($3::TEXT IS NOT NULL) THEN 'SUCCESS' WHEN ($4::TEXT IS NOT NULL) THEN 'ERROR' ELSE 'RUNNING' END AS anon_3, new_held.current_epoch, now() - $5::FLOAT * interval '1 second' AS anon_4, CASE WHEN (coalesce($3::TEXT, $4::TEXT) IS NOT NULL) THEN now() END AS anon_5, CAST($3::TEXT AS JSON) AS anon_6, CAST($4::TEXT AS JSON) AS anon_7, $6::BIGINT AS anon_8
FROM (SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.epoch AS current_epoch
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND pgqrs.pgqrs_workflows.claim = $7::BIGINT
AND pgqrs.pgqrs_workflows.cancel_interrupts IS NULL
FOR SHARE OF pgqrs_workflows SKIP LOCKED) AS new_held
WHERE true
RETURNING pgqrs.pgqrs_workflow_steps.epoch AS epoch
