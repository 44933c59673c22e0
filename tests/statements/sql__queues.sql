SELECT DISTINCT pgqrs.pgqrs_workflows.queue
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.status IN (__[POSTCOMPILE_status_1])
AND pgqrs.pgqrs_workflows.queue IS NOT NULL
AND NOT (EXISTS (SELECT *
FROM pgqrs.pgqrs_queues
WHERE pgqrs.pgqrs_queues.name = pgqrs.pgqrs_workflows.queue
AND pgqrs.pgqrs_queues.paused_at IS NOT NULL))
AND (pgqrs.pgqrs_workflows.ready_at IS NOT NULL
OR pgqrs.pgqrs_workflows.due_at IS NOT NULL
OR pgqrs.pgqrs_workflows.status = $1::TEXT
AND pgqrs.pgqrs_workflows.deadline IS NOT NULL)
