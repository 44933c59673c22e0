SELECT CAST(EXTRACT(epoch
FROM pgqrs.pgqrs_workflows.deadline - now()) AS DOUBLE PRECISION) AS seconds_left, pgqrs.pgqrs_workflows.retries, pgqrs.pgqrs_workflows.generation, pgqrs.pgqrs_workflows.saga_state
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
