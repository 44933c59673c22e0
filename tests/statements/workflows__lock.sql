SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.executor
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
FOR NO KEY UPDATE
