SELECT pgqrs.pgqrs_workflow_steps.workflow_id, pgqrs.pgqrs_workflow_steps.address, CAST(pgqrs.pgqrs_workflow_steps.output AS TEXT) AS output
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.address LIKE $1::TEXT
ORDER BY pgqrs.pgqrs_workflow_steps.completed_at, pgqrs.pgqrs_workflow_steps.workflow_id
