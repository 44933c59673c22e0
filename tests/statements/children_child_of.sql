SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.parent_id = $1::BIGINT
AND pgqrs.pgqrs_workflows.parent_step = $2::TEXT
AND pgqrs.pgqrs_workflows.place = 0
