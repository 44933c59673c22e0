SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.codec, CAST(pgqrs.pgqrs_workflows.input AS TEXT) AS input, pgqrs.pgqrs_workflows.epoch != 0
OR pgqrs.pgqrs_workflows.completed_at IS NOT NULL AS has_started, pgqrs.pgqrs_workflows.ready_at IS NOT NULL AS is_ready
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($1::TEXT AS BIGINT[]) AS anon_1), '{}'))
