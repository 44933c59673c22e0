DELETE
FROM pgqrs.pgqrs_waits
WHERE pgqrs.pgqrs_waits.workflow_id = $1::BIGINT
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
AND pgqrs.pgqrs_workflows.status = $2::TEXT))
