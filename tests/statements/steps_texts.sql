SELECT pgqrs.pgqrs_workflow_steps.step_id, CAST(pgqrs.pgqrs_workflow_steps.output AS TEXT) AS output, CAST(pgqrs.pgqrs_workflow_steps.error AS TEXT) AS error
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = $1::BIGINT
AND pgqrs.pgqrs_workflow_steps.step_id = any($2::TEXT[])
