SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.token
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
FOR NO KEY UPDATE
