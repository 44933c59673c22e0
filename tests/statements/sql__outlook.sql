SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.ready_at IS NOT NULL AS anon_1, CAST(EXTRACT(epoch
FROM pgqrs.pgqrs_workflows.due_at - now()) AS DOUBLE PRECISION) AS anon_2
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.status IN (__[POSTCOMPILE_status_1])
