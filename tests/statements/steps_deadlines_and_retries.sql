SELECT own.id, own.seconds_left, own.retries, own.generation, own.saga_state
FROM pg_catalog.unnest(CAST($1::TEXT AS BIGINT[])) AS given(id)
JOIN LATERAL (SELECT pgqrs.pgqrs_workflows.id AS id, CAST(EXTRACT(epoch
FROM pgqrs.pgqrs_workflows.deadline - now()) AS DOUBLE PRECISION) AS seconds_left, pgqrs.pgqrs_workflows.retries AS retries, pgqrs.pgqrs_workflows.generation AS generation, pgqrs.pgqrs_workflows.saga_state AS saga_state
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = given.id

LIMIT 1) AS own ON true
