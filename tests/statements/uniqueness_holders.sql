SELECT pgqrs.pgqrs_workflows.unique_value, pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.token, pgqrs.pgqrs_workflows.epoch != 0 AS has_started
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.name = $1::TEXT
AND pgqrs.pgqrs_workflows.unique_value = any($2::TEXT[])
AND pgqrs.pgqrs_workflows.unique_value IS NOT NULL
AND pgqrs.pgqrs_workflows.completed_at IS NULL
AND (pgqrs.pgqrs_workflows.epoch = 0
OR NOT pgqrs.pgqrs_workflows.unique_until_start)
