SELECT pgqrs.pgqrs_workflow_steps.step_id, CAST(EXTRACT(epoch
FROM now() - pgqrs.pgqrs_workflow_steps.completed_at) AS DOUBLE PRECISION) AS age
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = $1::BIGINT
ORDER BY pgqrs.pgqrs_workflow_steps.completed_at, pgqrs.pgqrs_workflow_steps.step_id
