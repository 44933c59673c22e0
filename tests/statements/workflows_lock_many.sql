SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.name, pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.saga_state, pgqrs.pgqrs_workflows.releases_key, pgqrs.pgqrs_workflows.unique_value, pgqrs.pgqrs_workflows.batch_id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($1::TEXT AS BIGINT[]) AS anon_1), '{}'))
ORDER BY pgqrs.pgqrs_workflows.id
FOR NO KEY UPDATE SKIP LOCKED
