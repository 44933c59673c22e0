SELECT pgqrs.pgqrs_workflow_steps.step_id
FROM pgqrs.pgqrs_workflow_steps
WHERE pgqrs.pgqrs_workflow_steps.workflow_id = $1::BIGINT
