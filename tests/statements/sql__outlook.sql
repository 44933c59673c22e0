SELECT pgqrs.pgqrs_workflows.id, pgqrs.pgqrs_workflows.epoch, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.ready_at IS NOT NULL
OR (EXISTS (SELECT *
FROM pgqrs.pgqrs_waits, pgqrs.pgqrs_messages
WHERE pgqrs.pgqrs_waits.workflow_id = pgqrs.pgqrs_workflows.id
AND pgqrs.pgqrs_messages.address = pgqrs.pgqrs_waits.address
AND pgqrs.pgqrs_messages.taken_at IS NULL)) AS anon_1, CAST(EXTRACT(epoch
FROM least(pgqrs.pgqrs_workflows.due_at, pgqrs.pgqrs_workflows.deadline) - now()) AS DOUBLE PRECISION) AS anon_2
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.status IN (__[POSTCOMPILE_status_1])
