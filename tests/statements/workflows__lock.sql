SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.saga_state, pgqrs.pgqrs_workflows.releases_key
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
FOR NO KEY UPDATE
